"""Texts of schedule="parallel" have the target's law: every outcome of all rounds is enumerated, with real addresses of noise.

A uniform number is not drawn but read: each reading cuts the interval that earlier readings of its address have left. So numbers
that are met twice show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from draftgraph.draft import onward
from draftgraph.draft.onward import OnwardDrafter
from draftgraph.draft.structures.chain import Chain
from draftgraph.draft.terms import Draft, Limits
from draftgraph.engine.lanes import InTurn
from draftgraph.engine.schedules import Parallel
from draftgraph.lab.prove.addressing import EnumeratedNoise
from draftgraph.lab.prove.law import Draw, Tables, enumerate_draws, random_tables, total_variation
from draftgraph.request.result import Event
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise, Role
from draftgraph.sampling.warp import Warper
from draftgraph.verification import base
from draftgraph.verification.base import Rule
from draftgraph.verification.registry import get_rule
from test_sampling_law import TableLM

EXACT, VISIBLE = 1e-12, 1e-3
RULES = ("token", "block", "layer", "walk", "traversal", "recursive")


class Read(Noise):
    """The randomness of a request: numbers by their addresses, as the product reads them, none of which has a value yet."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(0)
        self.numbers = EnumeratedNoise(draw)

    def uniform(self, length: int, role: Role, depth: int = 0, node: int = 0) -> Any:
        return partial(self.at, (length, role, depth, node))

    def at(self, address: Hashable, law: torch.Tensor) -> int:
        """The token at the number's quantile of a law."""
        return self.numbers.sample(law.double(), address)


class Reused(Read):
    """As published: after a round whose tokens were all accepted, the same number judges those of the next one."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self.judging: int | None = None

    def uniform(self, length: int, role: Role, depth: int = 0, node: int = 0) -> Any:
        if role is not Role.ACCEPT:
            return super().uniform(length, role, depth, node)
        if self.judging is None:
            self.judging = length
        return partial(self._judge, (self.judging, role, depth, node))

    def _judge(self, address: Hashable, law: torch.Tensor) -> int:
        end = self.at(address, law)
        if end < len(law) - 1:
            self.judging = None
        return end


class Forgetful(OnwardDrafter):
    """Lets go of what is pending where its law finds the next token unlikely: what stays was selected."""

    def pending(self, request: Request) -> Draft:
        path = request.drafting.path
        if path and float(path[0].law[0, path[0].token]) < 0.5:
            path.clear()
            text = request.drafting.text
            self.model.keep(text, range(min(len(text.nodes), max(0, len(request.tokens) - 1 - len(text)))))
        return super().pending(request)


class Table(TableLM):
    """A model whose rows are those of a table."""

    def __init__(self, vocab: int, laws: Callable[[Sequence[int]], torch.Tensor]) -> None:
        self.vocab_size = vocab
        self.row = lambda text: laws(text[1:]).log()


@pytest.fixture(autouse=True)
def enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What draws by a quantile asks the number at its address instead."""
    monkeypatch.setattr(
        onward, "sample_rows", lambda rows, numbers: [n(row) for row, n in zip(rows, numbers, strict=True)]
    )
    monkeypatch.setattr(base, "sample", lambda law, number: number(law))
    monkeypatch.setattr(base, "place_of", lambda masses, number: number(torch.tensor(masses, dtype=torch.float64)))


def decoded(
    tables: Tables, rule: Rule, count: int, noises: Callable[[Draw], Noise], kind: type[OnwardDrafter], draw: Draw
) -> tuple[int, ...]:
    """One request, whole, in rounds of the real schedule that draft `count` tokens each."""
    target, drafter = Table(tables.vocab, tables.target), kind(Table(tables.vocab, tables.drafter), tables.vocab)  # type: ignore[arg-type]
    params, structure = SamplingParams(max_new_tokens=tables.depth + 1, temperature=1.0), Chain()
    request = Request(
        params, Strategy(rule, structure, rule.uses_laws, "enumerated"), [0], 1, params.max_new_tokens, frozenset(),
        noises(draw), Warper(params, 1, [], target.device), Detokenizer(None, [0], ()), tables.vocab,
    )  # fmt: skip
    request.text = target.open(0)
    drafter.begin(request)
    schedule = Parallel(InTurn())
    while request.finish_reason is None:
        limits = Limits(count, count, request.remaining - 1)
        (event,) = schedule.decode([request], drafter, target, [limits])  # type: ignore[list-item]
        assert isinstance(event, Event), event
    return tuple(request.output)


def law_of(
    tables: Tables,
    rule: str | Rule = "token",
    count: int = 3,
    noises: Callable[[Draw], Noise] = Read,
    kind: type[OnwardDrafter] = OnwardDrafter,
) -> torch.Tensor:
    """f64[texts], the law of whole texts."""
    masses: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for probability, text in enumerate_draws(partial(decoded, tables, get_rule(rule), count, noises, kind)):
        masses[text] += probability
    law = torch.zeros((tables.vocab,) * (tables.depth + 1), dtype=torch.float64)
    for text, mass in masses.items():
        law[text] = mass
    return law.flatten()


def error(tables: Tables, *asked: Any, **options: Any) -> float:
    return total_variation(law_of(tables, *asked, **options), tables.target_law(tables.depth + 1))


@pytest.mark.parametrize("rule", ["token", "block"])
def test_texts_have_the_law_of_the_target_for_every_limit_and_number_of_drafted_tokens(rule: str) -> None:
    for depth, most in ((0, 2), (1, 3), (2, 4), (3, 3)):
        tables = random_tables("random", 2, depth, 3 + depth)
        for count in range(1, most + 1):
            assert error(tables, rule, count) <= EXACT, (depth, count)


@pytest.mark.parametrize("kind", ["sparse", "disjoint", "equal", "greedy"])
@pytest.mark.parametrize("rule", RULES)
def test_texts_have_the_law_of_the_target_under_every_rule_for_chains(rule: str, kind: str) -> None:
    assert error(random_tables(kind, 3, 2, 5), rule, 2) <= EXACT


def test_the_published_reuse_of_a_number_is_another_law() -> None:
    assert error(random_tables("random", 2, 3, 0), noises=Reused) > VISIBLE


def test_a_path_that_is_let_go_of_because_of_a_token_further_down_is_another_law() -> None:
    assert error(random_tables("random", 2, 3, 0), kind=Forgetful) > VISIBLE


def test_draft_noise_that_belongs_to_a_position_is_another_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block verification rejects a token because of those below it, whose numbers their positions would meet again."""

    def by_position(request: Any, row: torch.Tensor, number: int) -> int:
        position = len(request.tokens) + len(request.drafting.path)
        token: int = request.noise.at(position, row[0])
        return token

    monkeypatch.setattr(onward, "drawn", by_position)
    assert error(random_tables("random", 2, 3, 0), "block") > VISIBLE
