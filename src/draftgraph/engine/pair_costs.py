"""The costs of a pair: kept from an earlier process, or measured on an engine that decodes with it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.budget.cost_cache import announce, costs_of, file_of
from draftgraph.budget.costs import Costs, Drafts
from draftgraph.budget.timing import CONTEXT, Run, measure
from draftgraph.draft.base import Drafter
from draftgraph.engine.config import Config
from draftgraph.engine.strategy import may_narrow
from draftgraph.request.record import RoundRecord
from draftgraph.sampling.params import SamplingParams

REPEATS = 7
"""Times that a block is read to time it."""
Decode = Callable[[Drafter, Config, Sequence[int], SamplingParams], Sequence[RoundRecord]]
"""decode(drafter, config, prompt, params) -> the rounds of a request to an engine of the same target."""


def pair_costs(target: CausalLM, drafter: Drafter, config: Config, decode: Decode, refresh: bool = False) -> Costs:
    """What rounds cost for the structure and rule of `config`, whatever its budget: a request may ask for the automatic one.

    A drafter without an identity is measured every time. The models learn what a change of the size of their passes costs.

    refresh  whether to measure even if costs are kept.
    """
    config = config.with_options(budget="auto")

    def runs(options: Mapping[str, Any]) -> Run:
        def run(budget: int, prompt: Sequence[int], tokens: int, temperature: float) -> Sequence[RoundRecord]:
            fixed = config.with_options(budget=budget, num_speculative_tokens=None, schedule="sequential", **options)
            temperature = 0.0 if config.resolved_rule.greedy else temperature
            params = SamplingParams(max_new_tokens=tokens, temperature=temperature, ignore_eos=True, seed=1)
            return decode(drafter.fresh(), fixed, list(prompt), params)

        return run

    def measured() -> Costs:
        for model in (target, drafter.model):
            if model is not None:
                model.settle()
        chains = runs({"structure": "chain"}) if may_narrow(config, drafter) else None
        found = measure(target, drafter.model, runs({}), config.drafts_chains, chains, config.prices_paths)
        if drafter.model is None or drafter.depths is None:
            return found
        return _with_block(found, block_seconds(drafter.model))

    subject = _subject(target, drafter, config)
    if subject is None:
        announce(None, "")
        costs = replace(measured(), note="measured now")
    else:
        costs = costs_of(subject, target.device, measured, refresh)
    for model, cost in ((target, costs.target), (drafter.model, costs.drafter)):
        if model is not None and cost is not None and cost.change_rows:
            model.price_change(cost.change_rows)
    return costs


def _with_block(costs: Costs, seconds: float) -> Costs:
    """Costs of a block drafter, which reads a block once per round; what its passes cost beside that was measured."""

    def more(drafts: Drafts | None) -> Drafts | None:
        return (
            None if drafts is None else replace(drafts, overhead=(drafts.overhead[0] + seconds, *drafts.overhead[1:]))
        )

    own = replace(costs, overhead=(costs.overhead[0] + seconds, *costs.overhead[1:]), block=seconds)
    greedy, chains = more(costs.greedy), more(costs.chains)
    return replace(own, greedy=greedy, chains=chains, greedy_chains=more(costs.greedy_chains))


@torch.inference_mode()
def block_seconds(model: CausalLM) -> float:
    """What the pass takes in which a block drafter reads a token and a block, in seconds: the median of a few."""
    text, seconds = model.open(CONTEXT + REPEATS), []
    try:
        model.forward([Feed(text, [1 % model.vocab_size] * CONTEXT)])
        for _ in range(REPEATS):
            begun = time.perf_counter()
            model.forward([Feed(text, [1 % model.vocab_size])])
            seconds.append(time.perf_counter() - begun)
    finally:
        model.close(text)
    return statistics.median(seconds)


def costs_file(target: CausalLM, drafter: Drafter, config: Config) -> Path | None:
    """Where the costs of a pair are kept. None if they are not: without a folder, and for a drafter without an identity."""
    subject = _subject(target, drafter, config.with_options(budget="auto"))
    return None if subject is None else file_of(subject, target.device)


def _subject(target: CausalLM, drafter: Drafter, config: Config) -> list[str] | None:
    """What the costs depend on beside the machine; None for a drafter without an identity."""
    if drafter.identity is None:
        return None
    models = [model for model in (target, drafter.model) if model is not None]
    names = [f"{model.fingerprint} {model.context_window}" for model in models]  # a window bounds what is timed
    forms = ["or a chain"] if may_narrow(config, drafter) else []
    return [drafter.identity, *names, repr(config.resolved_structure), *forms, config.resolved_rule.name]
