"""Logits processors as users write them: functions of ids and scores, and such as keep state in all kinds of ways."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers as hf

VOCAB = 64


def without(scores: torch.Tensor, *banned: int) -> torch.Tensor:
    return scores.index_fill(1, torch.tensor(banned), -torch.inf)


def every(step: int, first: int) -> range:
    return range(first % step, VOCAB, step)


# --- functions --------------------------------------------------------------------------------------------------------


class InPlace:
    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, 10:30] = -torch.inf
        return scores


class Remembers:
    """Keeps what it has worked out, by the ids that it was worked out for."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], int] = {}

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        firsts = [self.known.setdefault(tuple(row), sum(row) % 6) for row in ids.tolist()]
        return torch.stack([without(row[None], *every(6, first))[0] for row, first in zip(scores, firsts, strict=True)])


class Grammar:
    """States by ids, as grammars of libraries keep them: a prefix must have been asked about before what follows it."""

    def __init__(self) -> None:
        self.states: dict[tuple[int, ...], int] = {}
        self.start: int | None = None

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.start = ids.shape[1] if self.start is None else self.start
        for i, row in enumerate(ids[:, self.start :].tolist()):
            text = tuple(row)
            if text not in self.states:
                self.states[text] = (self.states[text[:-1]] * 2 + text[-1]) % 5 if text else 0
            scores[i : i + 1] = without(scores[i : i + 1], *every(5, self.states[text]))
        return scores


class Spy:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append(ids.tolist())
        return scores


class Locked:
    """Cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        with self.lock:
            return without(scores, 1, 2, 3)


class Head(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.linspace(-2.0, 2.0, VOCAB))

    def forward(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + self.bias


def from_number(number: int, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return without(scores, number, number + 1)


FUNCTIONS: dict[str, Callable[[], Any]] = {
    "changes scores in place": InPlace,
    "remembers by ids": Remembers,
    "grammar by ids": Grammar,
    "spy": Spy,
    "holds a lock": Locked,
    "module": Head,
    "bound method": lambda: InPlace().__call__,
    "partial": lambda: functools.partial(from_number, 5),
    "lambda": lambda: lambda ids, scores: without(scores, 4, 5),
    "prefix function": lambda: hf.PrefixConstrainedLogitsProcessor(lambda _, ids: list(every(3, int(ids[-1]))), 1),
    "watermark": lambda: hf.WatermarkLogitsProcessor(VOCAB, "cpu", bias=3.0),
    "transformers' own": lambda: hf.NoRepeatNGramLogitsProcessor(2),
}


# --- processors that keep state, or want one row ------------------------------------------------------------------------


class Counts:
    """Acts by the number of its calls, from some call on."""

    def __init__(self, first: int = 0) -> None:
        self.calls, self.first = 0, first

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return without(scores, *every(2, self.calls)) if self.calls > self.first else scores


class Switches:
    """Only even tokens from some call on."""

    def __init__(self, call: int) -> None:
        self.calls, self.call = 0, call

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return without(scores, *every(2, 1)) if self.calls > self.call else scores


def closure(first: int = 0) -> Callable[..., torch.Tensor]:
    calls = 0

    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return without(scores, calls % VOCAB, *range(10, 40)) if calls > first else scores

    return processor


def default(ids: torch.Tensor, scores: torch.Tensor, calls: list[int]) -> torch.Tensor:
    calls.append(1)
    return without(scores, *every(3, len(calls)))


class LastToken:
    """A state machine that advances by the last token of every call."""

    def __init__(self, tokens: int = VOCAB, states: int = 7) -> None:
        self.state, self.tokens, self.states = 0, tokens, states

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if int(ids[0, -1]) < self.tokens:
            self.state = (self.state + 1) % self.states
        return without(scores, *every(self.states, self.state))


class Sticky(LastToken):
    """Changes for good when a rare token comes by."""

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.state = max(self.state, int(ids[0, -1]) < 3)
        return without(scores, *every(3, 0)) if self.state else scores


class Suffix:
    """Reads the ids that are new to it."""

    def __init__(self) -> None:
        self.read = self.total = 0

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.total += int(ids[0, self.read :].sum())
        self.read = ids.shape[1]
        return without(scores, *every(5, self.total))


class Expects:
    """Compares the length of the ids with a count of its own."""

    length = 0

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.length = self.length + 1 if self.length else ids.shape[1]
        return scores if ids.shape[1] == self.length else without(scores, *range(40))


class Momentum:
    before: torch.Tensor | None = None

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.before = scores if self.before is None else scores + 0.9 * self.before.mean(dim=0, keepdim=True)
        return self.before


class Generator:
    """Cannot be copied."""

    def __init__(self) -> None:
        def steps() -> Iterator[int]:
            yield from range(10**6)

        self.steps = steps()

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return without(scores, *every(3, next(self.steps)))


class OneRow:
    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert len(ids) == 1
        return without(scores, 3, 4, 5)


class FirstRow:
    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return without(scores, *every(4, int(ids[0, -1])))


class RowNumber:
    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.cat([without(row[None], *every(4, i)) for i, row in enumerate(scores)])


class Noisy:
    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + torch.randn(scores.shape)


class Anneals:
    factor = 1.0

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.factor *= 1.01
        return scores / self.factor + torch.arange(VOCAB) * 0.3 * (self.factor - 1.0)


STATEFUL: dict[str, Callable[[], Any]] = {
    "counts calls": Counts,
    "counts calls after the fifth": lambda: Counts(5),
    "closure that counts": closure,
    "default that counts": lambda: functools.partial(default, calls=[]),
    "last token": LastToken,
    "unseen ids": Suffix,
    "own length": Expects,
    "earlier scores": Momentum,
    "generator": Generator,
    "anneals": Anneals,
    "one row": OneRow,
    "first row": FirstRow,
    "row number": RowNumber,
    "random": Noisy,
}
"""What the questions before the first draft find."""
LATE: dict[str, Callable[[], Any]] = {
    **{f"switches after call {call}": functools.partial(Switches, call) for call in (15, 18, 20, 23, 26, 30, 37, 45)},
    "closure that counts later": lambda: closure(25),
    "few tokens advance it": lambda: LastToken(tokens=3, states=3),
    "sticky": lambda: Sticky(tokens=3),
}
"""What only the texts themselves can show."""
