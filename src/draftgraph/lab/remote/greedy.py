"""Temperature 0: one text per prompt and way. Where two part, the gap between the tokens says whether rounding can explain it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from draftgraph.lab.remote.answers import Answer
from draftgraph.lab.remote.views import END

SINGLE, HALF = 1e-3, 0.25
"""Gaps in nats that rounding can turn over: in float32, and in half precision, whose logits at 16 to 32 are 1/8 apart."""


@dataclass(frozen=True)
class Parting:
    """Where two greedy texts part. position  from 1. ours, theirs  the tokens there.

    gap  how much likelier the one is than the other, in nats, as stated; None where nothing is stated.
    """

    prompt: int
    position: int
    ours: str
    theirs: str
    gap: float | None

    @property
    def kind(self) -> str:
        if self.gap is None:
            return "unexplained"
        return "rounding" if self.gap <= SINGLE else "near-tie" if self.gap <= HALF else "wrong"


@dataclass(frozen=True)
class Greedy:
    """What temperature 0 shows.

    texts     compared, with and without drafts. partings  those that part.
    repeats   plain texts that were asked twice. differing  of these, how many were not the same.
    unlikely  tokens of the drafted texts that are less likely than the best, by more than rounding.
    tokens    of the drafted texts that were looked at.
    """

    texts: int
    partings: tuple[Parting, ...]
    repeats: int
    differing: int
    unlikely: tuple[Parting, ...]
    tokens: int

    @property
    def wrong(self) -> tuple[Parting, ...]:
        return tuple(each for each in (*self.partings, *self.unlikely) if each.kind == "wrong")

    @property
    def unexplained(self) -> int:
        return sum(each.kind == "unexplained" for each in self.partings)


def compare_greedy(drafted: Sequence[Answer], plain: Sequence[Answer], again: Sequence[Answer]) -> Greedy:
    """Compare texts per prompt. plain  empty where only one way was asked. again  the way without drafts once more."""
    partings = [parting(i, *pair) for i, pair in enumerate(zip(drafted, plain, strict=False))]
    base = plain or drafted
    differing = sum(one.text != other.text for one, other in zip(base, again, strict=False))
    unlikely = [each for i, answer in enumerate(drafted) for each in _unlikely(i, answer)]
    looked = sum(len(answer.likeliest) for answer in drafted)
    return Greedy(
        min(len(drafted), len(plain)),
        tuple(each for each in partings if each is not None),
        len(again),
        differing,
        tuple(unlikely),
        looked,
    )


def parting(prompt: int, ours: Answer, theirs: Answer) -> Parting | None:
    """Where two texts of one prompt part; None if they do not. Without tokens the texts as a whole are told."""
    if ours.pieces is None or theirs.pieces is None:
        return None if ours.text == theirs.text else Parting(prompt, 0, ours.text, theirs.text, None)
    for k, (mine, other) in enumerate(zip_longest(ours.pieces, theirs.pieces, fillvalue=END)):
        if mine != other:
            gaps = [_gap(answer, k, mine, other) for answer in (ours, theirs)]
            told = [gap for gap in gaps if gap is not None]
            return Parting(prompt, k + 1, mine, other, max(told) if told else None)
    return None


def _gap(answer: Answer, k: int, one: str, other: str) -> float | None:
    """Nats between two tokens at position k, as stated; a token that is not listed is below the last that is."""
    if k >= len(answer.likeliest) or not answer.likeliest[k] or END in (one, other):
        return None
    listed = dict(reversed(answer.likeliest[k]))
    lowest = answer.likeliest[k][-1][1]
    return abs(listed.get(one, lowest) - listed.get(other, lowest))


def _unlikely(prompt: int, answer: Answer) -> list[Parting]:
    """Tokens that are not the best, by the server's own word."""
    found = []
    for k, listed in enumerate(answer.likeliest):
        if listed and answer.pieces is not None and listed[0][1] - answer.logprobs[k] > HALF:
            gap = listed[0][1] - answer.logprobs[k]
            found.append(Parting(prompt, k + 1, answer.pieces[k], listed[0][0], gap))
    return found
