"""draftgraph: language models generate faster, without changing what they generate."""

from draftgraph.config import Config
from draftgraph.engine.engine import Engine
from draftgraph.errors import DraftgraphError
from draftgraph.integrations.transformers_generate import custom_generate
from draftgraph.lab.prove.exact import prove
from draftgraph.request.result import Event, Result
from draftgraph.sampling.params import SamplingParams
from draftgraph.types import Outcome, TokenTree, Verdict
from draftgraph.verification.base import Rule
from draftgraph.verification.check import verify
from draftgraph.verification.registry import rules

__version__ = "0.1.0"

__all__ = [
    "Config",
    "DraftgraphError",
    "Engine",
    "Event",
    "Outcome",
    "Result",
    "Rule",
    "SamplingParams",
    "TokenTree",
    "Verdict",
    "custom_generate",
    "prove",
    "rules",
    "verify",
]
