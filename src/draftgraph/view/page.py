"""A trace as one HTML page that needs nothing else: no network, no library, no build.

Everything that comes from a model is data inside the page: it cannot end the script that holds it, and the page writes it
as text only.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files

from draftgraph.request.stats import PARTS
from draftgraph.view.terminal import tokens_per_second
from draftgraph.view.tracefile import Trace

_PLACE = "/* the trace */"
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
    before, after = template.split(_PLACE)
    return before + json.dumps(values, separators=(",", ":")).translate(_UNSAFE) + after
