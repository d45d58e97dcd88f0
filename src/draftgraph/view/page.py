"""A trace as one HTML page that needs nothing else: no network, no library, no build.

Everything that comes from a model is data inside the page: it cannot end the script that holds it, and the page writes it
as text only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files

from draftgraph.request.stats import PARTS
from draftgraph.view.terminal import tokens_per_second
from draftgraph.view.tracefile import Trace

_PLACE = "/* the trace */"
_DRAWING = ("graph.css", "graph.js")
"""How a round's draft graph looks and is drawn, for every page that shows one."""
_UNSAFE = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}
"""What could end a script or begin a comment in it; inside JSON strings the escapes mean the same."""


def html(trace: Trace, start: int = 1) -> str:
    """The page of a trace, which opens at round `start`."""
    values = asdict(trace) | {
        "seed": str(trace.seed),  # it may be beyond what JavaScript's numbers hold
        "parts": PARTS,
        "speed": tokens_per_second(trace.stats),
        "start": start,
    }
    template = files("draftgraph.view").joinpath("page.html").read_text(encoding="utf-8")
    before, after = with_drawing(template).split(_PLACE)
    return before + json.dumps(values, separators=(",", ":")).translate(_UNSAFE) + after


def with_drawing(template: str) -> str:
    """A page with the style and the script that draw a round's graph."""
    return with_files(template, "draftgraph.view", _DRAWING)


def with_files(template: str, package: str, names: Sequence[str]) -> str:
    """A page in which the comments that name a file of the package, `/* graph.js */`, are replaced by the file."""
    for name in names:
        template = template.replace(f"/* {name} */", files(package).joinpath(name).read_text(encoding="utf-8"))
    return template
