"""Searched drafts are exact at every temperature: whole requests of the real loop are enumerated, learning included.

The published way to judge such drafts, in which every candidate row draws target samples of its own and the longest match wins,
is the control: the same enumeration must see that it is biased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from draftgraph.draft.ngrams.table import NgramTable
from draftgraph.draft.search import SearchDrafter
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.terms import Limits
from draftgraph.engine.round import decode_round
from draftgraph.lab.prove.law import Draw, Tables, enumerate_draws, random_tables, total_variation
from draftgraph.request.result import Event
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.warp import Warper
from draftgraph.structures import Chain, Graph
from draftgraph.types import ROOT, TokenTree, Verdict
from draftgraph.verification.base import Rule
from draftgraph.verification.registry import get_rule
from draftgraph.verification.walk import WalkRule
from enumerated import EnumeratedNoise, enumerated_rule
from test_sampling_law import TableLM

EXACT, VISIBLE = 1e-12, 1e-2
VOCAB, LENGTH = 3, 4
PROMPT = [0, 1, 2, 0, 1]
TEMPERATURES = (1.0, 0.5)


class TableModel(TableLM):
    def __init__(self, tables: Tables) -> None:
        self.vocab_size = VOCAB
        self.row = lambda text: tables.target(text[len(PROMPT) :]).log()


class LongestOfRows(WalkRule):
    """Every path of the draft draws samples of its own at each of its nodes; the longest match wins, and ends with its sample."""

    def verdict(self, tree: TokenTree, p: torch.Tensor, noise: Any, length: int) -> Verdict:
        leaves = [node for node in range(len(tree)) if node not in tree.parents] or [ROOT]
        best: tuple[Sequence[int], int] | None = None
        for leaf in leaves:
            kept: list[int] = []
            for node in (*tree.path(leaf), None):
                token = noise.draw(p[kept[-1] + 1 if kept else 0])
                if node is None or tree.tokens[node] != token:
                    break
                kept.append(node)
            if best is None or len(kept) > len(best[0]):
                best = kept, token
        assert best is not None
        return Verdict(tuple(best[0]), best[1])


def decoded(
    tables: Tables, table: NgramTable, rule: Rule, structure: Structure, edges: Sequence[str], budget: int,
    temperature: float, drafted: list[int], draw: Draw,
) -> Request:  # fmt: skip
    """A whole request, round by round. drafted  counts nodes, and those that were accepted."""
    drafter, target = SearchDrafter(edges, table=table), TableModel(tables)
    params = SamplingParams(max_new_tokens=LENGTH, temperature=temperature)
    request = Request(
        params, Strategy(rule, structure, False, "enumerated"), list(PROMPT), len(PROMPT), LENGTH, frozenset(),
        EnumeratedNoise(draw), Warper(params, len(PROMPT), [], target.device), Detokenizer(None, PROMPT, ()), VOCAB,
    )  # fmt: skip
    request.text = target.open(0)
    drafter.begin(request)
    limits = Limits(budget, 3, 0)
    while request.finish_reason is None:
        (happened,) = decode_round([request], drafter, target, [replace(limits, reach=request.remaining - 1)])
        assert isinstance(happened, Event), happened
    drafter.end(request)
    drafted[0] += request.tally.drafted
    drafted[1] += request.tally.accepted
    return request


def law(tables: Tables, *asked: Any) -> torch.Tensor:
    """f64[V**LENGTH] of the texts."""
    masses = torch.zeros((VOCAB,) * LENGTH, dtype=torch.float64)
    for probability, request in enumerate_draws(partial(decoded, tables, *asked)):
        masses[tuple(request.output)] += probability
    return masses.flatten()


def expected(tables: Tables, temperature: float) -> torch.Tensor:
    powers = [rows ** (1 / temperature) for rows in tables.p]
    return replace(tables, p=[rows / rows.sum(dim=1, keepdim=True) for rows in powers]).target_law(LENGTH)


def knowing() -> NgramTable:
    table = NgramTable()
    for text in ([1, 0, 2, 1, 0, 1], [2, 2, 1, 1, 0], [0, 0, 1, 2, 0, 2]):
        table.learn([], text)
    return table


DRAFTS: dict[str, tuple[Structure, tuple[str, ...], int]] = {
    "graph of six": (Graph(), ("own", "context"), 6),
    "graph without copies": (Graph(), (), 4),
    "chain": (Chain(), ("own", "context"), 3),
}


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("rule", ["walk", "layer"])
@pytest.mark.parametrize("name", DRAFTS)
def test_texts_have_the_law_of_the_target(name: str, rule: str, temperature: float) -> None:
    structure, edges, budget = DRAFTS[name]
    tables, drafted = random_tables("random", VOCAB, LENGTH, 4), [0, 0]
    found = law(tables, knowing(), enumerated_rule(get_rule(rule)), structure, edges, budget, temperature, drafted)
    assert min(drafted) > 0
    assert total_variation(found, expected(tables, temperature)) <= EXACT


def test_laws_with_zeros_are_kept() -> None:
    tables = random_tables("sparse", VOCAB, LENGTH, 9)
    found = law(tables, knowing(), enumerated_rule(get_rule("walk")), Graph(), ("context",), 6, 1.0, [0, 0])
    assert total_variation(found, expected(tables, 1.0)) <= EXACT


def test_samples_of_every_row_with_the_longest_match_are_biased() -> None:
    tables = random_tables("random", VOCAB, LENGTH, 4)
    found = law(tables, knowing(), LongestOfRows(), Graph(), (), 3, 1.0, [0, 0])
    assert total_variation(found, expected(tables, 1.0)) > VISIBLE
