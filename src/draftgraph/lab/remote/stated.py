"""One way, against its own word: are tokens as frequent as the probabilities that the server states for them?

A server that lists the likeliest tokens with every token states a law behind every prefix. Given its prefix, a token is one
draw from that law. Counts of draws that have a law each are compared with their expectation, as an audit of a pair does
(`lab.audit.fit`). Every token of every text counts, and nothing is lost on a second sample.

Only the listed tokens have known probabilities. At temperature 1 the others are one cell with what remains. At another
temperature what remains is not known, but among the listed tokens the law is: proportional to p^(1/T). There the tokens
that are not listed are left out, which leaves the law of the others as it is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from draftgraph.lab.audit.audit import TAIL_ERROR
from draftgraph.lab.audit.fit import LEAST, Counts, Fit, fitted
from draftgraph.lab.audit.power import detectable_tv
from draftgraph.lab.remote.answers import Answer, Likeliest

RANKS = (0, 1, 2, 4, 8)
"""Ranks at which a cell begins. The tokens that are not listed have a cell of their own."""
SHARED_BY = 100
"""Answers that must share a prefix for its next tokens to be counted one by one."""
TOKENS, BY_RANK = "tokens", "ranks"
"""Kinds of tests: one cell per token, and one per rank among the stated probabilities."""
EVERYWHERE = "all positions"
DRAWS = 400
"""Of the bootstrap."""
FILTERS = frozenset({
    "top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "logit_bias", "min_tokens", "response_format", "structured_outputs", "guided_json", "guided_regex", "grammar", "tools",
})  # fmt: skip
"""Fields that change the law behind the probabilities that a server states."""


@dataclass(frozen=True)
class StatedFit:
    """One test: what was counted, and how far the counts are from the stated law.

    fit  the test, with what it could have seen. tv  total variation as its cells show it, without what chance adds.
    interval  95 %.
    """

    fit: Fit
    tv: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Stated:
    """All tests of one way. p_value  the smallest, corrected for their number; below alpha it refutes."""

    fits: tuple[StatedFit, ...]
    p_value: float
    alpha: float

    @property
    def refuted(self) -> bool:
        return self.p_value < self.alpha

    def seen_at(self, position: int, kind: str = TOKENS) -> float | None:
        """The smallest bias at a position, as a kind of test shows it, that would have been found with probability 0.9.

        Position 0 is one that all positions have.
        """
        where = f"position {position}" if position else EVERYWHERE
        seen = (one.fit.detectable_tv for one in self.fits if (one.fit.kind, one.fit.where) == (kind, where))
        return next(seen, None)


def check_stated(
    answers: Sequence[Sequence[Answer]], tokens: int, listed: int, power: float, alpha: float, rng: np.random.Generator
) -> Stated:
    """Test the tokens of one way, per prompt, against what was stated with them.

    listed  alternatives per token that were asked for. power  the exponent that makes the stated law that of sampling: 1 if it
    is, 1/temperature if it is the model's own.
    """
    whole = power == 1.0
    groups = [_groups(answers, k, listed, power) for k in range(tokens)]
    ranks = [_by_rank(each.values(), whole) for each in groups]
    named: list[tuple[str, str, list[Counts]]] = []
    for k, each in enumerate(groups):
        shared = [_by_token(draws, whole) for draws in each.values() if len(draws) >= SHARED_BY]
        named += [(TOKENS, f"position {k + 1}", shared), (BY_RANK, f"position {k + 1}", [ranks[k]])]
    if tokens > 1:
        total = ranks[0]
        for counts in ranks[1:]:
            total = total + counts
        named.append((BY_RANK, EVERYWHERE, [total]))
    fits = [(fitted(kind, where, counts), counts) for kind, where, counts in named if counts]
    fits = [(fit, counts) for fit, counts in fits if fit.freedom]
    level = alpha / (TAIL_ERROR * max(len(fits), 1))
    least = min((fit.p_value for fit, _ in fits), default=1.0)
    told = tuple(StatedFit(_powered(fit, level), *_variation(counts, rng)) for fit, counts in fits)
    return Stated(told, min(1.0, least * alpha / level), alpha)


@dataclass(frozen=True)
class _Draw:
    """A token behind its prefix: its rank among the listed (their number if it is not listed), and the listed laws."""

    piece: str
    rank: int
    texts: tuple[str, ...]
    law: tuple[float, ...]


def _groups(
    answers: Sequence[Sequence[Answer]], k: int, listed: int, power: float
) -> Mapping[tuple[int, tuple[str, ...]], list[_Draw]]:
    """Draws at position k by their prefix.

    A prompt behind which a text has ended here without telling its last token is left out: the tokens of the others would be
    a selection.
    """
    found: dict[tuple[int, tuple[str, ...]], list[_Draw]] = defaultdict(list)
    for prompt, each in enumerate(answers):
        if any(answer.ended and answer.pieces is not None and len(answer.pieces) == k for answer in each):
            continue
        for answer in each:
            if answer.pieces is not None and len(answer.pieces) > k and len(answer.likeliest) > k:
                draw = _draw(answer, k, listed, power)
                if draw is not None:
                    found[prompt, answer.pieces[:k]].append(draw)
    return found


def _draw(answer: Answer, k: int, listed: int, power: float) -> _Draw | None:
    """None where the list is not whole (two tokens with one text), or leaves the token out and so says nothing."""
    assert answer.pieces is not None
    entries: Likeliest = answer.likeliest[k][:listed]
    if len(entries) < listed:
        return None
    chances = [math.exp(power * logprob) for _, logprob in entries]
    rank = sum(logprob > answer.logprobs[k] + 1e-9 for _, logprob in entries)
    if power != 1.0 and rank >= listed:
        return None
    total = sum(chances) if power != 1.0 else max(sum(chances), 1.0)  # rounding may state a little more than 1
    chances = [chance / total for chance in chances]
    return _Draw(answer.pieces[k], rank, tuple(text for text, _ in entries), tuple(chances))


def _by_rank(groups: Iterable[list[_Draw]], whole: bool) -> Counts:
    """Counts by rank, over all prefixes. whole  whether there is a cell for what is not listed."""
    draws = [draw for group in groups for draw in group]
    counts = Counts.empty(len(RANKS) + whole)
    if draws:
        starts = [start for start in RANKS if start < len(draws[0].law)]
        laws = torch.tensor([draw.law for draw in draws], dtype=torch.float64)
        ends = [*starts[1:], laws.shape[1]]
        shares = torch.stack([laws[:, a:b].sum(dim=1) for a, b in zip(starts, ends, strict=True)], dim=1)
        shares = torch.nn.functional.pad(shares, (0, len(RANKS) - len(starts)))
        cell = torch.bucketize(torch.tensor([draw.rank for draw in draws]), torch.tensor(starts), right=True) - 1
        if whole:
            shares = torch.cat([shares, (1.0 - shares.sum(dim=1, keepdim=True)).clamp(min=0.0)], dim=1)
            cell = torch.where(torch.tensor([draw.rank >= laws.shape[1] for draw in draws]), len(RANKS), cell)
        counts.add(cell, shares)
    return counts


def _by_token(draws: Sequence[_Draw], whole: bool) -> Counts:
    """Counts by token behind one prefix: a cell for every listed text that is expected often enough, one for all others."""
    expected: dict[str, float] = defaultdict(float)
    for draw in draws:
        for text, chance in zip(draw.texts, draw.law, strict=True):
            expected[text] += chance
    own = {text: i for i, text in enumerate(t for t, count in expected.items() if count >= LEAST)}
    shares = torch.zeros(len(draws), len(own) + 1, dtype=torch.float64)
    for i, draw in enumerate(draws):
        for text, chance in zip(draw.texts, draw.law, strict=True):
            shares[i, own.get(text, len(own))] += chance
    if whole:
        shares[:, -1] += (1.0 - shares.sum(dim=1)).clamp(min=0.0)
    counts = Counts.empty(len(own) + 1)
    counts.add(torch.tensor([own.get(draw.piece, len(own)) for draw in draws]), shares)
    return counts


def _powered(fit: Fit, level: float) -> Fit:
    seen = detectable_tv(fit.freedom, level, fit.samples)
    return Fit(fit.kind, fit.where, fit.samples, fit.statistic, fit.freedom, fit.p_value, seen if seen < 1.0 else None)


def _variation(groups: Sequence[Counts], rng: np.random.Generator) -> tuple[float, tuple[float, float]]:
    """Total variation in the mean over draws, and an interval: counts are nearly normal, with the covariance of their laws."""
    samples = sum(group.samples for group in groups)
    seen, again, chance = 0.0, np.zeros(DRAWS), np.zeros(DRAWS)
    for group in groups:
        distance = (group.observed - group.expected).numpy()
        noise = rng.multivariate_normal(
            np.zeros(len(distance)), group.covariance.numpy(), DRAWS, method="eigh", check_valid="ignore"
        )
        seen += float(np.abs(distance).sum()) / 2.0
        again += np.abs(distance + noise).sum(axis=1) / 2.0
        chance += np.abs(noise).sum(axis=1) / 2.0
    by_chance = float(chance.mean())
    tv = math.sqrt(max(seen**2 - by_chance**2, 0.0)) / samples
    spread = np.sqrt(np.maximum(again**2 - 2.0 * by_chance**2, 0.0)) / samples
    low, high = np.quantile(spread, [0.025, 0.975])
    return tv, (min(float(low), tv), max(float(high), tv))
