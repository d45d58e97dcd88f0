"""Two requests in a round have the joint law of two targets that generate apart: every outcome is enumerated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from draftgraph.draft.model import ModelDrafter
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.terms import Limits
from draftgraph.engine import prefill
from draftgraph.engine.round import decode_round
from draftgraph.lab.prove.law import Draw, Tables, enumerate_draws, random_tables, total_variation
from draftgraph.request.result import Event
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.warp import Warper
from draftgraph.structures import Chain, Comb, Graph, Tree
from draftgraph.verification.registry import get_rule
from enumerated import EnumeratedNoise, continued, enumerate_drafts, enumerated_rule
from test_sampling_law import TableLM

EXACT, VISIBLE = 1e-12, 1e-2
VOCAB, DEPTH = 2, 2
PROMPTS = ([0, 1], [1, 0])
Noises = Callable[[Draw], Sequence[Any]]


@pytest.fixture(autouse=True)
def enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    enumerate_drafts(monkeypatch)


class TwoTables(TableLM):
    """A model whose laws depend on the prompt: those of two tables."""

    def __init__(self, tables: Sequence[Tables], of: str) -> None:
        self.vocab_size = VOCAB
        laws = {tuple(prompt): getattr(its, of) for prompt, its in zip(PROMPTS, tables, strict=True)}
        self.row = lambda text: laws[text[:2]](text[2:]).log()


def apart(draw: Draw) -> list[Any]:
    return [EnumeratedNoise(draw), EnumeratedNoise(draw)]


class Repeated(EnumeratedNoise):
    """Gives the second request what the first one drew: noise that is addressed without the request."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.drawn: list[int] = []
        self.second = EnumeratedNoise(self._again)
        self._read = 0
        inside = self.draw
        self.draw = lambda law: self._remember(inside(law))

    def _remember(self, token: int) -> int:
        self.drawn.append(token)
        return token

    def _again(self, law: torch.Tensor) -> int:
        self._read += 1
        return self.drawn[self._read - 1]


def same(draw: Draw) -> list[Any]:
    first = Repeated(draw)
    return [first, first.second]


def decoded(
    tables: Sequence[Tables], structure: Structure, rule: str, limits: Limits, noises: Noises, draw: Draw
) -> tuple[Request, Request]:
    """One round of two requests of the real loop."""
    choice = Strategy(enumerated_rule(get_rule(rule)), structure, structure.draws, "enumerated")
    target, drafter = TwoTables(tables, "target"), ModelDrafter(TwoTables(tables, "drafter"), VOCAB)
    params = SamplingParams(max_new_tokens=DEPTH + 1, temperature=1.0)
    requests = []
    for prompt, noise in zip(PROMPTS, noises(draw), strict=True):
        warper = Warper(params, len(prompt), [], target.device)
        request = Request(
            params, choice, list(prompt), len(prompt), DEPTH + 1, frozenset(), noise, warper,
            Detokenizer(None, prompt, ()), VOCAB,
        )  # fmt: skip
        request.text = target.open(0)
        drafter.begin(request)
        requests.append(request)
    happened = decode_round(requests, drafter, target, [limits, limits])
    assert all(isinstance(each, Event) for each in happened), happened
    return requests[0], requests[1]


def joint(tables: Sequence[Tables], *asked: Any) -> torch.Tensor:
    """f64[texts, texts], the law of both texts together; the targets go on alone behind the round."""
    behind: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}

    def law_behind(number: int, text: tuple[int, ...]) -> torch.Tensor:
        if (number, text) not in behind:
            behind[number, text] = continued(defaultdict(float, {text: 1.0}), tables[number])
        return behind[number, text]

    law = torch.zeros(VOCAB ** (DEPTH + 1), VOCAB ** (DEPTH + 1), dtype=torch.float64)
    for probability, requests in enumerate_draws(partial(decoded, tables, *asked)):
        one, other = (law_behind(number, tuple(request.output)) for number, request in enumerate(requests))
        law += probability * torch.outer(one, other)
    return law


def expected(tables: Sequence[Tables]) -> torch.Tensor:
    return torch.outer(*(its.target_law(DEPTH + 1) for its in tables))


def tables_of(kind: str, seed: int, alike: bool = False) -> list[Tables]:
    return [random_tables(kind, VOCAB, DEPTH, seed + (0 if alike else number)) for number in range(2)]


ROUNDS: dict[str, tuple[Structure, str, Limits]] = {
    "chain, block": (Chain(), "block", Limits(2, 2, 2)),
    "chain, token": (Chain(), "token", Limits(2, 2, 2)),
    "tree, layer": (Tree((2, 1)), "layer", Limits(3, 2, 2)),
    "graph, layer": (Graph(), "layer", Limits(3, 2, 2)),
    "comb, layer": (Comb(), "layer", Limits(3, 2, 2)),
    "tree, traversal": (Tree((2,)), "traversal", Limits(2, 1, 2)),
    "tree, recursive": (Tree((2,)), "recursive", Limits(2, 1, 2)),
}


@pytest.mark.parametrize("kind", ["random", "sparse"])
@pytest.mark.parametrize("name", ROUNDS)
def test_two_requests_have_the_laws_of_their_targets_and_no_more_in_common(name: str, kind: str) -> None:
    for alike in (False, True):
        tables = tables_of(kind, 5, alike)
        assert total_variation(joint(tables, *ROUNDS[name], apart), expected(tables)) <= EXACT


def test_noise_without_the_request_in_its_address_ties_texts_together() -> None:
    """Each text has its law, and yet the two are not independent."""
    tables = tables_of("random", 5, alike=True)
    law = joint(tables, *ROUNDS["chain, block"], same)
    right = expected(tables)
    assert total_variation(law, right) > VISIBLE
    for axis in (0, 1):
        assert total_variation(law.sum(axis), right.sum(axis)) <= EXACT


def test_rows_of_the_neighbour_are_another_law(monkeypatch: pytest.MonkeyPatch) -> None:
    each = prefill.forward_each
    monkeypatch.setattr(prefill, "forward_each", lambda *given: each(*given)[::-1])
    tables = tables_of("random", 5)
    law, right = joint(tables, *ROUNDS["chain, block"], apart), expected(tables)
    for axis in (0, 1):
        assert total_variation(law.sum(axis), right.sum(axis)) > VISIBLE
