"""Proofs about the addresses of random numbers (`draftgraph.sampling.rng`).

Rounds that share random numbers are still enumerated exactly: a number is not one of finitely many values but the
interval that earlier readings have left for it; every reading cuts the interval at the breakpoints of the law at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import pairwise

import torch

from draftgraph.lab.prove.cases import CASES, grow
from draftgraph.lab.prove.controls import Control
from draftgraph.lab.prove.law import (
    KINDS,
    Draw,
    Laws,
    Program,
    Tables,
    enumerate_draws,
    random_tables,
    total_variation,
)
from draftgraph.lab.prove.slots import Draft, best
from draftgraph.sampling.rng import Noise
from draftgraph.types import ROOT, TokenTree
from draftgraph.verification.agree import choose
from draftgraph.verification.base import Rule
from draftgraph.verification.layer import LayerRule

Address = Callable[[int, int, int], Hashable]
"""address(committed length at the round's start, depth, node) -> the address of the number that draws a slot."""
Sample = Callable[[torch.Tensor, int, int], int]
"""sample(law, depth, node) -> the token drawn for a slot."""


def fresh(start: int, depth: int, node: int) -> Hashable:
    return (start, depth, node)


def by_position(start: int, depth: int, node: int) -> Hashable:
    """The absolute output position: met again by the next round if this round stops earlier."""
    return (start + depth, node)


def by_layer(start: int, depth: int, node: int) -> Hashable:
    """Fresh in every round, but shared by the nodes of a layer."""
    return (start, depth)


class EnumeratedNoise:
    """Uniform numbers by address, used by inversion, enumerated exactly through `draw`."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.known: dict[Hashable, tuple[float, float]] = {}

    def sample(self, law: torch.Tensor, address: Hashable) -> int:
        """The token at quantile u(address) of law (f[V]), given what earlier readings of the address told about u."""
        low, high = self.known.get(address, (0.0, 1.0))
        edges = [0.0, *(law / law.sum()).cumsum(0).tolist()]
        cells = [(max(low, a), min(high, b)) for a, b in pairwise(edges)]
        widths = torch.tensor([b - a if b - a > 1e-14 else 0.0 for a, b in cells], dtype=torch.float64)
        token = self.draw(widths)
        self.known[address] = cells[token]
        return token


def chain(q: Laws, sample: Sample, depth: int) -> TokenTree:
    """A SAMPLED chain."""
    draft, node = Draft(), ROOT
    for d in range(depth):
        law = q(draft.prefix(node))
        node = draft.add(node, sample(law, d, 0), law)
    return draft.tree()


def twins(q: Laws, sample: Sample, depth: int) -> TokenTree:
    """Two FIXED children of the root, each continued by a SAMPLED chain."""
    draft = Draft()
    layer = [draft.add(ROOT, token) for token in best(q(()), 2)] if depth else []
    for d in range(1, depth):
        laws = [q(draft.prefix(node)) for node in layer]
        layer = [draft.add(node, sample(laws[i], d, i), laws[i]) for i, node in enumerate(layer)]
    return draft.tree()


def rounds(
    rule: Rule, drafter: Callable[[Laws, Sample, int], TokenTree], address: Address
) -> Callable[[Tables], float]:
    """TV of the first depth + 1 tokens when a request is decoded round after round with addressed draft noise.

    Verdicts read fresh numbers, so they are enumerated as plain draws.
    """

    def tv(tables: Tables) -> float:
        length = tables.depth + 1

        def decode(draw: Draw) -> list[int]:
            noise = EnumeratedNoise(draw)
            text: list[int] = []
            while len(text) < length:
                start = len(text)

                def sample(law: torch.Tensor, depth: int, node: int, start: int = start) -> int:
                    return noise.sample(law, address(start, depth, node))

                tree = drafter(_after(tables.drafter, text), sample, length - 1 - start)
                outcome = rule.outcome(tree, tables.rows(tree, text))
                end = draw(torch.tensor(outcome.stop, dtype=torch.float64))
                text += [*tree.path_tokens(end - 1), draw(outcome.bonus(end))]
            return text

        law = torch.zeros((tables.vocab,) * length, dtype=torch.float64)
        for probability, text in enumerate_draws(decode):
            law[tuple(text)] += probability
        return total_variation(law.flatten(), tables.target_law(length))

    return tv


_SHARED = "drafter-invariant noise (arXiv 2408.07978) under a rule that uses q"

ADDRESSES: tuple[Control, ...] = (
    Control("draft noise fresh per round and node (chain)", "draftgraph", False, rounds(LayerRule(), chain, fresh)),
    Control("draft noise fresh per round and node (tree)", "draftgraph", False, rounds(LayerRule(), twins, fresh)),
    Control("draft noise by position, met again next round", _SHARED, True, rounds(LayerRule(), chain, by_position)),
    Control("draft noise shared by two nodes of a layer", _SHARED, True, rounds(LayerRule(), twins, by_layer)),
)


def agree_mismatches(rule: Rule, vocab: int, depth: int, seed: int, runs: int = 400) -> tuple[int, int]:
    """(runs whose text differs from plain seeded sampling, runs) for a rule that reads noise by position.

    Drafts are the prover's cases, drawn from numbers of their own, and two that look at the very noise that the target
    will be sampled with: the best candidates of q under it, and the draw from q with it.
    """
    generator = torch.Generator().manual_seed(seed)
    mismatches = 0
    for run in range(runs):
        tables = random_tables(KINDS[run % len(KINDS)], vocab, depth, seed + run)
        noise = Noise(seed + run)
        text: list[int] = []
        while len(text) <= depth:
            program = _some_program(run, noise, len(text), depth - len(text))
            tree = program(
                _after(tables.drafter, text), lambda law: int(torch.multinomial(law, 1, generator=generator))
            )
            verdict = rule.verdict(tree, tables.rows(tree, text), noise, len(text))
            text += [*(tree.tokens[node] for node in verdict.path), verdict.token]
        plain: list[int] = []
        while len(plain) <= depth:
            plain.append(choose(tables.target(plain), noise, len(plain)))
        mismatches += text != plain
    return mismatches, runs


def _some_program(run: int, noise: Noise, start: int, depth: int) -> Program:
    """A case of the prover, or a draft made from the noise of positions start, start + 1, ..."""
    turn = run // len(KINDS) % (len(CASES) + 2)
    if turn < len(CASES):
        return CASES[turn].program(depth)
    k = 1 + turn - len(CASES)

    def likely(d: int, prefix: tuple[int, ...], index: int) -> int:
        return k if d == 0 else 1

    def program(q: Laws, draw: Draw) -> TokenTree:
        def noisy(prefix: tuple[int, ...]) -> torch.Tensor:
            law = q(prefix)
            return law / noise.exponentials(start + len(prefix), len(law))

        return grow(likely, lambda scores, width, _: [(token, None) for token in best(scores, width)], depth)(
            noisy, draw
        )

    return program


def _after(laws: Laws, text: list[int]) -> Laws:
    """The laws of the tokens that follow a committed text."""
    committed = tuple(text)
    return lambda prefix: laws((*committed, *prefix))
