"""draftgraph demo: one prompt plain and drafted, greedy and sampled, with both speeds and a picture."""

from __future__ import annotations

from draftgraph.cli.program import app
from draftgraph.data import bundled_pair


@app.command("demo")
def demo_command() -> None:
    """Decode one prompt with the bundled pair, plain and drafted, and draw a round; half a minute."""
    from draftgraph.cli.work import demo

    demo.show(*bundled_pair())
