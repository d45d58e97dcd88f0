"""Answers in, tests out: both ways against each other, and each against its own word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from draftgraph.lab.audit.power import detectable_tv
from draftgraph.lab.remote.answers import Answer
from draftgraph.lab.remote.plan import DRAFTED, PLAIN, Plan, Task
from draftgraph.lab.remote.stated import BY_RANK, Stated, check_stated
from draftgraph.lab.remote.twosample import Comparison, compare
from draftgraph.lab.remote.views import views_of

USUAL_CELLS = 8
"""Cells of one prompt's token, before anything is known."""

Texts = Sequence[Sequence[Answer]]
"""Answers of one way, per prompt."""


@dataclass(frozen=True)
class Sight:
    """What of the answers can be looked at.

    tokens    of each text. by_token  whether the server tells them.
    listed    alternatives with stated probabilities; 0 where these are no yardstick.
    power     the exponent that makes a stated law that of sampling.
    """

    tokens: int
    by_token: bool
    listed: int = 0
    power: float = 1.0

    @property
    def positions(self) -> int:
        """Of the single things that are looked at: tokens, or the first word of a text."""
        return self.tokens if self.by_token else 1


@dataclass(frozen=True)
class Judged:
    """The tests. Each of the two kinds has an equal share of alpha.

    two        of both ways against each other; None for one way.
    stated     of the drafted way against its own word; None where it states nothing of use.
    yardstick  the same of the plain way, which says whether that word is the law of sampling at all.
    """

    two: Comparison | None
    stated: Stated | None
    yardstick: Stated | None

    @property
    def word_counts(self) -> bool:
        """Whether what is stated is the law of sampling, as far as plain texts show."""
        return self.stated is not None and (self.yardstick is None or not self.yardstick.refuted)

    @property
    def refuted(self) -> bool:
        against_word = self.word_counts and self.stated is not None and self.stated.refuted
        return against_word or (self.two is not None and self.two.refuted)

    def seen_at(self, position: int) -> float | None:
        """The smallest bias of the token at a position that would have been found with probability 0.9."""
        word = self.stated.seen_at(position) if self.stated is not None and self.word_counts else None
        seen = [tv for tv in (None if self.two is None else self.two.seen_at(position), word) if tv is not None]
        return min(seen, default=None)

    def detectable(self, tokens: int) -> tuple[float | None, ...]:
        """The same for every position of texts of `tokens` tokens."""
        return tuple(map(self.seen_at, range(1, tokens + 1)))

    def seen_by_rank(self, tokens: int) -> float | None:
        """The smallest bias between ranks that would have been found at any position; None where one is blind."""
        if self.stated is None or not self.word_counts:
            return None
        seen = [self.stated.seen_at(position, BY_RANK) for position in range(1, tokens + 1)]
        able = [tv for tv in seen if tv is not None]
        return max(able) if len(able) == tokens else None


def judge(
    drafted: Texts, plain: Texts | None, sight: Sight, alpha: float, rng: np.random.Generator, powered: bool = True
) -> Judged:
    """Test the answers. plain  None where one way was asked. powered  whether power is measured as well."""
    share = alpha / ((plain is not None) + (sight.listed > 0) or 1)
    two = None
    if plain is not None:
        pairs = list(zip(drafted, plain, strict=True))
        two = compare(pairs, views_of(sight.tokens, sight.by_token), share, rng, powered)
    stated = yardstick = None
    if sight.listed:
        stated = check_stated(drafted, sight.tokens, sight.listed, sight.power, share, rng)
        if plain is not None:
            yardstick = check_stated(plain, sight.tokens, sight.listed, sight.power, share, rng)
    return Judged(two, stated, yardstick)


def by_prompt(answers: Mapping[Task, Answer], plan: Plan) -> tuple[Texts, Texts | None]:
    """The answers of the drafted and of the plain way, per prompt and in the order of their numbers."""
    found: dict[tuple[int, int], list[Answer]] = defaultdict(list)
    for task in sorted(answers, key=lambda task: task.number):
        found[task.way, task.prompt].append(answers[task])
    prompts = range(len(plan.prompts))
    plain = [found[PLAIN, i] for i in prompts] if len(plan.ways) > 1 else None
    return [found[DRAFTED, i] for i in prompts], plain


def expected_tv(plan: Plan, sight: Sight, alpha: float) -> float:
    """About what will be found with probability 0.9, before anything is asked: for laws of USUAL_CELLS cells."""
    prompts, texts = len(plan.prompts), len(plan.prompts) * plan.samples
    freedom = prompts * (USUAL_CELLS - 1)
    share = alpha / ((len(plan.ways) > 1) + (sight.listed > 0) or 1)
    looks = 3 * sight.tokens
    seen = [detectable_tv(freedom, share / looks, texts)] if sight.listed else []
    if len(plan.ways) > 1:
        seen.append(detectable_tv(freedom, share / looks, max(texts // 2, 1)))
    return min(seen, default=1.0)
