"""Structures as objects: what they say of themselves, and structures that a user writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph import structures
from draftgraph.draft.structures.base import MIN_MASS
from draftgraph.draft.structures.children import KINDS
from draftgraph.draft.structures.registry import STRUCTURES, get_structure
from draftgraph.draft.terms import Limits
from draftgraph.errors import DrafterError, OptionError
from draftgraph.lab.prove.law import output_law, random_tables, total_variation
from draftgraph.structures import GSD, Chain, Comb, Graph, Growth, Paths, Structure, Tree
from draftgraph.verification.registry import RULES
from ids import told
from models import perturbed, plain, tiny_lm

PROMPT = [5, 9, 5]
EVERY: list[Structure] = [
    *STRUCTURES.values(), Graph(read_ahead=3), Tree((2, 1)), Chain(3), Paths(2), Paths(2, 3), GSD(-1),
    *(Tree((3, 2), kind) for kind in KINDS),
]  # fmt: skip


@cache
def target() -> PreTrainedModel:
    return tiny_lm()


@cache
def drafter() -> PreTrainedModel:
    return perturbed(target(), 0.1)


@dataclass(frozen=True)
class Fork(Structure):
    """As in examples/own_structure.py."""

    count: int = 2

    def grow(self, growth: Growth) -> dg.DraftGraph:
        graph, nodes, limits = dg.DraftGraph(), [dg.ROOT], growth.limits
        for level in range(min(limits.depth, limits.reach, limits.budget // self.count)):
            children = growth.expand(graph, nodes, k=1 if level else self.count)
            nodes = [child for below in children for child in below]
        return graph


def test_the_public_module_has_what_it_names() -> None:
    assert set(structures.__all__) == {name for name in vars(structures) if name[0].isupper()}
    assert {type(structure).__name__ for structure in STRUCTURES.values()} | {"Growth", "Structure"} == set(
        structures.__all__
    )


@pytest.mark.parametrize("structure", EVERY, ids=told)
def test_a_structure_is_written_as_it_is_shown(structure: Structure) -> None:
    assert eval(repr(structure), {"dg": dg}) == structure
    shown = eval(str(structure), {"dg": dg})
    assert get_structure(shown) == structure
    assert hash(get_structure(shown)) == hash(structure)


@pytest.mark.parametrize("structure", EVERY, ids=told)
def test_an_example_has_the_slots_that_it_says(structure: Structure) -> None:
    """And is what growth makes: within its limits, FIXED at temperature 0, of one kind with the drafts of real rounds."""
    for sampled in (False, True):
        tree = structure.example(sampled)
        assert 0 < len(tree) <= 4096
        assert max(tree.depths) <= 3
        assert ("sampled" in tree.kinds) == (sampled and structure.draws)
    engine = dg.Engine.from_pretrained(target(), draft_model=drafter(), structure=structure, budget=12)
    result = engine.generate(PROMPT, dg.SamplingParams(max_new_tokens=30, temperature=1.0, seed=3))
    assert any(any(record.sampled) for record in result.rounds) == structure.draws
    assert result.stats.structure == structure.name


@pytest.mark.parametrize(
    ("structure", "limits"),
    [
        (Tree(), Limits(16, 8, 50, MIN_MASS)), (Graph(), Limits(16, 8, 50, MIN_MASS)), (Comb(), Limits(16, 8, 50, MIN_MASS)),
        (GSD(), Limits(16, 8, 50, MIN_MASS)), (Chain(), Limits(16, 16, 50)), (Paths(), Limits(16, 5, 50)),
        (Fork(), Limits(16, 8, 50, MIN_MASS)),
    ],
    ids=told,
)  # fmt: skip
def test_a_fixed_budget_becomes_nodes_and_depth(structure: Structure, limits: Limits) -> None:
    assert structure.limits(16, None, 50) == limits
    assert structure.limits(16, 3, 50).depth == 3
    assert structure.whole(50) is None


def test_a_given_shape_is_drafted_whole() -> None:
    assert Tree((3, 2, 1)).whole(50) == Limits(15, 3, 50)
    assert Chain(4).whole(50) == Limits(4, 4, 50)
    assert [structure.nodes_per_level for structure in STRUCTURES.values()] == [None, None, None, 3, 1, 4]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("budget", [1, 7, "auto"])
def test_an_own_structure_runs(count: int, temperature: float, budget: Any) -> None:
    engine = dg.Engine.from_pretrained(target(), draft_model=drafter(), structure=Fork(count), budget=budget)
    params = dg.SamplingParams(max_new_tokens=30, temperature=temperature, seed=1)
    result = engine.generate(PROMPT, params)
    assert engine.generate(PROMPT, params).token_ids == result.token_ids
    assert result.stats.structure == "fork"
    assert result.stats.rule == ("walk" if temperature == 0.0 else "block" if count == 1 else "layer")
    if temperature == 0.0:
        assert result.token_ids == plain(target(), PROMPT, 30)


@pytest.mark.parametrize("rule", ["layer", "recursive", "traversal"])
def test_an_own_structure_is_lossless(rule: str) -> None:
    tables = random_tables("random", 3, 3, 7)

    def program(q: Any, draw: Any) -> dg.TokenTree:
        def evaluate(graph: dg.DraftGraph, nodes: Any) -> torch.Tensor:
            return torch.stack([q(tuple(graph.path_tokens(node))) for node in nodes])

        growth = Growth(Limits(6, 3, 3), evaluate, lambda laws, depth, addresses: [draw(law) for law in laws])
        return Fork().grow(growth).tree()

    law = output_law(RULES[rule], tables, program, 4).law
    assert total_variation(law, tables.target_law(4)) <= 1e-12


def test_rules_are_asked_about_an_own_structure() -> None:
    assert dg.Config(structure=Fork(), rule="layer").resolved_structure == Fork()
    assert dg.Config(structure=Fork(1), rule="block").resolved_structure == Fork(1)
    with pytest.raises(
        OptionError, match=r"rule 'block' verifies .* on chains, not structure='fork'; write structure='chain'"
    ):
        dg.Config(structure=Fork(), rule="block")
    with pytest.raises(OptionError, match=r"not structure=.*Fork\(count=3\)"):
        dg.Config(structure=Fork(3), rule="token")
    with pytest.raises(OptionError, match=r"structure='fork' asks a draft model"):
        dg.Engine.from_pretrained(target(), structure=Fork())


@dataclass(frozen=True)
class Wrong(Structure):
    """A structure that goes wrong from some depth on."""

    how: str
    late: bool = False

    def grow(self, growth: Growth) -> Any:
        graph = dg.DraftGraph()
        if self.late and growth.limits.budget == 16:
            return graph
        if self.how == "fails":
            raise ValueError("on purpose")
        for token in range(growth.limits.budget + 1):
            graph.fix(dg.ROOT, token)
        return None if self.how == "nothing" else graph


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("fails", "failed while growing an example: ValueError: on purpose"),
        ("nothing", "failed while growing an example: AttributeError"),
        ("too many", r"grew 17 nodes, 1 deep, where at most 16 nodes, 3 deep, were asked for; stop at growth.limits"),
    ],
)
def test_a_structure_that_goes_wrong_is_refused_before_it_drafts(how: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        dg.Engine.from_pretrained(target(), draft_model=drafter(), structure=Wrong(how))


@pytest.mark.parametrize("how", ["fails", "nothing", "too many"])
def test_a_structure_that_goes_wrong_later_leaves_the_engine_usable(how: str) -> None:
    engine = dg.Engine.from_pretrained(target(), draft_model=drafter(), structure=Wrong(how, late=True), budget=4)
    with pytest.raises((DrafterError, ValueError), match="ModelDrafter"):
        engine.generate(PROMPT)
    assert not engine.target.cache._used
    assert not engine.drafter.model.cache._used


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (Tree, r"structure=Tree is a class; write structure=Tree\(...\)"),
        ("tee", "unknown structure 'tee'.*Did you mean 'tree'"),
        (["tree"], r"unknown structure \['tree'\]"),
        (None, "unknown structure None"),
    ],
    ids=told,
)
def test_what_is_no_structure(structure: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        dg.Config(structure=structure)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tree(3), "branching=3 is not possible; write a tuple of child counts"),
        (lambda: Tree(()), r"branching=\(\)"),
        (lambda: Tree((2, True)), "branching"),
        (lambda: Tree((10**9,)), "1000000000 nodes, and a round verifies at most 4096"),
        (lambda: Tree(children="fixed"), r"write dg.structures.Tree\(\(3, 2, 1, 1\), children='fixed'\)"),
        (lambda: Tree((2,), "hybird"), "unknown children 'hybird'.*Did you mean 'hybrid'"),
        (lambda: Chain(0), "length=0 is not possible; write an integer from 1"),
        (lambda: Graph("some"), "read_ahead='some'"),
        (lambda: Graph(-1), "read_ahead=-1"),
        (lambda: GSD(-2), "match=-2"),
        (lambda: GSD(1.5), "match=1.5"),
    ],
)
def test_parameters_that_are_not_possible(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()
