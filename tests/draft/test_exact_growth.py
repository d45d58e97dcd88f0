"""Every growth that ships is lossless: all its drafts are enumerated, and what a rule emits has the target's law.

Nothing is re-implemented here. The code under test drafts with two callables, and both come from the enumerator:
`evaluate` reads q from a table at the node's own prefix, and `draw` is the enumerator's, row by row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from random import Random
from typing import Any

import pytest
import torch

from cost_tables import cost, costs, with_chains
from draftgraph.budget import automatic
from draftgraph.budget.automatic import AutoBudget
from draftgraph.budget.costs import Costs
from draftgraph.draft import model
from draftgraph.draft.base import Drafter
from draftgraph.draft.edges.rows import PRIOR, DraftRows
from draftgraph.draft.edges.sources import EDGES, TAIL, Sources, edges_beside_model, edges_without_model
from draftgraph.draft.edges.table import TokenTable
from draftgraph.draft.graph import DraftGraph, Row
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.structures.base import Growth, Structure
from draftgraph.draft.structures.calibrate import BETA, GAMMA, TEMPERATURES, Calibration, sharpen
from draftgraph.draft.structures.children import KINDS as KINDS_OF_CHILDREN
from draftgraph.draft.structures.levels import grow_levels
from draftgraph.draft.terms import Draw as Draws
from draftgraph.draft.terms import Evaluate, Limits
from draftgraph.engine.config import Config
from draftgraph.engine.round import decode_round
from draftgraph.lab.prove.law import (
    KINDS,
    Drafted,
    Draw,
    Laws,
    Program,
    Tables,
    drafted,
    emitted_law,
    enumerate_draws,
    random_tables,
    total_variation,
)
from draftgraph.request.result import Event
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.warp import Warper
from draftgraph.structures import GSD, Chain, Comb, Graph, Paths, Tree
from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification.layer import LayerRule
from draftgraph.verification.registry import RULES
from enumerated import EnumeratedNoise, by_row, continued, enumerate_drafts, enumerated_rule
from test_sampling_law import TableLM

EXACT, VISIBLE = 1e-12, 1e-3
DEPTH = 3
"""Tokens of the deepest path."""
MOST_DRAFTS = 400
"""Drafts enumerated per case, about."""
PAIRS = (*KINDS, "one-hot q", "one-hot p", "steep q", "even q", "flat q")
"""Kinds of tables: the prover's, and drafters that are too sure, that know nothing, or that are unsure of what is true."""


def pair(kind: str, vocab: int, depth: int, seed: int) -> Tables:
    if kind in KINDS:
        return random_tables(kind, vocab, depth, seed)
    soft, hard = random_tables("random", vocab, depth, seed), random_tables("greedy", vocab, depth, seed)
    if kind == "one-hot p":
        return replace(soft, p=hard.p)
    if kind == "one-hot q":
        return replace(soft, q=hard.q)
    if kind == "flat q":
        return replace(soft, p=[sharpen(rows, 5.0) for rows in soft.p], q=[sharpen(rows, 0.3) for rows in soft.p])
    return replace(soft, q=[sharpen(rows, 9.0 if kind == "steep q" else 0.0) for rows in soft.q])


@dataclass(frozen=True)
class Setting:
    """All that is given when a round begins: fixed while its drafts are enumerated."""

    tables: Tables
    limits: Limits
    branching: tuple[int, ...]
    calibration: Calibration
    context: list[int]
    sources: Sources


def random_setting(kind: str, seed: int) -> Setting:
    random = Random(f"{kind} {seed}")
    vocab = random.choice((2, 3, 3, 4))
    limits = Limits(
        random.choice((1, 2, 3, *range(4, 11), *range(4, 11))), random.choice((1, 2, 2, 3, 3)),
        random.choice((1, 2, *[DEPTH] * 6)), random.choice((0.0, 0.0, 0.0, 0.02, 0.1, 0.3)),
        (random.choice((0.0, 0.0, 0.0, 0.3, 0.7)),) * DEPTH, random.random() < 0.5,
    )  # fmt: skip
    branching = tuple(random.randint(1, 3) for _ in range(random.randint(1, DEPTH)))
    context = [random.randrange(vocab) for _ in range(random.randint(1, 12))]
    tables = pair(kind, vocab, DEPTH, random.randrange(10**6))
    return Setting(tables, limits, branching, some_calibration(random), context, some_sources(random, context, vocab))


def some_calibration(random: Random) -> Calibration:
    """What a request may have learnt: any tables, any draft temperature."""
    calibration = Calibration()
    calibration.beta = [random.choice((b, random.uniform(0.01, 1.0))) for b in BETA]
    calibration.gamma = [random.choice((g, random.uniform(0.05, 2.5))) for g in GAMMA]
    calibration._confirmed = [
        [c * random.choice((1.0, random.uniform(0.0, 3.0))) for c in row] for row in calibration._confirmed
    ]
    calibration._overlap = [random.random() for _ in TEMPERATURES]
    return calibration


def some_sources(random: Random, context: Sequence[int], vocab: int) -> Sources:
    """Every source, or some: text with some rows of the target, a rejected draft, a table; at discounts that were learnt."""
    generator = torch.Generator().manual_seed(random.randrange(10**6))

    def some_rows(count: int) -> list[Row]:
        laws = torch.rand(count, vocab, generator=generator).softmax(1).sort(1, descending=True)
        return [Row(t, w) for t, w in zip(laws.indices.tolist(), laws.values.tolist(), strict=True)]

    names = EDGES if random.random() < 0.5 else random.sample(EDGES, random.randint(1, len(EDGES)))
    table = TokenTable()
    sources = Sources.of(names, [], [random.randrange(vocab) for _ in range(random.randrange(8))], table)
    for _ in range(random.choice((0, 40))):
        sources.discounts.learn(
            random.choice(list(PRIOR)), random.randint(1, 4), random.random(), random.random() < 0.5
        )
    if sources.own is not None:
        sources.own.extend(context, [row if random.random() < 0.5 else None for row in some_rows(len(context))])
    for row in some_rows(random.randrange(12)):
        table.learn([random.randrange(vocab) for _ in range(2)], row)
    if sources.keeps_rejected:
        last = DraftGraph()
        for node, row in enumerate(some_rows(random.randrange(8))):
            last.add(random.randrange(ROOT, node), random.randrange(vocab), 0.5)
            last.rows[node] = row
        without = {node for node in range(len(last)) if random.random() < 0.3}
        sources.rejected = DraftRows(last, context[:-1], sources.discounts, "rejected", without)
    return sources


def reading(q: Laws, temperature: float = 1.0) -> Evaluate:
    """A drafter that reads tables. As in the real one, τ = 1 leaves its laws untouched."""

    def evaluate(graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
        rows = torch.stack([q(tuple(graph.path_tokens(node))) for node in nodes])
        graph.fed.update((node, node) for node in nodes if node != ROOT)
        return rows if temperature == 1.0 else sharpen(rows, 1.0 / temperature)

    return evaluate


# The structures that ship. Those of a given shape have the setting's.

Growing = Callable[[Setting, Evaluate, Draws | None], DraftGraph]


def grow(
    setting: Setting, evaluate: Evaluate, draw: Draws | None, make: Callable[[Setting], Structure], drawn: bool = True
) -> DraftGraph:
    """What the drafter does in a round with this structure; drawn  False: without SAMPLED slots."""
    sources = partial(setting.sources.for_draft, context=setting.context[-TAIL:])
    growth = Growth(
        setting.limits, evaluate, draw if drawn else None, setting.calibration, sources=sources,
        context=setting.context[-TAIL:],
    )  # fmt: skip
    return make(setting).grow(growth)


def fixed(structure: Structure) -> Growing:
    return partial(grow, make=lambda setting: structure, drawn=False)


def sampled(structure: Structure) -> Growing:
    return partial(grow, make=lambda setting: structure)


def shaped(children: str, drawn: bool = True) -> Growing:
    return partial(grow, make=lambda setting: Tree(setting.branching, children), drawn=drawn)


def no_passes(growing: Growing) -> Growing:
    """A round without drafter passes."""
    return lambda setting, *rest: growing(replace(setting, limits=replace(setting.limits, depth=0)), *rest)


levels, filled = sampled(Tree()), sampled(Graph())
SEEDS = {"levels": 16, "levels, filled": 16}
"""How many settings, of each kind of table; these shapes depend on more than the others."""
TREES = ("layer", "agree", "recursive", "traversal")
CHAINS = (*TREES, "block", "token")
GROWTHS: dict[str, tuple[Growing, bool, Sequence[str]]] = {
    "levels": (levels, True, TREES),
    "levels, filled": (filled, True, TREES),
    **{f"branching, {kind}": (shaped(kind), kind != "fixed", TREES) for kind in KINDS_OF_CHILDREN},
    "branching, i.i.d.": (shaped("with_replacement"), True, ("kseq",)),
    "paths": (sampled(Paths()), True, (*TREES, "kseq", "multipath")),
    "two paths": (sampled(Paths(2)), True, (*TREES, "kseq", "multipath")),
    "two paths of two": (sampled(Paths(2, 2)), True, (*TREES, "kseq", "multipath")),
    "comb": (sampled(Comb()), True, TREES),
    "chain": (sampled(Chain()), True, (*CHAINS, "kseq", "multipath")),
    "chain of two": (sampled(Chain(2)), True, (*CHAINS, "kseq", "multipath")),
    "branching, FIXED": (shaped("hybrid", drawn=False), False, TREES),
    "comb, FIXED": (fixed(Comb()), False, TREES),
    "best-first": (fixed(Tree()), False, TREES),
    "best-first chain": (fixed(Chain()), False, CHAINS),
    "chain of two, FIXED": (fixed(Chain(2)), False, CHAINS),
    "best-first, filled": (fixed(Graph()), False, TREES),
    "copies": (no_passes(filled), True, TREES),
    "copies, best-first": (no_passes(fixed(Graph())), False, TREES),
    "gsd 0": (fixed(GSD(0)), False, TREES),
    "gsd 1": (fixed(GSD(1)), False, TREES),
}
"""Growth, whether it draws (and is sharpened), and the rules that verify it."""


def program(growth: Growing, setting: Setting, sampled: bool = True) -> Program:
    temperature = setting.calibration.temperature if sampled else 1.0
    return lambda q, draw: growth(setting, reading(q, temperature), by_row(draw)).tree()


def tv(drafts: Sequence[Drafted], tables: Tables, rule: str = "layer") -> float:
    law = emitted_law(RULES[rule], tables, drafts, tables.depth + 1).law
    return total_variation(law, tables.target_law(tables.depth + 1))


def affordable(growth: Growing, setting: Setting) -> Setting:
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
    for seed in range(SEEDS.get(name, 4)):
        setting = random_setting(kind, seed)
        if sampled:
            setting = affordable(growth, setting)
        drafts = list(drafted(setting.tables, program(growth, setting, sampled)))
        for rule in rules:
            assert tv(drafts, setting.tables, rule) <= EXACT, (seed, rule, setting.limits)


@pytest.mark.parametrize("name", GROWTHS)
def test_no_drafter_is_asked_beyond_the_reach(name: str) -> None:
    """There a node could neither be verified nor, at the end of the context window, be evaluated."""
    for seed in range(20):
        setting = random_setting("random", seed)
        read = reading(setting.tables.drafter)

        def evaluate(graph: DraftGraph, nodes: Sequence[int], setting: Setting = setting, read: Evaluate = read) -> Any:
            assert all(graph.depth(node) < setting.limits.reach for node in nodes)
            return read(graph, nodes)

        GROWTHS[name][0](setting, evaluate, by_row(lambda law: int(law.argmax())))


def test_the_graph_is_the_tree_and_copies_in_its_spare_slots() -> None:
    """Node for node and law for law, for every draft; no copy without a spare slot."""
    full = copied = 0
    for seed in range(150):
        setting = affordable(levels, random_setting(PAIRS[seed % len(PAIRS)], 1000 + seed))
        trees, graphs = (
            list(enumerate_draws(partial(program(growth, setting), setting.tables.drafter)))
            for growth in (levels, filled)
        )
        for (probability, tree), (same, graph) in zip(trees, graphs, strict=True):
            n = len(tree)
            assert same == probability
            assert list(graph.tokens)[:n] == tree.tokens
            assert list(graph.parents)[:n] == tree.parents
            assert list(graph.law_row)[:n] == tree.law_row
            assert tree.laws is graph.laws is None or torch.equal(tree.laws, graph.laws)  # type: ignore[arg-type]
            assert set(graph.law_row[n:]) <= {FIXED}
            assert len(graph) == n or n < len(graph) <= setting.limits.budget
            full += n == setting.limits.budget
            copied += len(graph) > n
    assert full > 1000
    assert copied > 50


# Rounds that learn from each other.


@pytest.fixture
def enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    enumerate_drafts(monkeypatch)


class TableModel(TableLM):
    def __init__(self, laws: Laws, vocab: int, prompt: int) -> None:
        self.vocab_size = vocab
        self.row = lambda text: laws(text[prompt:]).log()


class Eager(Calibration):
    """A calibration that one round convinces."""

    def __init__(self) -> None:
        super().__init__()
        self._weight = [1.0] * len(BETA)
        self._promised = [[0.01] * len(row) for row in self._promised]
        self._confirmed = [list(row) for row in self._promised]
        self._overlap = [0.0] * len(TEMPERATURES)


def decoded(
    tables: Tables,
    config: Config,
    limits: Limits,
    prompt: list[int],
    count: int,
    draw: Draw,
    switch: float = 0.0,
    table: Costs | None = None,
    looked_up: bool = False,
    narrows: bool = False,
) -> Request:
    """`count` rounds of the real loop, with the real drafter; FIXED drafts once the measured overlap is below `switch`.

    table  the automatic budget decides by these costs, within `limits`. looked_up  without a draft model.
    narrows  it may draft chains.
    """
    structure = config.resolved_structure
    choice = Strategy(enumerated_rule(LayerRule()), structure, structure.draws, "enumerated")
    edges = edges_beside_model(config.edges, structure)
    drafter: Drafter = model.ModelDrafter(TableModel(tables.drafter, tables.vocab, len(prompt)), tables.vocab, edges)
    if looked_up:
        drafter = LookupDrafter(edges_without_model(config.edges, False))
    target = TableModel(tables.target, tables.vocab, len(prompt))
    params = SamplingParams(max_new_tokens=tables.depth + 1, temperature=1.0)
    request = Request(
        params, choice, list(prompt), len(prompt), params.max_new_tokens, frozenset(), EnumeratedNoise(draw),
        Warper(params, len(prompt), [], target.device), Detokenizer(None, prompt, ()), tables.vocab,
    )  # fmt: skip
    request.text = target.open(0)
    drafter.begin(request)
    if not looked_up:
        request.drafting.calibration = Eager()
    auto = None
    if table is not None:
        auto = AutoBudget(table, limits.depth, not looked_up, copies=True, narrows=narrows, draws=not looked_up)

    def bounds(request: Request) -> Limits:
        if auto is None:
            return replace(limits, reach=request.remaining - 1)
        planned = auto.plan(len(request.tokens), request.rounds, request.remaining - 1)
        return replace(planned, budget=min(planned.budget, limits.budget))

    for _ in range(count):
        if request.finish_reason is None:
            (happened,) = decode_round([request], drafter, target, [bounds(request)])
            assert isinstance(happened, Event), happened
            seen = drafter.overlap(request)
            if seen is not None and seen.mean < switch:
                request.choice = replace(choice, sampled=False)
    return request


def round_tables(name: str, kind: str, seed: int) -> Tables:
    return pair(kind, ROUNDS[name][1], ROUNDS[name][3], seed)


def histories(name: str, tables: Tables) -> Iterator[tuple[float, Request]]:
    config, _, limits, _, count = ROUNDS[name]
    return enumerate_draws(partial(decoded, tables, config, limits, [0, 1], count))


BESIDE_MODEL = ("merge", "own", "context", "rejected", "table")
READS_AHEAD = Config(structure=Graph(read_ahead=4), edges=BESIDE_MODEL)
ROUNDS = {
    "graph": (Config(structure="graph"), 2, Limits(6, 2, 0, 0.2, spread=False), 5, 3),
    "graph that is a chain": (Config(structure="graph"), 2, Limits(3, 3, 0, 0.2, (0.0, 0.5), narrow=True), 5, 3),
    "graph that reads ahead": (READS_AHEAD, 2, Limits(6, 2, 0, 0.2, spread=False), 5, 3),
    "graph of one pass": (Config(structure="graph", edges=BESIDE_MODEL), 2, Limits(5, 1, 0), 5, 3),
    "graph of rejected branches": (Config(structure="graph", edges="rejected"), 2, Limits(8, 2, 0), 6, 3),
    "graph of copies": (Config(structure="graph", edges=BESIDE_MODEL), 2, Limits(3, 0, 0), 5, 4),
    "graph of three tokens": (Config(structure="graph"), 3, Limits(7, 2, 0, 0.2, (0.3,) * 2, spread=False), 3, 2),
    "tree": (Config(structure="tree"), 3, Limits(5, 2, 0), 3, 2),
    "tree of four tokens": (Config(structure="tree"), 4, Limits(3, 2, 0), 3, 2),
    "chain": (Config(structure="chain"), 2, Limits(3, 3, 0), 4, 3),
    "branching": (Config(structure=Tree((2, 1))), 3, Limits(4, 2, 0), 3, 2),
    "systematic": (Config(structure=Tree((3,), "systematic")), 4, Limits(3, 1, 0), 2, 2),
    "without replacement": (Config(structure=Tree((2, 1), "without_replacement")), 3, Limits(4, 2, 0), 2, 2),
    "paths": (Config(structure="paths"), 2, Limits(4, 2, 0), 3, 2),
    "comb": (Config(structure="comb"), 3, Limits(4, 2, 0), 3, 2),
    "gsd": (Config(structure="gsd"), 3, Limits(6, 3, 0), 4, 3),
}
"""Configuration, vocabulary, limits, depth of the tables, rounds."""


@pytest.mark.usefixtures("enumerated")
@pytest.mark.parametrize("name", ROUNDS)
def test_rounds_that_learn_are_lossless(name: str) -> None:
    """Calibration, draft temperature, discounts and the target's own rows: round 1 shapes round 2, and so on."""
    for kind, seed in (("random", 0), ("sparse", 1), ("flat q", 0)):
        tables = round_tables(name, kind, seed)
        masses: defaultdict[tuple[int, ...], float] = defaultdict(float)
        for probability, request in histories(name, tables):
            masses[tuple(request.output)] += probability
        assert total_variation(continued(masses, tables), tables.target_law(tables.depth + 1)) <= EXACT, (kind, seed)


@pytest.mark.usefixtures("enumerated")
def test_turning_to_fixed_drafts_after_what_was_measured_is_lossless() -> None:
    """As `choice.reconsider` does: the switch depends on the texts that came out, and only some of them reach it."""
    config, _, limits, _, count = ROUNDS["graph"]
    turned = stayed = 0
    for kind, seed in product(("random", "sparse", "flat q"), range(2)):
        tables = round_tables("graph", kind, seed)
        masses: defaultdict[tuple[int, ...], float] = defaultdict(float)
        run = partial(decoded, tables, config, limits, [0, 1], count, switch=0.8)
        for probability, request in enumerate_draws(run):
            masses[tuple(request.output)] += probability
            turned += not request.choice.sampled
            stayed += request.choice.sampled
        assert total_variation(continued(masses, tables), tables.target_law(tables.depth + 1)) <= EXACT, (kind, seed)
    assert turned > 100
    assert stayed > 100


@pytest.mark.usefixtures("enumerated")
@pytest.mark.parametrize(
    ("drafter", "reached", "nodes", "seen"),
    [(0.1, 0.5, 5, ("draft", "draft")), (1.0, 0.3, 1, ("draft", "copies")), (3.0, 0.5, 3, ("copies", "copies"))],
)
def test_rounds_whose_budget_is_decided_between_them_are_lossless(
    drafter: float, reached: float, nodes: int, seen: tuple[str, str]
) -> None:
    """Whether and how much is drafted depends on what was accepted, and so on the texts that came out."""
    table = costs(drafter=drafter, reached=reached)
    decided: set[tuple[str, ...]] = set()
    for kind, seed in product(("random", "sparse", "flat q"), range(2)):
        tables = pair(kind, 2, 5, seed)
        masses: defaultdict[tuple[int, ...], float] = defaultdict(float)
        run = partial(decoded, tables, Config(structure="graph"), Limits(nodes, 2, 0), [0, 1], 3, table=table)
        for probability, request in enumerate_draws(run):
            masses[tuple(request.output)] += probability
            decided.add(tuple(record.decision for record in request.rounds[:2]))
        assert total_variation(continued(masses, tables), tables.target_law(tables.depth + 1)) <= EXACT, (kind, seed)
    assert seen in decided


@pytest.mark.usefixtures("enumerated")
def test_rounds_whose_form_is_decided_between_them_are_lossless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain or a graph: which one depends on what was accepted, and so on the texts that came out."""
    monkeypatch.setattr(automatic, "COMPARED_EVERY", 1)
    monkeypatch.setattr(automatic, "STAY", 1.0)
    torn = with_chains(costs(drafter=0.1, reached=0.8, levels=2), 0.65, less=0.3, levels=2)
    shapes: set[tuple[bool, ...]] = set()
    for kind, seed in product(("random", "sparse", "flat q"), range(2)):
        tables = pair(kind, 2, 5, seed)
        masses: defaultdict[tuple[int, ...], float] = defaultdict(float)
        run = partial(decoded, tables, Config(structure="graph"), Limits(4, 2, 0), [0, 1], 3, table=torn, narrows=True)
        for probability, request in enumerate_draws(run):
            masses[tuple(request.output)] += probability
            shapes.add(tuple("a chain" in record.reason for record in request.rounds[:3]))
        assert total_variation(continued(masses, tables), tables.target_law(tables.depth + 1)) <= EXACT, (kind, seed)
    assert {shape[0] for shape in shapes} == {True}
    assert {(True, False), (True, True)} <= {shape[:2] for shape in shapes}


@pytest.mark.usefixtures("enumerated")
@pytest.mark.parametrize("looked_up", [False, True])
@pytest.mark.parametrize("rows", [(1.0, 1.05, 1.1, 1.15, 1.2), (1.0, 1.9, 1.3, 1.35, 1.2)], ids=["even", "with a hump"])
def test_drafts_of_copies_that_are_cut_where_they_pay_best_are_lossless(rows: Sequence[float], looked_up: bool) -> None:
    """How many copies are verified depends on the copies themselves, on what was accepted, and on a table of any form."""
    sizes = (1, 2, 3, 4, 33)
    table = replace(costs(drafter=9.0), target=cost(*(5e-3 * part for part in rows), rows=sizes))
    seen: set[int] = set()
    for kind, seed in product(("random", "sparse", "flat q"), range(2)):
        tables = pair(kind, 2, 5, seed)
        masses: defaultdict[tuple[int, ...], float] = defaultdict(float)
        run = partial(
            decoded, tables, Config(structure="graph"), Limits(6, 2, 0), [0, 1, 0, 1, 1, 0], 4, table=table,
            looked_up=looked_up,
        )  # fmt: skip
        for probability, request in enumerate_draws(run):
            masses[tuple(request.output)] += probability
            seen |= {len(record.tokens) for record in request.rounds}
            assert {record.decision for record in request.rounds} <= {"copies", "plain"}
        assert total_variation(continued(masses, tables), tables.target_law(tables.depth + 1)) <= EXACT, (kind, seed)
    assert len(seen) >= 3
    assert seen & {2, 3, 4, 5, 6}


@pytest.mark.usefixtures("enumerated")
def test_rounds_do_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above would prove little: later rounds draft otherwise than they would have, and copies are among it."""

    def later(name: str, kind: str) -> list[Any]:
        return [
            [(record.tokens, record.parents, record.sampled) for record in request.rounds[1:]]
            for _, request in histories(name, round_tables(name, kind, 1))
        ]

    requests = [request for _, request in histories("tree", round_tables("tree", "flat q", 1))]
    assert max(request.drafting.calibration.temperature for request in requests) < 1.0
    requests = [request for _, request in histories("graph", round_tables("graph", "random", 1))]
    origins = {origin for request in requests for record in request.rounds[1:] for origin in record.origins}
    assert origins >= {"drafter", "merge", "own"}
    requests = [
        request for _, request in histories("graph of one pass", round_tables("graph of one pass", "random", 1))
    ]
    origins = {origin for request in requests for record in request.rounds for origin in record.origins}
    assert origins >= {"drafter", "context", "table"}
    name = "graph of rejected branches"
    requests = [request for _, request in histories(name, round_tables(name, "random", 1))]
    assert {origin for request in requests for record in request.rounds for origin in record.origins} >= {"rejected"}
    requests = [request for _, request in histories("graph of copies", round_tables("graph of copies", "random", 1))]
    assert not any(record.num_passes for request in requests for record in request.rounds)
    assert sum(len(record.path) for request in requests for record in request.rounds) > 0
    learnt = {name: later(name, "random") for name in ("graph", "graph of three tokens")}
    monkeypatch.setattr(Calibration, "observe", lambda *observed: None)
    assert any(later(name, "random") != drafts for name, drafts in learnt.items())


# Mistakes in the same growths, which must be seen.


def worst(drafting: Callable[[Setting], Program], limits: Limits, vocab: int = 3, temperature: float = 1.0) -> float:
    """The largest total variation over some random tables."""
    found = 0.0
    for seed in range(8):
        calibration = Calibration()
        calibration._overlap = [float(t == temperature) for t in TEMPERATURES]
        tables = random_tables("random", vocab, max(limits.reach, limits.depth), seed)
        setting = replace(random_setting("random", seed), tables=tables, limits=limits, calibration=calibration)
        found = max(found, tv(list(drafted(tables, drafting(setting))), tables))
    return found


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


def continued_rejected(setting: Setting, q: Laws, draw: Draw, judged: bool = True) -> TokenTree:
    """A token copied from a row of the last round is judged as if it had been drawn from that row."""
    row = q(()).roll(1)
    graph = DraftGraph()
    law = graph.add_laws(row[None]) if judged else FIXED
    graph.add(ROOT, int(row.argmax()), 1.0, law=law, origin="rejected")
    return graph.tree()


def copied_inside(setting: Setting, q: Laws, draw: Draw, continued: bool = True) -> TokenTree:
    """The token drawn deepest is copied to the nodes above it that nothing hangs below; a SAMPLED child continues it."""
    graph, passes = grow_levels(reading(q), by_row(draw), setting.limits, setting.calibration)
    deepest = graph.tokens[-1]
    for node in [node for node in range(len(graph)) if graph.depth(node) < passes - 1 and node not in graph.rows]:
        copy = graph.add(node, deepest, 0.0, origin="merge")
        if continued:
            law = q(tuple(graph.path_tokens(copy)))
            graph.add(copy, draw(law), 0.0, law=graph.add_laws(law[None]))
    return graph.tree()


def judged_unsharpened(setting: Setting, q: Laws, draw: Draw, mistaken: bool = True) -> TokenTree:
    """SAMPLED slots are drawn at the draft temperature, and q itself is stated as their law."""
    tree = levels(setting, reading(q, setting.calibration.temperature), by_row(draw)).tree()
    if not mistaken or tree.laws is None:
        return tree
    laws = tree.laws.clone()
    for node, row in enumerate(tree.law_row):
        if row != FIXED:
            stated = torch.where(tree.laws[row] > 0, q(tuple(tree.path_tokens(node)[:-1])), 0.0)
            laws[row] = stated / stated.sum()
    return replace(tree, laws=laws)


CONTROLS: dict[str, tuple[Callable[..., TokenTree], Limits, int, float]] = {
    "an unlikely draw is dropped": (without_unlikely, Limits(6, 2, 2), 3, 1.0),
    "a copy is judged by the row it was copied from": (continued_rejected, Limits(6, 2, 2), 3, 1.0),
    "a copy of a deeper token is continued by a draw": (copied_inside, Limits(6, 4, 4), 2, 1.0),
    "sharpened draws judged by q": (judged_unsharpened, Limits(5, 2, 2), 3, 0.8),
}
"""The mistake, limits, vocabulary and draft temperature."""


@pytest.mark.parametrize("name", CONTROLS)
def test_mistakes_are_seen(name: str) -> None:
    """Each changes one thing; without it the same drafts are exact.

    Of the copies only the SAMPLED child is taken back: a FIXED slot with nothing SAMPLED below it may look at everything.
    """
    mistake, limits, vocab, temperature = CONTROLS[name]
    assert worst(lambda setting: partial(mistake, setting), limits, vocab, temperature) > VISIBLE
    repaired = worst(lambda setting: lambda q, draw: mistake(setting, q, draw, False), limits, vocab, temperature)
    assert repaired <= EXACT
