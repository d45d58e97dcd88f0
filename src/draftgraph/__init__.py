"""draftgraph: language models generate faster, without changing what they generate."""

from draftgraph import structures
from draftgraph.draft.base import Draft
from draftgraph.draft.drafter import Drafter
from draftgraph.draft.graph import DraftGraph
from draftgraph.engine.config import Config
from draftgraph.engine.engine import Engine
from draftgraph.errors import DraftgraphError
from draftgraph.integrations.transformers_generate import custom_generate
from draftgraph.lab.prove.prover import prove
from draftgraph.request.result import Event, Result
from draftgraph.sampling.params import SamplingParams
from draftgraph.types import ROOT, Outcome, TokenTree, Verdict
from draftgraph.verification.base import Accepts, Rule
from draftgraph.verification.check import verify
from draftgraph.verification.registry import rules

__version__ = "0.1.0"

__all__ = [
    "ROOT",
    "Accepts",
    "Config",
    "Draft",
    "DraftGraph",
    "Drafter",
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
    "structures",
    "verify",
]
