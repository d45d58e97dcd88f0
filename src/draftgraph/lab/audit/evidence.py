"""What emitted texts say about their own next-token laws: every token against p(. | prefix), counted in four ways.

The laws come from plain one-path forwards over the emitted texts, without cache, mask or draft: nothing of the engine's rows
enters. Given its prefix, every token of a lossless engine is one draw from a law that is known here, whatever was drafted.
So any classification that looks at the prefix only is sound:

tokens     counts of the tokens themselves behind prefixes that many samples share (at the first position: all).
quantiles  the randomised probability integral transform in vocabulary order, which is uniform; ten bins.
ranks      how likely the token was among the target's: first, second, third and fourth, ... (a warping mistake shows here).
drafter    how much more or less the drafter likes the token, q / p (a verification mistake pushes along this).

Whether a token was drafted, accepted or a bonus token is *not* such a classification: it depends on the token, and accepted
tokens have another law under every lossless rule. That a token is the first of its round is one, because the earlier rounds
decided it, and rounds draw fresh noise; under noise by position (the agree rule) the earlier drafts have seen this
position's noise, and it is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch

from draftgraph.backends.base import CausalLM
from draftgraph.lab.audit.fit import Counts, Fit, fitted
from draftgraph.sampling.warp import Prefixes, Warper

QUANTILES = 10
RANKS = torch.tensor([1, 2, 4, 8, 16, 32])
"""Ranks at which a new cell begins, after rank 0."""
LIKINGS = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
"""Values of q / p that part the cells of "drafter"."""
CELLS = {"quantiles": QUANTILES, "ranks": len(RANKS) + 1, "drafter": len(LIKINGS) + 1}
SHARED_BY = 100
"""Samples that must share a prefix for its next tokens to be counted one by one."""
ENTRIES, WIDTH = 2**23, 1024
"""Law entries that are looked at in one go, where a token read counts like a row of so many."""


@dataclass(frozen=True)
class Sample:
    """One emitted text: its tokens, and the output positions at which a round began."""

    tokens: tuple[int, ...]
    starts: frozenset[int] = frozenset()


@dataclass
class _Seen:
    """The tokens that followed one prefix, and for each whether it began a round that was not its text's first."""

    tokens: list[int] = field(default_factory=list)
    begins: list[bool] = field(default_factory=list)


class Evidence:
    """The counts of an audit, by kind and position.

    length  positions. drafter  whether laws of a drafter come with the target's. fresh_noise  False for noise by position.
    seed    of the uniforms that the quantiles need; independent of everything the engine draws.
    """

    def __init__(self, length: int, drafter: bool, fresh_noise: bool, seed: int) -> None:
        self.kinds = ("quantiles", "ranks", "drafter") if drafter else ("quantiles", "ranks")
        self.at = [{kind: Counts.empty(CELLS[kind]) for kind in self.kinds} for _ in range(length)]
        self.starts = {kind: Counts.empty(CELLS[kind]) for kind in self.kinds} if fresh_noise else {}
        self.shared: list[list[Counts]] = [[] for _ in range(length)]
        self.impossible = self.tokens = 0
        self._uniform = np.random.default_rng([seed % 2**64, 0x5EED])

    def collect(
        self, model: CausalLM, drafter: CausalLM | None, warper: Warper, prompt: Sequence[int],
        samples: Sequence[Sample],
    ) -> None:  # fmt: skip
        """Recompute the laws behind the samples of one prompt and count their tokens."""
        seen: dict[tuple[int, ...], _Seen] = defaultdict(_Seen)
        for sample in samples:
            for i, token in enumerate(sample.tokens):
                entry = seen[sample.tokens[:i]]
                entry.tokens.append(token)
                entry.begins.append(i > 0 and i in sample.starts)
        for prefixes, p, q in _laws(model, drafter, warper, prompt, {sample.tokens for sample in samples}):
            self._count([len(prefix) for prefix in prefixes], [seen[prefix] for prefix in prefixes], p, q)

    def _count(self, lengths: Sequence[int], seen: Sequence[_Seen], p: torch.Tensor, q: torch.Tensor | None) -> None:
        """Enter what followed some prefixes; p and q f64[m, V] are their laws."""
        visits = torch.tensor([len(entry.tokens) for entry in seen])
        rows = torch.repeat_interleave(torch.arange(len(seen)), visits)
        tokens = torch.tensor([token for entry in seen for token in entry.tokens])
        begins = torch.tensor([begin for entry in seen for begin in entry.begins])
        positions = torch.tensor(lengths)[rows]
        self.tokens += len(tokens)
        self.impossible += int((p[rows, tokens] <= 0.0).sum())
        cells = {"quantiles": self._quantiles(p, rows, tokens), "ranks": _ranks(p, rows, tokens)}
        if q is not None:
            cells["drafter"] = _likings(p, q, rows, tokens)
        for kind, (cell, shares) in cells.items():
            for position in set(lengths):
                here = positions == position
                self.at[position][kind].add(cell[here], shares[rows[here]])
            if self.starts and bool(begins.any()):
                self.starts[kind].add(cell[begins], shares[rows[begins]])
        for length, entry, law in zip(lengths, seen, p, strict=True):
            if length == 0 or len(entry.tokens) >= SHARED_BY:
                self.shared[length].append(Counts.of_one_law(law, torch.tensor(entry.tokens)))

    def _quantiles(
        self, p: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """F(x - 1) + U p(x), uniform for a draw x from p with distribution function F and an independent uniform U."""
        above = p.cumsum(dim=1)[rows, tokens]
        uniform = torch.from_numpy(self._uniform.random(len(tokens)))
        quantile = above - uniform * p[rows, tokens]
        cell = (quantile * QUANTILES).long().clamp_(0, QUANTILES - 1)
        return cell, torch.full((len(p), QUANTILES), 1.0 / QUANTILES, dtype=torch.float64)

    def fits(self) -> list[Fit]:
        """Every test, without its power: by position, over all positions, at the starts of rounds."""
        found: list[Fit] = []
        for i, (shared, counts) in enumerate(zip(self.shared, self.at, strict=True)):
            where = f"position {i + 1}"
            found.append(fitted("tokens", where, shared))
            found += [fitted(kind, where, [counts[kind]]) for kind in self.kinds]
        if len(self.at) > 1:
            for kind in self.kinds:
                total = sum((counts[kind] for counts in self.at), Counts.empty(CELLS[kind]))
                found.append(fitted(kind, "all positions", [total]))
        found += [fitted(kind, "round starts", [counts]) for kind, counts in self.starts.items()]
        return found


def _ranks(p: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    masses, order = p.sort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(p.shape[1]).expand_as(order))
    cell_of_rank = torch.bucketize(torch.arange(p.shape[1]), RANKS, right=True)
    return cell_of_rank[rank[rows, tokens]], _shares(masses, cell_of_rank.expand_as(order), CELLS["ranks"])


def _likings(
    p: torch.Tensor, q: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    cell = torch.bucketize(q / p.clamp_min(torch.finfo(p.dtype).tiny), LIKINGS, right=True)
    return cell[rows, tokens], _shares(p, cell, CELLS["drafter"])


def _shares(p: torch.Tensor, cell: torch.Tensor, cells: int) -> torch.Tensor:
    """f64[m, cells]: the mass of every cell, from laws f64[m, V] and the cell of every token, i64[m, V]."""
    return torch.zeros(len(p), cells, dtype=torch.float64).scatter_add_(1, cell, p)


@torch.inference_mode()
def _laws(
    model: CausalLM, drafter: CausalLM | None, warper: Warper, prompt: Sequence[int],
    texts: set[tuple[int, ...]],
) -> Iterator[tuple[list[tuple[int, ...]], torch.Tensor, torch.Tensor | None]]:  # fmt: skip
    """Every prefix of the texts once, in batches: prefixes, target laws f64[m, V], drafter laws f64[m, V] or None."""
    vocab = model.vocab_size
    done: set[tuple[int, ...]] = set()
    for length, group in groupby(sorted(texts, key=lambda text: (len(text), text)), key=len):
        same = list(group)
        step = max(1, ENTRIES // (vocab * length + WIDTH * (len(prompt) + length)))
        for batch in (same[i : i + step] for i in range(0, len(same), step)):
            prefixes = [text[:i] for text in batch for i in range(length)]
            first: dict[tuple[int, ...], int] = {}  # the row that computes a prefix's law
            for row, prefix in enumerate(prefixes):
                if prefix not in done:
                    first.setdefault(prefix, row)
            done.update(first)
            if first:
                ids = torch.tensor([[*prompt, *text[:-1]] for text in batch])
                p, q = (
                    None if each is None else _shaped(each, ids, length, first, vocab, warper, prompt)
                    for each in (model, drafter)
                )
                assert p is not None
                yield list(first), p, q


def _shaped(
    model: CausalLM, ids: torch.Tensor, length: int, rows: Mapping[tuple[int, ...], int], vocab: int, warper: Warper,
    prompt: Sequence[int],
) -> torch.Tensor:  # fmt: skip
    """Laws f64[len(rows), vocab] behind the prefixes that `rows` names, by their rows in one plain forward over i64[b, n]."""
    own = model.vocab_size
    ids = torch.where(ids < own, ids, 0)  # what only the target has is padding
    logits = model.plain(ids, length)
    wanted = logits.flatten(0, 1)[list(rows.values()), :vocab]
    prefixes = list(rows)
    laws = warper.probabilities(
        torch.nn.functional.pad(wanted, (0, vocab - wanted.shape[1]), value=-torch.inf),
        Prefixes(prompt, lambda row: prefixes[row]),
    )
    laws = laws.double().cpu()
    return laws / laws.sum(dim=1, keepdim=True)
