"""The prover takes the drafts of a drafter, and finds out one that lies about its laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import draftgraph as dg
from draftgraph.errors import DrafterError, DraftError, OptionError
from draftgraph.lab.prove.drafters import drafter_cases
from draftgraph.lab.prove.exact import Setting, prove_all
from draftgraph.verification.registry import RULES
from own_drafters import Beside, Independent, Line, Making, Same, law_behind

HONEST: dict[str, tuple[dg.Drafter, tuple[str, ...]]] = {
    "beside": (Beside(), ("layer", "recursive", "traversal", "agree", "walk")),
    "line": (Line(), ("layer", "block", "token", "kseq", "multipath")),
    "same": (Same(), ("layer", "block", "token", "walk")),
    "independent": (Independent(), ("layer", "kseq", "multipath", "traversal")),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_drafter_is_proven(name: str) -> None:
    drafter, rules = HONEST[name]
    setting = Setting(depth=2, cases=drafter_cases(drafter), controls=False)
    for proof in prove_all([RULES[rule] for rule in rules], setting):
        assert proof.status == "proven", proof.rule
        assert proof.max_tv <= 1e-12
        assert sum(row.drafts for row in proof.cases) >= 90
        assert all(drafter.name in row.structure for row in proof.cases if "noise shared" not in row.laws)


def test_deeper_drafts_and_other_vocabularies() -> None:
    for vocab, depth in ((2, 4), (3, 3), (4, 2)):
        assert dg.prove("layer", drafter=Line(), vocab=vocab, depth=depth, controls=False).status == "proven"


class Sharpened(Beside):
    """Draws from a sharper law than it states."""

    def drawn(self, graph: dg.DraftGraph, node: int, law: torch.Tensor, request: Any) -> int:
        child = graph.sample(node, law.square() / law.square().sum(), request.draw)
        graph.laws[-1] = law[None]
        return child


class Chosen(Beside):
    """Draws twice, and keeps the token that it likes better."""

    def drawn(self, graph: dg.DraftGraph, node: int, law: torch.Tensor, request: Any) -> int:
        tokens = [request.draw(law, number) for number in (len(graph), 1000 + len(graph))]
        return graph.sample(node, law, lambda drawn, number: max(tokens, key=lambda token: float(law[token])))


class Stops(Beside):
    """Drops the branch whose token turned out to be unlikely: the shape looks at the level that it shapes."""

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        law = law_behind(request, request.tokens)
        kept = dg.DraftGraph()
        drawn = request.draw(law, 0)
        if float(law[drawn]) > 0.3:
            kept.sample(dg.ROOT, law, lambda stated, number: drawn)
        return dg.Draft(kept)


class Excludes(Beside):
    """Draws from what the FIXED sibling leaves, and states the whole law: a token that its law excludes would be seen."""

    def drawn(self, graph: dg.DraftGraph, node: int, law: torch.Tensor, request: Any) -> int:
        rest = law.clone()
        rest[law.argmax()] = 0.0
        child = graph.sample(node, rest / rest.sum(), request.draw)
        graph.laws[-1] = law[None]
        return child


@pytest.mark.parametrize("liar", [Sharpened(), Chosen(), Stops(), Excludes()], ids=lambda liar: liar.name)
def test_a_drafter_that_lies_about_its_law_is_refuted(liar: dg.Drafter) -> None:
    proof = dg.prove("layer", drafter=liar, depth=2, controls=False)
    assert proof.status == "refuted"
    assert not proof.holds
    assert proof.max_tv > 1e-3


def test_rules_that_read_no_laws_cannot_be_lied_to() -> None:
    assert dg.prove("walk", drafter=Sharpened(), depth=2, controls=False).status == "proven"


class Repairs(Excludes):
    """The same draw, stated as it is."""

    def drawn(self, graph: dg.DraftGraph, node: int, law: torch.Tensor, request: Any) -> int:
        rest = law.clone()
        rest[law.argmax()] = 0.0
        return graph.sample(node, rest / rest.sum(), request.draw)


def test_what_is_stated_as_it_was_drawn_is_proven() -> None:
    assert dg.prove("layer", drafter=Repairs(), depth=2, controls=False).status == "proven"


def test_single_precision_needs_its_tolerance() -> None:
    class Single(Line):
        def propose(self, request: Any, limits: Any) -> dg.Draft:
            draft = super().propose(request, limits)
            draft.graph.laws = [law.float() for law in draft.graph.laws]
            return draft

    assert dg.prove("layer", drafter=Single(), depth=2, controls=False, tolerance=1e-6).status == "proven"


def test_drafts_that_cannot_be_enumerated_are_refused() -> None:
    def twice(graph: dg.DraftGraph, law: torch.Tensor, request: Any) -> None:
        for _ in range(2):
            graph.fix(dg.ROOT, request.draw(law, 0))

    with pytest.raises(DraftError, match="node 0 draws twice"):
        dg.prove("layer", drafter=Making(twice), controls=False)
    with pytest.raises(DrafterError, match="ZeroDivisionError"):
        dg.prove("layer", drafter=Making(lambda graph, law, request: 1 / 0), controls=False)
    with pytest.raises(OptionError, match="leave out one of them"):
        dg.prove("layer", drafter=Line(), cases=())
    assert dg.prove("block", drafter=Beside(), depth=2, controls=False).status == "unproven"
