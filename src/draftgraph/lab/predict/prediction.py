"""The whole prediction for a pair: profile, tokens per target call of every draft worth a look, and tokens per second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from draftgraph.budget.costs import Costs
from draftgraph.draft.structures.tree import Tree
from draftgraph.engine.engine import Engine
from draftgraph.lab.predict.acceptance import Plan, over_texts, survival
from draftgraph.lab.predict.estimate import Estimate, ratio
from draftgraph.lab.predict.profile import Profile, make_profile
from draftgraph.lab.predict.rows import PairRows
from draftgraph.lab.predict.speed import Pace, pace
from draftgraph.lab.predict.surrogate import Check, TreePlan, check_on_chains, forecast, round_starts
from draftgraph.request.stats import Stats
from draftgraph.sampling.params import SamplingParams

DEPTHS = (1, 2, 3, 4, 5, 6, 8)
"""Chains that are compared."""
SHAPES = ((2, 1, 1), (3, 2, 1, 1), (2, 2, 1, 1, 1, 1))
BUDGETS = (8, 16, 32)
ROUNDS = 200
"""Rounds per tree on surrogate rows."""
CHECKED_DEPTH = 4
Tell = Callable[[str], None]
EngineOf = Callable[..., Engine]
"""engine_of(**options) -> an engine for the pair with these options of `Config`."""
Asked = dict[str, Any]
"""Options of `Config` that ask for a draft and its rule."""


@dataclass(frozen=True)
class Row:
    """One way to draft and verify, and what is predicted of it for whole generations.

    draft, rule   their names. options  how to ask the engine for it.
    tokens        tokens per target call. exact  False if it was estimated on surrogate rows.
    nodes, level_rows   what a round takes: verified nodes, and the rows of every drafter pass.
    pace          None where no speed was asked for. measured  the engine's own tokens per target call, where it was run.
    """

    draft: str
    rule: str
    options: Mapping[str, Any]
    tokens: Estimate
    exact: bool
    nodes: float
    level_rows: Sequence[float]
    pace: Pace | None = None
    measured: Estimate | None = None

    @property
    def off(self) -> float | None:
        """Measured minus predicted, in standard errors of the difference."""
        return None if self.measured is None else self.measured.off(self.tokens)


@dataclass(frozen=True)
class Prediction:
    """source    "own": the texts are the target's, and exact rows are unbiased; "natural": everything approximates.
    surrogate    how far the surrogate is off on a chain of CHECKED_DEPTH, where the truth is known.
    by_depth     P(at least i drafted tokens are kept) for the longest chain under block verification (i = 1, 2, …).
    costs        None where no speed was asked for.
    """

    temperature: float
    source: str
    profile: Profile
    rows: Sequence[Row]
    surrogate: Check
    by_depth: Sequence[float]
    costs: Costs | None = None

    @property
    def best(self) -> Row:
        """The row of highest speed, or of most tokens per target call where no speed was asked for."""
        return max(self.rows, key=lambda row: row.tokens.value if row.pace is None else row.pace.speedup)

    def to_dict(self) -> dict[str, Any]:
        rows = [{**asdict(row), "options": written(row.options), "off": row.off} for row in self.rows]
        return {
            "temperature": self.temperature,
            "source": self.source,
            "profile": self.profile.to_dict(),
            "rows": rows,
            "surrogate": {"chain": CHECKED_DEPTH, **asdict(self.surrogate)},
            "by_depth": list(self.by_depth),
            "costs": None if self.costs is None else self.costs.to_dict(),
            "best": {"draft": self.best.draft, "rule": self.best.rule, "options": written(self.best.options)},
        }


def written(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in plain types, for `json.dumps`: objects as the calls that make them."""
    return {name: value if isinstance(value, str | int | None) else repr(value) for name, value in options.items()}


def predict(
    rows: PairRows, source: str, temperature: float, costs: Costs | None, tell: Tell, branches: bool = True
) -> Prediction:
    """Predict from both models' laws along some texts. `tell` hears what is being done. branches  whether drafts may branch."""
    tell("profile")
    profile = make_profile(rows)
    plans = [each for each in exact_plans(rows.greedy) if branches or each[1]["structure"] == "chain"]
    found = [_exact(rows, plan, options) for plan, options in plans]
    for plan, options in tree_plans(rows.greedy) if branches else ():
        tell(plan.name)
        found.append(_surrogate(rows, plan, options))
    if costs is not None:
        found = [replace(row, pace=pace(costs, row.tokens.value, row.nodes, row.level_rows)) for row in found]
    tell("check of the surrogate")
    longest = survival(rows, chain("walk" if rows.greedy else "block", max(DEPTHS))[0]).expected
    return Prediction(
        temperature,
        source,
        profile,
        found,
        check_on_chains(rows, CHECKED_DEPTH, ROUNDS),
        longest.mean(dim=0).tolist(),
        costs,
    )


def exact_plans(greedy: bool) -> list[tuple[Plan, Asked]]:
    """Drafts whose acceptance is known exactly, with the options that ask for them. At temperature 0 every rule is the walk."""
    rules = ("walk",) if greedy else ("block", "token", "agree")
    plans = [chain(rule, depth) for depth in DEPTHS for rule in rules]
    for shape in SHAPES:
        plans.append(walked(shape))
        if not greedy:
            plans += [recursive(shape, children) for children in ("without_replacement", "hybrid")]
    return plans


def tree_plans(greedy: bool) -> list[tuple[TreePlan, Asked]]:
    """Drafts that need rows off the text. At temperature 0 a fixed shape is walked, which is exact already."""
    shapes = () if greedy else SHAPES
    return [*map(shaped, shapes), *map(budgeted, BUDGETS)]


def chain(rule: str, depth: int) -> tuple[Plan, Asked]:
    children = "hybrid" if rule in ("block", "token") else "fixed"
    options = {"structure": "chain", "budget": depth, "num_speculative_tokens": depth, "rule": rule}
    return Plan(rule, (1,) * depth, children), options


def walked(shape: tuple[int, ...]) -> tuple[Plan, Asked]:
    return Plan("walk", shape, "fixed"), {"structure": Tree(shape), "rule": "walk"}


def recursive(shape: tuple[int, ...], children: str) -> tuple[Plan, Asked]:
    return Plan("recursive", shape, children), {"structure": Tree(shape, children), "rule": "recursive"}


def shaped(shape: tuple[int, ...]) -> tuple[TreePlan, Asked]:
    return TreePlan.of_shape(shape), {"structure": Tree(shape), "rule": "layer"}


def budgeted(budget: int) -> tuple[TreePlan, Asked]:
    return TreePlan.of_budget(budget), {"structure": "tree", "budget": budget, "rule": "layer"}


def _exact(rows: PairRows, plan: Plan, options: Mapping[str, Any]) -> Row:
    levels = plan.levels
    name = plan.name if plan.is_chain or plan.rule == "walk" else f"{plan.name}, {plan.children.replace('_', ' ')}"
    return Row(
        name, plan.rule, options, over_texts(rows, plan), True, float(sum(levels)), [1.0, *map(float, levels[:-1])]
    )


def _surrogate(rows: PairRows, plan: TreePlan, options: Mapping[str, Any]) -> Row:
    found = forecast(rows, plan, round_starts(rows, plan.limits.depth, ROUNDS))
    return Row(plan.name, "layer", options, found.tokens, False, found.nodes, found.level_rows)


def measure(
    rows: Sequence[Row], engine_of: EngineOf, prompts: Sequence[Sequence[int]], params: SamplingParams, tell: Tell
) -> list[Row]:
    """The rows again with what the engine itself does behind `prompts`, one generation each.

    Its texts are others than those predicted from: seeds differ, so that the two estimates are independent.
    """
    done = []
    for row in rows:
        tell(f"measuring {row.draft}, {row.rule}")
        done.append(replace(row, measured=run(engine_of(**row.options), prompts, params)))
    return done


def run(engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams) -> Estimate:
    """Tokens per target call of whole generations."""
    return tokens_per_call(
        [engine.generate(list(prompt), replace(params, sample=i)).stats for i, prompt in enumerate(prompts)]
    )


def tokens_per_call(stats: Sequence[Stats]) -> Estimate:
    """1 + accepted / rounds, over all requests together."""
    calls = [float(one.num_rounds) for one in stats]
    accepted = [one.num_rounds + float(one.num_accepted_tokens) for one in stats]
    return ratio(accepted, calls, int(sum(calls)))
