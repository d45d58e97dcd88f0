"""The costs of an engine's pair: kept from an earlier process, or measured on the engine itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from draftgraph.cost_cache import costs_of, fingerprint
from draftgraph.costs import Costs
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.model import ModelDrafter
from draftgraph.params import SamplingParams
from draftgraph.target.hf import HFModel
from draftgraph.timing import measure
from draftgraph.trace import RoundRecord

if TYPE_CHECKING:
    from draftgraph.engine import Engine


def engine_costs(engine: Engine) -> Costs:
    """Costs of `engine`, whose budget is "auto", for the structure and rule that it has."""
    config, model = engine.config, getattr(engine.drafter, "model", None)
    subject = [fingerprint(engine.target.model), "lookup" if model is None else fingerprint(model.model)]
    subject += [config.resolved_structure, config.resolved_rule.name, f"{config.edges} {config.read_ahead}"]
    subject += [f"{one.model.dtype} {one.config._attn_implementation}" for one in (engine.target, model) if one]

    def run(budget: int, prompt: Sequence[int], tokens: int, temperature: float) -> Sequence[RoundRecord]:
        params = SamplingParams(max_new_tokens=tokens, temperature=temperature, ignore_eos=True, seed=1)
        return _fixed(engine, budget).generate(list(prompt), params).rounds

    return costs_of(subject, engine.target.device, lambda: measure(engine.target, model, run))


def _fixed(engine: Engine, budget: int) -> Engine:
    """The engine with a fixed budget; it shares the models."""
    config = engine.config.with_options(budget=budget, num_speculative_tokens=None)
    model: HFModel | None = getattr(engine.drafter, "model", None)
    drafter = LookupDrafter(config) if model is None else ModelDrafter(model, config, engine.target.vocab_size)
    return type(engine)(engine.target, drafter, config, None, frozenset())
