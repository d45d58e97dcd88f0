"""Can the test find what it says it finds? Mistakes of a known size are planted into answers, and nothing into others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from draftgraph.lab.remote.answers import Answer, Likeliest
from draftgraph.lab.remote.judge import Sight, Texts, judge
from draftgraph.lab.remote.views import View, views_of

SIZE = 0.05
"""Total variation of the planted mistake."""
RUNS = 10
UNLIKELY = 1e-3
"""A check fails if its counts are less likely than this, given the stated power and alpha."""
WORDS, LISTED, SPREAD = 12, 8, 1.5
"""Of a made-up model: tokens in its vocabulary, tokens that it lists, and the deviation of its logits."""

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator], tuple[Texts, Texts | None]]
"""Fresh honest answers of both ways."""


@dataclass(frozen=True)
class SelfCheck:
    """What became of planted mistakes.

    size    their total variation. view  where. runs  with a mistake, and as many without.
    found   mistakes found. alarms  without a mistake.
    detectable_tv  what the test says it finds with probability 0.9, in the mean over runs; None where one was blind.
    """

    size: float
    view: str
    runs: int
    found: int
    alarms: int
    alpha: float
    detectable_tv: float | None

    @property
    def held(self) -> bool:
        """Whether finds are as many as stated, for mistakes of a size that is said to be found, and alarms as few."""
        able = self.detectable_tv is not None and self.detectable_tv <= self.size
        alarmed = 1.0 - _at_most(self.alarms - 1, self.runs, self.alpha)
        return able and _at_most(self.found, self.runs, 0.9) > UNLIKELY and alarmed > UNLIKELY


def self_check(
    draw: Draw, sight: Sight, alpha: float, rng: np.random.Generator, size: float = SIZE, runs: int = RUNS,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> SelfCheck:  # fmt: skip
    """Judge `runs` pairs of honest ways, and as many of which one has a mistake at its last single token."""
    view = [view for view in views_of(sight.tokens, sight.by_token) if view.position][-1]
    found = alarms = 0
    seen: list[float | None] = []
    for run in range(runs):
        drafted, plain = draw(rng)
        honest = judge(drafted, plain, sight, alpha, rng)
        alarms += honest.refuted
        seen.append(honest.seen_at(view.position))
        drafted, plain = draw(rng)
        mistaken = [plant(answers, view, size, rng) for answers in drafted]
        found += judge(mistaken, plain, sight, alpha, rng, powered=False).refuted
        told(run + 1, runs)
    able = [tv for tv in seen if tv is not None]
    return SelfCheck(size, view.name, runs, found, alarms, alpha, sum(able) / runs if len(able) == runs else None)


def plant(answers: Sequence[Answer], view: View, size: float, rng: np.random.Generator) -> list[Answer]:
    """Answers of another law: what the view shows is off by `size` in total variation.

    About half of the values, by their mass, lose that much to the others, as evenly as can be: the direction in which least
    is seen. An answer that loses its value is replaced by one that has another value.
    """
    values = [view.value(answer) for answer in answers]
    losing = _half(values)
    loses = np.array([value in losing for value in values])
    others = np.flatnonzero(~loses)
    share = size * len(answers) / max(int(loses.sum()), 1)
    if not len(others) or share > 1.0:
        return list(answers)
    replaced = loses & (rng.random(len(answers)) < share)
    taken = rng.choice(others, len(answers))
    return [answers[taken[i]] if replaced[i] else answer for i, answer in enumerate(answers)]


def resampled(population: Texts, samples: int, ways: int) -> Draw:
    """Honest answers out of those that there are: all of one prompt are drawn from one population."""

    def draw(rng: np.random.Generator) -> tuple[Texts, Texts | None]:
        def one() -> Texts:
            return [[each[i] for i in rng.integers(len(each), size=samples)] for each in population]

        return one(), one() if ways > 1 else None

    return draw


def made_up(prompts: int, samples: int, tokens: int, seed: int) -> Draw:
    """Honest answers of a made-up model, whose next token depends on the one before it."""
    logits = np.random.default_rng(seed).normal(0.0, SPREAD, (prompts, WORDS + 1, WORDS))
    models = [_Model(np.exp(each) / np.exp(each).sum(axis=-1, keepdims=True)) for each in logits]

    def draw(rng: np.random.Generator) -> tuple[Texts, Texts | None]:
        return [model.texts(samples, tokens, rng) for model in models], [
            model.texts(samples, tokens, rng) for model in models
        ]

    return draw


class _Model:
    """laws  f64[WORDS + 1, WORDS]: of the next token behind each token, and in the last row behind none."""

    def __init__(self, laws: Floats) -> None:
        self._bounds = laws.cumsum(axis=1)
        self._logs = np.log(laws)
        self._listed: list[Likeliest] = [
            tuple((_word(i), float(logs[i])) for i in np.argsort(-logs)[:LISTED]) for logs in self._logs
        ]

    def texts(self, samples: int, tokens: int, rng: np.random.Generator) -> list[Answer]:
        states = [np.full(samples, WORDS)]
        for _ in range(tokens):
            drawn = (rng.random((samples, 1)) > self._bounds[states[-1]]).sum(axis=1)
            states.append(np.minimum(drawn, WORDS - 1))
        return [self._answer([int(state[i]) for state in states]) for i in range(samples)]

    def _answer(self, states: Sequence[int]) -> Answer:
        pieces = tuple(map(_word, states[1:]))
        steps = list(pairwise(states))
        logprobs = tuple(float(self._logs[before, after]) for before, after in steps)
        return Answer("".join(pieces), False, pieces, logprobs, tuple(self._listed[before] for before, _ in steps))


def _word(i: int) -> str:
    return f" w{i}"


def _half(values: Sequence[Hashable]) -> set[Hashable]:
    """Values that hold about half of the mass; the most frequent one at least."""
    chosen: set[Hashable] = set()
    mass = 0
    for value, count in Counter(values).most_common():
        if not chosen or mass + count <= len(values) / 2:
            chosen.add(value)
            mass += count
    return chosen


def _at_most(count: int, trials: int, chance: float) -> float:
    """P(Binomial(trials, chance) <= count)."""
    return sum(math.comb(trials, k) * chance**k * (1.0 - chance) ** (trials - k) for k in range(count + 1))
