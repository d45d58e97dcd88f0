"""draftgraph: language models generate faster, without changing what they generate.

The names below are imported when they are first used (PEP 562): torch and transformers take seconds.
"""

from __future__ import annotations

import gc
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from draftgraph.errors import DraftgraphError

if TYPE_CHECKING:
    from draftgraph import structures
    from draftgraph.draft.base import Drafter
    from draftgraph.draft.graph import DraftGraph
    from draftgraph.draft.terms import Draft
    from draftgraph.engine.config import Config
    from draftgraph.engine.engine import Engine
    from draftgraph.engine.serving import Serving
    from draftgraph.integrations.transformers_generate import custom_generate
    from draftgraph.lab.prove.prover import prove
    from draftgraph.request.beams import BeamResult
    from draftgraph.request.result import Event, Result
    from draftgraph.sampling.beam_params import BeamParams
    from draftgraph.sampling.grammar import Grammar, Matcher
    from draftgraph.sampling.params import SamplingParams
    from draftgraph.types import ROOT, Outcome, TokenTree, Verdict
    from draftgraph.verification.base import Accepts, Rule
    from draftgraph.verification.check import verify
    from draftgraph.verification.registry import rules

__version__ = "0.1.0"

__all__ = [
    "ROOT",
    "Accepts",
    "BeamParams",
    "BeamResult",
    "Config",
    "Draft",
    "DraftGraph",
    "Drafter",
    "DraftgraphError",
    "Engine",
    "Event",
    "Grammar",
    "Matcher",
    "Outcome",
    "Result",
    "Rule",
    "SamplingParams",
    "Serving",
    "TokenTree",
    "Verdict",
    "custom_generate",
    "prove",
    "rules",
    "structures",
    "verify",
]

_HOMES = {
    "ROOT": "types",
    "Accepts": "verification.base",
    "BeamParams": "sampling.beam_params",
    "BeamResult": "request.beams",
    "Config": "engine.config",
    "Draft": "draft.terms",
    "DraftGraph": "draft.graph",
    "Drafter": "draft.base",
    "Engine": "engine.engine",
    "Event": "request.result",
    "Grammar": "sampling.grammar",
    "Matcher": "sampling.grammar",
    "Outcome": "types",
    "Result": "request.result",
    "Rule": "verification.base",
    "SamplingParams": "sampling.params",
    "Serving": "engine.serving",
    "TokenTree": "types",
    "Verdict": "types",
    "custom_generate": "integrations.transformers_generate",
    "prove": "lab.prove.prover",
    "rules": "verification.registry",
    "verify": "verification.check",
}
"""The module of every name that is imported late."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(_imported(f"draftgraph.{_HOMES[name]}"), name)
        globals()[name] = value  # the next use is as quick as any other
        return value
    if not name.startswith("_"):
        try:  # a module, as `draftgraph.errors` after `import draftgraph`
            return import_module(f"draftgraph.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"draftgraph.{name}":
                raise
    raise AttributeError(f"module 'draftgraph' has no attribute {name!r}")


def _imported(name: str) -> ModuleType:
    """A module. Nothing is collected meanwhile: imports leave next to no garbage, and a fifth of their time is looking for it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        if collecting:
            gc.enable()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
