"""Every growth that ships is lossless: all its drafts are enumerated, and what a rule emits has the target's law.

Nothing is re-implemented here. The code under test drafts with two callables, and both come from the enumerator:
`evaluate` reads q from a table at the node's own prefix, and `draw` is the enumerator's, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_sampling_law import TableLM

from draftgraph.config import Config, SamplingParams
from draftgraph.detokenize import Detokenizer
from draftgraph.draft import model
from draftgraph.draft.base import Draw as Draws
from draftgraph.draft.base import Evaluate, Limits
from draftgraph.draft.best_first import WIDTH, add_edges, grow_best_first
from draftgraph.draft.calibrate import BETA, GAMMA, TEMPERATURES, Calibration, sharpen
from draftgraph.draft.edges import PRIOR, Discounts, DraftRows, TextRows
from draftgraph.draft.graph import DraftGraph, Row, Unroller
from draftgraph.draft.gsd import grow_gsd
from draftgraph.draft.levels import grow_branching, grow_levels
from draftgraph.request import Request
from draftgraph.rng import Noise
from draftgraph.round import decode_round
from draftgraph.types import FIXED, ROOT, TokenTree, Verdict
from draftgraph.verify import RULES
from draftgraph.verify.law import (
    KINDS,
    Draw,
    Laws,
    Program,
    Tables,
    enumerate_draws,
    output_law,
    random_tables,
    total_variation,
)
from draftgraph.verify.layer import LayerRule
from draftgraph.warp import Warper

EXACT, VISIBLE = 1e-12, 1e-3
DEPTH = 3
"""Tokens of the deepest path."""
MOST_DRAFTS = 600
"""Drafts enumerated per case, about."""
PAIRS = (*KINDS, "one-hot q", "one-hot p", "steep q", "even q")
"""Kinds of tables: the prover's, and drafters that know nothing, or leave next to nothing beside their best token."""


def pair(kind: str, vocab: int, depth: int, seed: int) -> Tables:
    if kind in KINDS:
        return random_tables(kind, vocab, depth, seed)
    soft, hard = random_tables("random", vocab, depth, seed), random_tables("greedy", vocab, depth, seed)
    if kind == "one-hot p":
        return replace(soft, p=hard.p)
    q = hard.q if kind == "one-hot q" else [sharpen(rows, 9.0 if kind == "steep q" else 0.0) for rows in soft.q]
    return replace(soft, q=q)


@dataclass(frozen=True)
class Setting:
    """All that is given when a round begins: fixed while its drafts are enumerated."""

    tables: Tables
    limits: Limits
    branching: tuple[int, ...]
    calibration: Calibration
    context: list[int]
    own: TextRows

    @property
    def discounts(self) -> Discounts:
        return self.own.discounts


def random_setting(kind: str, seed: int) -> Setting:
    random = Random(f"{kind} {seed}")
    vocab = random.choice((2, 3, 3, 4))
    limits = Limits(
        random.choice((1, 2, 3, *range(4, 11), *range(4, 11))), random.choice((1, 2, 2, 3, 3)),
        random.choice((1, 2, *[DEPTH] * 6)), random.choice((0.0, 0.0, 0.0, 0.02, 0.1, 0.3)),
        random.choice((0.0, 0.0, 0.0, 0.3, 0.7)), random.random() < 0.5,
    )  # fmt: skip
    branching = tuple(random.randint(1, 3) for _ in range(random.randint(1, DEPTH)))
    context = [random.randrange(vocab) for _ in range(random.randint(1, 12))]
    tables = pair(kind, vocab, DEPTH, random.randrange(10**6))
    return Setting(tables, limits, branching, some_calibration(random), context, some_text(random, context, vocab))


def some_calibration(random: Random) -> Calibration:
    """What a request may have learnt: any tables, any draft temperature."""
    calibration = Calibration()
    calibration.beta = [random.choice((b, random.uniform(0.01, 1.0))) for b in BETA]
    calibration.gamma = [random.choice((g, random.uniform(0.05, 2.5))) for g in GAMMA]
    calibration._confirmed = [[c * random.choice((1.0, random.uniform(0.0, 3.0))) for c in row] for row in calibration._confirmed]
    calibration._overlap = [random.random() for _ in TEMPERATURES]
    return calibration


def some_text(random: Random, context: Sequence[int], vocab: int) -> TextRows:
    """The request's own text, some of it with rows of the target, at discounts that may have been learnt."""
    discounts = Discounts()
    for _ in range(random.choice((0, 40))):
        discounts.learn(random.choice(list(PRIOR)), random.randint(1, 4), random.random(), random.random() < 0.5)
    own = TextRows(discounts)
    generator = torch.Generator().manual_seed(random.randrange(10**6))
    laws = torch.rand(len(context), vocab, generator=generator).softmax(1).sort(1, descending=True)
    rows = [Row(t, w) for t, w in zip(laws.indices.tolist(), laws.values.tolist(), strict=True)]
    own.extend(context, [row if random.random() < 0.5 else None for row in rows])
    return own


def reading(q: Laws, temperature: float = 1.0) -> Evaluate:
    """A drafter that reads tables. As in the real one, τ = 1 leaves its laws untouched."""

    def evaluate(graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
        rows = torch.stack([q(tuple(graph.path_tokens(node))) for node in nodes])
        graph.fed.update((node, node) for node in nodes if node != ROOT)
        return rows if temperature == 1.0 else sharpen(rows, 1.0 / temperature)

    return evaluate


def by_row(draw: Draw) -> Draws:
    return lambda laws, depth, addresses: [draw(law) for law in laws]


# The growths that ship.

Growth = Callable[[Setting, Evaluate, Draws], DraftGraph]


def levels(setting: Setting, evaluate: Evaluate, draw: Draws) -> DraftGraph:
    return grow_levels(evaluate, draw, setting.limits, setting.calibration)[0]


def filled(setting: Setting, evaluate: Evaluate, draw: Draws) -> DraftGraph:
    """`structure="graph"` with SAMPLED slots."""
    graph, passes = grow_levels(evaluate, draw, setting.limits, setting.calibration)
    request: Any = SimpleNamespace(tokens=setting.context, drafting=SimpleNamespace(own=setting.own, discounts=setting.discounts))
    drafter = model.ModelDrafter(None, Config(), LayerRule(), setting.tables.vocab)  # type: ignore[arg-type]
    return drafter._fill(request, graph, setting.limits, passes, sampled=True)


def branching(setting: Setting, evaluate: Evaluate, draw: Draws) -> DraftGraph:
    return grow_branching(evaluate, draw, setting.limits, setting.branching)[0]


def chain(setting: Setting, evaluate: Evaluate, draw: Draws) -> DraftGraph:
    return grow_branching(evaluate, draw, setting.limits, (1,) * setting.limits.depth)[0]


def branching_fixed(setting: Setting, evaluate: Evaluate, draw: Draws) -> DraftGraph:
    return grow_branching(evaluate, None, setting.limits, setting.branching)[0]


def best_first(setting: Setting, evaluate: Evaluate, draw: Draws, width: int = WIDTH) -> DraftGraph:
    return grow_best_first(evaluate, setting.limits, setting.calibration.expected, width)[0]


def best_first_filled(setting: Setting, evaluate: Evaluate, draw: Draws) -> DraftGraph:
    """`structure="graph"` without SAMPLED slots."""
    graph = best_first(setting, evaluate, draw)
    sources = [DraftRows(graph, setting.context, setting.discounts), setting.own]
    return add_edges(graph, sources, setting.context[-8:], setting.limits)


def gsd(setting: Setting, evaluate: Evaluate, draw: Draws, match: int) -> DraftGraph:
    return grow_gsd(evaluate, setting.limits, match)[0]


TREES, CHAINS = ("layer", "agree"), ("layer", "agree", "block", "token")
GROWTHS: dict[str, tuple[Growth, bool, Sequence[str]]] = {
    "levels": (levels, True, TREES),
    "levels, filled": (filled, True, TREES),
    "branching": (branching, True, TREES),
    "chain": (chain, True, CHAINS),
    "branching, FIXED": (branching_fixed, False, TREES),
    "best-first": (best_first, False, TREES),
    "best-first chain": (partial(best_first, width=1), False, CHAINS),
    "best-first, filled": (best_first_filled, False, TREES),
    "gsd 0": (partial(gsd, match=0), False, TREES),
    "gsd 1": (partial(gsd, match=1), False, TREES),
}
"""Growth, whether it draws (and is sharpened), and the rules that verify it."""


def program(growth: Growth, setting: Setting, sampled: bool = True) -> Program:
    temperature = setting.calibration.temperature if sampled else 1.0
    return lambda q, draw: growth(setting, reading(q, temperature), by_row(draw)).tree()


def tv(drafting: Program, tables: Tables, rule: str = "layer") -> float:
    law = output_law(RULES[rule], tables, drafting, tables.depth + 1).law
    return total_variation(law, tables.target_law(tables.depth + 1))


def affordable(growth: Growth, setting: Setting) -> Setting:
    """The setting with the largest budget, up to its own, whose drafts can be enumerated."""

    def few(setting: Setting) -> bool:
        drafts = enumerate_draws(partial(program(growth, setting), setting.tables.drafter))
        return len(list(islice(drafts, MOST_DRAFTS + 1))) <= MOST_DRAFTS

    while not few(setting):
        setting = replace(setting, limits=replace(setting.limits, budget=setting.limits.budget - 1))
    return setting


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("name", GROWTHS)
def test_growth_is_lossless(name: str, kind: str) -> None:
    growth, sampled, rules = GROWTHS[name]
    for seed in range(40 if sampled else 10):
        setting = random_setting(kind, seed)
        if sampled:
            setting = affordable(growth, setting)
        for rule in rules:
            assert tv(program(growth, setting, sampled), setting.tables, rule) <= EXACT, (seed, rule, setting.limits)


# Mistakes in the same growths, which must be seen.


def worst(drafting: Callable[[Setting], Program], limits: Limits, vocab: int = 3, temperature: float = 1.0) -> float:
    """The largest total variation over some random tables."""
    found = 0.0
    for seed in range(8):
        base = random_setting("random", seed)
        calibration = Calibration()
        calibration._overlap = [float(t == temperature) for t in TEMPERATURES]
        tables = random_tables("random", vocab, max(limits.reach, limits.depth), seed)
        context = [token % vocab for token in base.context]
        own = TextRows(Discounts())
        own.extend(context)
        setting = replace(base, tables=tables, limits=limits, calibration=calibration, context=context, own=own)
        found = max(found, tv(drafting(setting), tables))
    return found


WIDE = Limits(budget=6, depth=2, reach=2)


def without_unlikely(setting: Setting, q: Laws, draw: Draw, dropped: bool = True) -> TokenTree:
    """Drops the SAMPLED slots whose own token turned out to be unlikely, and what hangs below them."""
    tree = levels(setting, reading(q), by_row(draw)).tree()
    kept: dict[int, int] = {ROOT: ROOT}
    for node, (parent, row) in enumerate(zip(tree.parents, tree.law_row, strict=True)):
        unlikely = row != FIXED and float(tree.laws[row, tree.tokens[node]]) < 0.3
        if parent in kept and not (unlikely and dropped):
            kept[node] = len(kept) - 1
    nodes = sorted(kept)[1:]
    return TokenTree(
        [tree.tokens[node] for node in nodes],
        [kept[tree.parents[node]] for node in nodes],
        [tree.law_row[node] for node in nodes],
        tree.laws,
    )


def copied_inside(setting: Setting, q: Laws, draw: Draw, continued: bool = True) -> TokenTree:
    """Copies hang inside the drafted depth, by edges to rows of deeper, drawn nodes; a SAMPLED child continues them."""
    graph, passes = grow_levels(reading(q), by_row(draw), setting.limits, setting.calibration)
    drafted = len(graph)
    inside = [node for node in range(drafted) if graph.depth(node) < passes and node not in graph.rows]
    sources = [DraftRows(graph, setting.context, setting.discounts)]
    Unroller(graph, sources, setting.context[-8:], 0.0).grow(inside, drafted + 3, passes - 1)
    for copy in range(drafted, len(graph)):
        if continued:
            law = q(tuple(graph.path_tokens(copy)))
            graph.add(copy, draw(law), 0.0, law=graph.add_laws(law[None]))
    return graph.tree()
