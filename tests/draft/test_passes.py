"""Reading ahead: the same rows, and so the same drafts, in fewer drafter passes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

import draftgraph as dg
from draft_tables import Table, brute_force, check
from draftgraph import errors
from draftgraph.draft.edges.sources import TAIL, Sources
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.structures.best_first import grow_best_first
from draftgraph.draft.terms import Limits
from draftgraph.types import ROOT
from models import perturbed, plain, tiny_lm

EDGES = ("merge", "own", "context", "rejected", "table")
NEVER = dg.structures.Graph(read_ahead=0)
PROMPT = [9, 4, 9, 4, 7, 9, 4, 9]


@cache
def target() -> PreTrainedModel:
    return tiny_lm(window=256)


@cache
def drafter() -> PreTrainedModel:
    return perturbed(target(), 0.12)


def result(temperature: float, seed: int = 3, **options: Any) -> dg.Result:
    engine = dg.Engine.from_pretrained(target(), draft_model=drafter(), **options)
    found = engine.generate(PROMPT, dg.SamplingParams(max_new_tokens=120, temperature=temperature, seed=seed))
    assert not engine.drafter.model.cache._used
    return found


@pytest.mark.parametrize("edges", [EDGES, "auto", ("own",)])
def test_the_same_sampled_drafts_in_fewer_passes(edges: Any) -> None:
    """Node for node; and passes that were saved are passes in which nothing was asked that had not been read."""
    options = {"edges": edges, "budget": 12, "num_speculative_tokens": 4}
    (never, ahead) = (result(0.6, structure=dg.structures.Graph(read_ahead=count), **options) for count in (0, 12))
    assert never.token_ids == ahead.token_ids
    for a, b in zip(never.rounds, ahead.rounds, strict=True):
        assert (a.tokens, a.parents, a.sampled, a.origins, a.path) == (
            b.tokens,
            b.parents,
            b.sampled,
            b.origins,
            b.path,
        )
        assert b.num_passes <= a.num_passes
        assert b.num_evaluations >= a.num_evaluations
    assert ahead.stats.num_drafter_passes < never.stats.num_drafter_passes


@pytest.mark.parametrize("rule", ["layer", "agree"])
def test_fixed_drafts_take_fewer_passes_by_default(rule: str) -> None:
    """Per round in which the drafter was asked: copies come alone in some others, and not in the same ones."""
    temperature = 1.0 if rule == "agree" else 0.0
    options: dict[str, Any] = {"rule": rule, "budget": "auto"}
    passes = [0.0, 0.0]
    for seed in range(6 if rule == "agree" else 1):
        never, default = (result(temperature, seed, **options | more) for more in ({"structure": NEVER}, {}))
        assert never.token_ids == default.token_ids
        for i, found in enumerate((default, never)):
            passes[i] += found.stats.num_drafter_passes / sum(record.num_passes > 0 for record in found.rounds)
    assert passes[0] < passes[1]
    if rule == "layer":
        assert default.token_ids == plain(target(), PROMPT, 120)


def test_sampled_drafts_do_not_read_ahead_by_default() -> None:
    never, default = (result(1.0, **more) for more in ({"structure": NEVER}, {}))
    assert never.stats.num_drafter_evaluations == default.stats.num_drafter_evaluations


def test_a_processor_never_sees_what_it_ruled_out() -> None:
    """Copies may be impossible under a grammar; what is read behind them is asked of nobody."""
    seen: list[list[int]] = []

    class OddAfterEven:
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen.extend(ids[:, len(PROMPT) :].tolist())
            banned = scores.clone()
            for row, last in enumerate(ids[:, -1].tolist()):
                banned[row, int(last) % 2 :: 2] = -torch.inf
            return banned

    engine = dg.Engine.from_pretrained(
        target(), draft_model=drafter(), edges=EDGES, structure=dg.structures.Graph(12), budget=8
    )
    params = dg.SamplingParams(max_new_tokens=60, logits_processors=(OddAfterEven(),))
    texts = [engine.generate(PROMPT, params).token_ids for _ in range(2)]
    assert texts[0] == texts[1]
    assert all(a % 2 != b % 2 for ids in seen for a, b in zip([PROMPT[-1], *ids], ids, strict=False))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"structure": dg.structures.Graph(4), "edges": ()}, r"Graph\(read_ahead=4\) reads copies .* allow none"),
        ({"structure": dg.structures.Graph(4), "draft_model": None}, r"Graph\(read_ahead=4\) asks a draft model"),
    ],
)
def test_reading_ahead_of_nothing_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.OptionError, match=words):
        dg.Engine.from_pretrained(target(), **{"draft_model": drafter()} | options)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(0, 12), st.integers(0, 6), st.integers(0, 99))
def test_paths_ahead_hang_below_what_is_read(text: list[int], count: int, reach: int, seed: int) -> None:
    """Self-similar texts and cycles: parents first, each once, within count and reach, and the graph stays as it was."""
    sources = Sources.of(("merge", "own", "context"), text)
    table = Table(seed=seed, vocab=3)
    graph, _ = grow_best_first(table, Limits(6, 2, 9))
    before = (list(graph.tokens), list(graph.parents), dict(graph.edges))
    nodes = graph.unevaluated(reach)
    paths = sources.ahead(graph, nodes, text[-TAIL:], count, reach)
    assert (graph.tokens, graph.parents, graph.edges) == before
    assert len(paths) == len(set(paths)) <= count
    known = {tuple(graph.path_tokens(node)) for node in nodes}
    for path in paths:
        assert path[:-1] in known
        assert len(path) <= reach
        known.add(path)


@pytest.mark.parametrize(("seed", "share"), list(product(range(8), (0.0, 0.5, 1.0))))
def test_known_rows_cost_no_pass(seed: int, share: float) -> None:
    """With all rows at hand the draft is the best of the whole tree; with none it is what the passes find."""
    table, limits = Table(seed=seed, vocab=3), Limits(8, 2, 6)
    passes: list[Sequence[int]] = []

    def known(graph: DraftGraph, node: int) -> bool:
        return hash((seed, tuple(graph.path_tokens(node)))) % 100 < 100 * share

    def evaluate(graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
        if not all(known(graph, node) for node in nodes):
            passes.append(nodes)
        return table(graph, nodes)

    graph, counted = grow_best_first(evaluate, limits, known=known)
    assert counted == len(passes) <= limits.depth
    check(graph, limits)
    if share == 1.0:
        best = brute_force(table, limits.budget, limits.reach)
        assert {tuple(graph.path_tokens(node)) for node in range(len(graph))} == set(best)
        assert counted == 0
    elif share == 0.0:
        assert graph.tokens == grow_best_first(Table(seed=seed, vocab=3), limits)[0].tokens
        assert ROOT in graph.rows
