"""The costs of a pair: kept from an earlier process, or measured on an engine that decodes with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from draftgraph.backends.base import CausalLM
from draftgraph.budget.cost_cache import costs_of
from draftgraph.budget.costs import Costs
from draftgraph.budget.timing import measure
from draftgraph.draft.drafter import Drafter
from draftgraph.engine.config import Config
from draftgraph.request.record import RoundRecord
from draftgraph.sampling.params import SamplingParams

Decode = Callable[[Drafter, Config, Sequence[int], SamplingParams], Sequence[RoundRecord]]
"""decode(drafter, config, prompt, params) -> the rounds of a request to an engine of the same target."""


def pair_costs(target: CausalLM, drafter: Drafter, config: Config, decode: Decode) -> Costs:
    """What rounds cost for the structure and rule of `config`. A drafter without an identity is measured every time."""

    def run(budget: int, prompt: Sequence[int], tokens: int, temperature: float) -> Sequence[RoundRecord]:
        fixed = config.with_options(budget=budget, num_speculative_tokens=None)
        params = SamplingParams(max_new_tokens=tokens, temperature=temperature, ignore_eos=True, seed=1)
        return decode(drafter.fresh(), fixed, list(prompt), params)

    def measured() -> Costs:
        return measure(target, drafter.model, run)

    if drafter.identity is None:
        return replace(measured(), note="measured now")
    models = [model for model in (target, drafter.model) if model is not None]
    subject = [
        drafter.identity,
        *(model.fingerprint for model in models),
        repr(config.resolved_structure),
        config.resolved_rule.name,
    ]
    return costs_of(subject, target.device, measured)
