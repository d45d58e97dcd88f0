"""The costs of a pair: kept from an earlier process, or measured on an engine that decodes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from draftgraph.backends.base import CausalLM
from draftgraph.budget.cost_cache import announce, costs_of, file_of
from draftgraph.budget.costs import Costs
from draftgraph.budget.timing import Run, measure
from draftgraph.draft.base import Drafter
from draftgraph.engine.config import Config
from draftgraph.engine.strategy import may_narrow
from draftgraph.request.record import RoundRecord
from draftgraph.sampling.params import SamplingParams

Decode = Callable[[Drafter, Config, Sequence[int], SamplingParams], Sequence[RoundRecord]]
"""decode(drafter, config, prompt, params) -> the rounds of a request to an engine of the same target."""


def pair_costs(target: CausalLM, drafter: Drafter, config: Config, decode: Decode, refresh: bool = False) -> Costs:
    """What rounds cost for the structure and rule of `config`. A drafter without an identity is measured every time.

    refresh  whether to measure even if costs are kept.
    """

    def runs(options: Mapping[str, Any]) -> Run:
        def run(budget: int, prompt: Sequence[int], tokens: int, temperature: float) -> Sequence[RoundRecord]:
            fixed = config.with_options(budget=budget, num_speculative_tokens=None, **options)
            params = SamplingParams(max_new_tokens=tokens, temperature=temperature, ignore_eos=True, seed=1)
            return decode(drafter.fresh(), fixed, list(prompt), params)

        return run

    def measured() -> Costs:
        chains = runs({"structure": "chain"}) if may_narrow(config, drafter) else None
        return measure(target, drafter.model, runs({}), config.drafts_chains, chains)

    subject = _subject(target, drafter, config)
    if subject is None:
        announce(None, "")
        return replace(measured(), note="measured now")
    return costs_of(subject, target.device, measured, refresh)


def costs_file(target: CausalLM, drafter: Drafter, config: Config) -> Path | None:
    """Where the costs of a pair are kept. None if they are not: without a folder, and for a drafter without an identity."""
    subject = _subject(target, drafter, config)
    return None if subject is None else file_of(subject, target.device)


def _subject(target: CausalLM, drafter: Drafter, config: Config) -> list[str] | None:
    """What the costs depend on beside the machine; None for a drafter without an identity."""
    if drafter.identity is None:
        return None
    models = [model for model in (target, drafter.model) if model is not None]
    names = [model.fingerprint for model in models]
    forms = ["or a chain"] if may_narrow(config, drafter) else []
    return [drafter.identity, *names, repr(config.resolved_structure), *forms, config.resolved_rule.name]
