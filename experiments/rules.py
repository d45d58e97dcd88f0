"""How many tokens per target call does each rule emit on the same drafts? By draft, node count and temperature; no clocks.

    python -m experiments.rules [--part gamma|nodes|all] [--pair story-124k code] [--quick]

gamma  block against token verification on chains of 1 to 16 tokens.
nodes  every kind of draft at 8, 16, 32 and 64 nodes, each judged by every rule that verifies it.

One round at fixed places of held-out texts; what is averaged is the expectation given the draft. Writes rules.json, rules.md,
rules-gamma.png and rules-nodes.png into --out.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, product
from operator import mul
from typing import Any

from rich.progress import track

import draftgraph as dg
from draftgraph.lab.bench.prompts import spread
from draftgraph.lab.pair import Pair
from draftgraph.lab.predict.estimate import Estimate, ratio
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table, temperature
from experiments.material import ABOUT, PAIRS, held_out, load_pair
from experiments.one_round import Drafted, Witness, draft_at, engine_with, expected_length
from experiments.rules_plot import plot

CUTS = (40, 80, 120)
GAMMA = 16
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Of part gamma."""
NODES = {8: (2, 1, 1, 1), 16: (2, *[1] * 7), 32: (2, 2, *[1] * 6), 64: (4, 2, *[1] * 6)}
"""Fixed shapes for about that many nodes."""
GAINS = tuple(
    product(
        ("level policy, layer", "hybrid, layer"),
        ("without replacement, recursive", "top-k, best first, walk"),
    )
)
"""Pairs of draft and rule whose ratio is told: winner, baseline."""

Lengths = dict[tuple[Any, ...], dict[int, list[float]]]
"""Expected tokens of rounds, by what is compared, and by the number of the text."""


@dataclass(frozen=True)
class Setup:
    """A kind of draft, the options of `Config` that make it, and the rules that judge it. fill  see `Witness`."""

    name: str
    options: dict[str, Any]
    rules: tuple[str, ...]
    fill: bool = False


def setups(nodes: int) -> Iterator[Setup]:
    """Everything that is compared at a node count."""
    budget: dict[str, Any] = {"structure": "tree", "budget": nodes}
    joint = ("layer", "traversal", "recursive")
    yield Setup("level policy", budget, ("layer", "recursive"))
    yield Setup("hybrid", _tree(nodes, "hybrid"), joint)
    yield Setup("systematic", _tree(nodes, "systematic"), joint)
    yield Setup("spine", _tree(nodes, "spine"), joint)
    yield Setup("without replacement", _tree(nodes, "without_replacement"), joint)
    yield Setup("with replacement", _tree(nodes, "with_replacement"), (*joint, "kseq"))
    paths = dg.structures.Paths(max(2, nodes // 8), 8) if nodes > 8 else dg.structures.Paths(2, 4)
    yield Setup("i.i.d. paths", {"structure": paths}, (*joint, "kseq", "multipath"))
    yield Setup("comb", budget | {"structure": "comb"}, ("layer", "recursive"))
    yield Setup("top-k, same shape", _tree(nodes, "fixed") | {"rule": "walk"}, ("walk",))
    yield Setup("top-k, best first", budget | {"rule": "walk"}, ("walk",), fill=True)
    if nodes <= GAMMA:
        yield Setup("chain", _chain(nodes), ("block", "token"))


def _tree(nodes: int, children: str) -> dict[str, Any]:
    return {"structure": dg.structures.Tree(NODES[nodes], children)}


def _chain(length: int) -> dict[str, Any]:
    return {"structure": "chain", "budget": length, "num_speculative_tokens": length}


@dataclass(frozen=True)
class Row:
    """length, error  expected tokens of a round, mean over places ± standard error over texts; nodes, passes  means."""

    part: str
    pair: str
    temperature: float
    target_nodes: int
    draft: str
    rule: str
    length: float
    error: float
    nodes: float
    passes: float
    places: int


@dataclass(frozen=True)
class Gain:
    """How much more one (draft, rule) emits than another at the same node count: ratio of means ± its standard error."""

    pair: str
    temperature: float
    nodes: int
    winner: str
    baseline: str
    ratio: float
    error: float


@dataclass(frozen=True)
class Subject:
    """A pair, and the texts in which it drafts."""

    name: str
    pair: Pair
    texts: Sequence[Sequence[int]]

    def drafted(self, setup: Setup, temperature: float) -> Iterator[tuple[int, Drafted]]:
        """The number of a text, and a round in it, for every place; places and seeds are the same for all setups."""
        engine = engine_with(Witness, self.pair, setup.options)
        assert isinstance(engine.drafter, Witness)
        engine.drafter.fill = setup.fill
        for number, ids in enumerate(self.texts):
            for cut in CUTS:
                if len(ids) >= cut:
                    yield number, draft_at(engine, ids[:cut], temperature, 1000 * number + cut)


def by_gamma(subject: Subject, temperature: float) -> list[Row]:
    """One chain of 16 tokens per place tells all lengths: P(τ ≥ i | X^i) does not depend on what follows position i."""
    lengths: Lengths = defaultdict(lambda: defaultdict(list))
    for number, drafted in subject.drafted(Setup("chain", _chain(GAMMA) | {"rule": "block"}, ()), temperature):
        for rule, masses in (("block", block_masses(drafted)), ("token", token_masses(drafted))):
            for gamma, total in enumerate(accumulate(masses), 1):
                lengths[rule, gamma][number].append(1.0 + total)
    rows = []
    for (rule, gamma), of_text in sorted(lengths.items()):
        mean = _mean(of_text)
        rows.append(
            Row(
                "gamma",
                subject.name,
                temperature,
                gamma,
                "chain",
                rule,
                mean.value,
                mean.error,
                gamma,
                gamma,
                mean.count,
            )
        )
    return rows


def block_masses(drafted: Drafted) -> list[float]:
    """b_i = min(1, b_{i-1} p(X_i) / q(X_i)) for i = 1..γ (Block Verification, Algorithm 2)."""
    return list(accumulate(ratios(drafted), lambda b, ratio: min(1.0, b * ratio), initial=1.0))[1:]


def token_masses(drafted: Drafted) -> list[float]:
    """Π_{j ≤ i} min(1, p(X_j) / q(X_j)) for i = 1..γ."""
    return list(accumulate((min(1.0, ratio) for ratio in ratios(drafted)), mul))


def ratios(drafted: Drafted) -> list[float]:
    """p(X_i) / q(X_i) along a SAMPLED chain."""
    tree = drafted.tree
    assert tree.is_chain
    assert tree.laws is not None
    return [float(drafted.p[i, x]) / float(tree.laws[tree.law_row[i], x]) for i, x in enumerate(tree.tokens)]


def by_nodes(subject: Subject, temperature: float, nodes: int) -> tuple[list[Row], list[Gain]]:
    """Every kind of draft at a node count."""
    rows: list[Row] = []
    lengths: Lengths = defaultdict(lambda: defaultdict(list))
    for setup in setups(nodes):
        sizes, passes = [], []
        for number, drafted in subject.drafted(setup, temperature):
            sizes.append(len(drafted.tree))
            passes.append(drafted.draft.num_passes)
            for rule in setup.rules:
                lengths[setup.name, rule][number].append(expected_length(dg.rules()[rule], drafted))
        for rule in setup.rules:
            mean = _mean(lengths[setup.name, rule])
            row = Row("nodes", subject.name, temperature, nodes, setup.name, rule, mean.value, mean.error,
                      statistics.fmean(sizes), statistics.fmean(passes), mean.count)  # fmt: skip
            rows.append(row)
    means = {", ".join(key): _means(of_text) for key, of_text in lengths.items()}
    gains = []
    for winner, baseline in GAINS:
        found = ratio(means[winner], means[baseline], len(means[winner]))
        gains.append(Gain(subject.name, temperature, nodes, winner, baseline, found.value, found.error))
    return rows, gains


def _means(of_text: dict[int, list[float]]) -> list[float]:
    return [statistics.fmean(places) for places in of_text.values()]


def _mean(of_text: dict[int, list[float]]) -> Estimate:
    """Of the means over the places of each text."""
    means = _means(of_text)
    return ratio(means, [1.0] * len(means), sum(map(len, of_text.values())))


def blocks(rows: Sequence[Row], gains: Sequence[Gain]) -> Iterator[str | Sheet]:
    """The report."""
    pairs = list(dict.fromkeys(row.pair for row in rows))
    yield "\n".join(f"* **{name}**: {ABOUT[name]}." for name in pairs)
    yield (
        f"One round behind the first {', '.join(map(str, CUTS))} tokens of held-out texts ({max(row.places for row in rows)} "
        "places at most), float32, no top-k, no top-p. Figures are expected tokens per target call (accepted + 1) given the "
        "draft, mean ± standard error over texts. Nothing is learnt from earlier rounds."
    )
    for pair in pairs:
        yield from _gamma_table(pair, [row for row in rows if row.pair == pair and row.part == "gamma"])
        yield from _node_tables(pair, [row for row in rows if row.pair == pair and row.part == "nodes"])
        told = [gain for gain in gains if gain.pair == pair]
        if told:
            yield f"## {pair}: ratios"
            yield table(
                ["compared", "T", "nodes", "ratio"],
                [
                    [f"{g.winner} / {g.baseline}", f"{g.temperature:g}", str(g.nodes), f"{g.ratio:.3f} ± {g.error:.3f}"]
                    for g in told
                ],
            )


def _gamma_table(pair: str, rows: Sequence[Row]) -> Iterator[str | Sheet]:
    if not rows:
        return
    found = {(row.temperature, row.target_nodes, row.rule): row.length for row in rows}
    temperatures = sorted({row.temperature for row in rows})

    def cell(t: float, gamma: int) -> str:
        token, block = found[t, gamma, "token"], found[t, gamma, "block"]
        return f"{token:.2f} → {block:.2f} ({block / token - 1:+.1%})"

    yield f"## {pair}: chains of γ tokens"
    yield table(
        ["γ", *(f"T={t:g}: token → block" for t in temperatures)],
        [[str(gamma), *(cell(t, gamma) for t in temperatures)] for gamma in range(1, GAMMA + 1)],
    )


def _node_tables(pair: str, rows: Sequence[Row]) -> Iterator[str | Sheet]:
    for t in sorted({row.temperature for row in rows}, reverse=True):
        cells = {
            (row.draft, row.rule, row.target_nodes): f"{row.length:.2f} ± {row.error:.2f} ({row.nodes:.0f})"
            for row in rows
            if row.temperature == t
        }
        sizes = sorted({size for *_, size in cells})
        names = list(dict.fromkeys((draft, rule) for draft, rule, _ in cells))
        yield f"## {pair}: expected tokens at T={t:g} (mean nodes)"
        yield table(
            ["draft", "rule", *(f"{size} nodes" for size in sizes)],
            [[draft, rule, *(cells.get((draft, rule, size), "") for size in sizes)] for draft, rule in names],
        )


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment("rules", "Rules on the same drafts", __doc__, "3 texts, 8 and 16 nodes, two temperatures")
    add = experiment.parser.add_argument
    add("--part", choices=["gamma", "nodes", "all"], default="all")
    add("--pair", choices=list(PAIRS), nargs="+", default=["story-124k", "code"])
    add("--temperature", type=temperature, nargs="+", default=[1.0, 0.6], metavar="T", help="of part nodes")
    add("--texts", type=at_least(2), default=60)
    options = experiment.start(arguments)
    temperatures, sizes = list(TEMPERATURES), list(NODES)
    if options.quick:
        temperatures, sizes, options.texts = [0.6, 1.0], [8, 16], 3
    rows: list[Row] = []
    gains: list[Gain] = []
    for name in options.pair:
        pair = load_pair(name, options.data)
        texts = [ids for ids in held_out(name, pair, options.data) if len(ids) >= CUTS[0]]
        subject = Subject(name, pair, spread(texts, options.texts))
        for t in track(temperatures if options.part != "nodes" else [], f"{name}, gamma"):
            rows += by_gamma(subject, t)
        jobs = list(product(options.temperature, sizes)) if options.part != "gamma" else []
        for t, size in track(jobs, f"{name}, nodes"):
            more, told = by_nodes(subject, t, size)
            rows, gains = rows + more, gains + told
    results = {"rows": [asdict(row) for row in rows], "gains": [asdict(gain) for gain in gains]}
    print(experiment.save(blocks(rows, gains), **results))
    plot(results["rows"], experiment.file)


if __name__ == "__main__":
    main()
