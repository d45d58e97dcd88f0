"""schedule="auto": both schedules are weighed by what passes cost and what was accepted while that was measured.

Costs are measured one model at a time. Side by side, models also share memory, caches and the interpreter. So where the table of
the parallel schedule promises PAYS times the speed, at every temperature in TEMPERATURES, a short trial has to keep the promise.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from torch import get_num_threads

from draftgraph.budget.automatic import AutoBudget
from draftgraph.budget.costs import Costs
from draftgraph.budget.pace import keeping_step, parallel_tokens
from draftgraph.engine.assemble import loaded_already
from draftgraph.engine.config import Config
from draftgraph.engine.strategy import plan
from draftgraph.errors import OptionError, first_line
from draftgraph.sampling.params import SamplingParams

if TYPE_CHECKING:
    from draftgraph.engine.engine import Engine

PAYS = 1.2
TEMPERATURES = (0.0, 1.0)
TRIED_SECONDS, REPEATS, MOST_TRIED = 1.0, 3, 64
"""Expected seconds of each answer of a trial, answers of each engine, and tokens of an answer at most."""
PROMPT_TOKENS = 16


class Make(Protocol):
    """Makes an engine of a target and a draft model, with a config."""

    def __call__(self, target: Any, draft_model: Any, config: Config) -> Engine: ...


def with_schedule(make: Make, target: Any, draft_model: Any, config: Config) -> Engine:
    """The engine of the schedule that pays; `backends["schedule"]` says which, and why."""
    sequential = make(target, draft_model, config.with_options(schedule="sequential"))
    found, why = sequential, _why_not(draft_model, config)
    if not why:
        try:
            chosen = config.with_options(schedule="parallel")
            again = loaded_already(sequential.drafter.model, draft_model)
            parallel = make(loaded_already(sequential.target, target), again, chosen)
            pays, why = _weighed(sequential, parallel)
            found = parallel if pays else sequential
        except OptionError as error:
            why = first_line(error)
    found.backends["schedule"] = f"{found.config.schedule}: {why}"
    return found


def _why_not(draft_model: object, config: Config) -> str:
    """Why there is nothing to weigh, in words; empty if there is."""
    if draft_model is None:
        return "there is no draft model that could draft meanwhile"
    if config.budget != "auto" or config.num_speculative_tokens is not None:
        return "budget or num_speculative_tokens were asked for, and costs weigh schedules of the automatic budget"
    if get_num_threads() < 2:
        return "torch has one thread, and the two models would need one each"
    return ""


def _weighed(sequential: Engine, parallel: Engine) -> tuple[bool, str]:
    """Whether the parallel schedule pays, and the figures."""
    if sequential.costs.busy or parallel.costs.busy:
        return False, "others used the machine while costs were measured; draftgraph costs measures them again"
    pays, told, slowest = True, [], float("inf")
    for temperature in TEMPERATURES:
        drafting = plan(sequential.config, sequential.drafter, temperature, lambda: sequential.costs)
        one = sequential_rate(drafting, sequential.costs.at(temperature))
        other = parallel_rate(parallel.costs.at(temperature))
        pays, slowest = pays and other >= PAYS * one, min(slowest, one)
        told.append(f"{one:.0f} tokens/s sequentially and {other:.0f} in parallel at temperature {temperature:g}")
    promise = f"costs promise {', '.join(told)}"
    if not pays:
        return False, f"{promise}; in parallel it must be {PAYS} times as many"
    gain = tried(sequential, parallel, max(1, min(MOST_TRIED, int(TRIED_SECONDS * slowest))))
    return gain >= 1.0, f"{promise}; in a trial it was {gain:.2f} times as fast"


def tried(sequential: Engine, parallel: Engine, tokens: int) -> float:
    """How many times as fast the parallel schedule decodes so many tokens, each at its best of a few answers in turn."""
    prompt = [(7 * i + 3) % sequential.target.vocab_size for i in range(PROMPT_TOKENS)]
    params = SamplingParams(max_new_tokens=tokens, ignore_eos=True)
    best = [float("inf"), float("inf")]
    for repeat in range(REPEATS + 1):
        for place, engine in enumerate((sequential, parallel)):
            begun = time.perf_counter()
            engine.generate(prompt, params)
            if repeat:  # caches and threads are cold in the first one
                best[place] = min(best[place], time.perf_counter() - begun)
    return best[0] / best[1]


def sequential_rate(drafting: object, costs: Costs) -> float:
    """Tokens per second that the automatic budget begins with."""
    forms = drafting.forms if isinstance(drafting, AutoBudget) else []
    return max([1.0 / costs.plain, *(form.expected().rate for form in forms)])


def parallel_rate(costs: Costs) -> float:
    """Tokens per second of the parallel schedule, if all tokens are accepted like the first one of a draft."""
    length, acceptance = keeping_step(costs).length, costs.levels[0].reached if costs.levels else 0.0
    return parallel_tokens(acceptance, length) / max(length * costs.drafter_pass(1.0), costs.verifying(length - 1))
