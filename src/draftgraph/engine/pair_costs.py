"""The costs of a pair: kept from an earlier process, or measured on an engine that decodes with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from draftgraph.backends.torch_model import HFModel
from draftgraph.budget.cost_cache import costs_of, fingerprint
from draftgraph.budget.costs import Costs
from draftgraph.budget.timing import measure
from draftgraph.config import Config
from draftgraph.draft.base import Drafter
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.model import ModelDrafter
from draftgraph.request.record import RoundRecord
from draftgraph.sampling.params import SamplingParams

Decode = Callable[[Drafter, Config, Sequence[int], SamplingParams], Sequence[RoundRecord]]
"""decode(drafter, config, prompt, params) -> the rounds of a request to an engine of the same target."""


def pair_costs(target: HFModel, drafter: Drafter, config: Config, decode: Decode) -> Costs:
    """What rounds cost for the structure and rule of `config`, with the models of `target` and `drafter`."""
    model: HFModel | None = getattr(drafter, "model", None)
    subject = [fingerprint(target.model), "lookup" if model is None else fingerprint(model.model)]
    subject += [config.resolved_structure, config.resolved_rule.name, f"{config.edges} {config.read_ahead}"]
    subject += [f"{one.model.dtype} {one.config._attn_implementation}" for one in (target, model) if one]

    def run(budget: int, prompt: Sequence[int], tokens: int, temperature: float) -> Sequence[RoundRecord]:
        fixed = config.with_options(budget=budget, num_speculative_tokens=None)
        its = LookupDrafter(fixed) if model is None else ModelDrafter(model, fixed, target.vocab_size)
        params = SamplingParams(max_new_tokens=tokens, temperature=temperature, ignore_eos=True, seed=1)
        return decode(its, fixed, list(prompt), params)

    return costs_of(subject, target.device, lambda: measure(target, model, run))
