"""Every structure and kind of children in the real loop: greedy text at temperature 0, drafts that their rules verify above."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph import structures
from draftgraph.draft.model import ModelDrafter
from draftgraph.draft.structures.children import KINDS
from draftgraph.types import TokenTree
from draftgraph.verification.registry import RULES
from models import perturbed, plain, tiny_lm

PROMPT = [5, 9, 5]
STRUCTURES: dict[str, dict[str, Any]] = {
    "comb": {"structure": "comb"},
    "deep comb": {"structure": "comb", "budget": 24, "num_speculative_tokens": 5},
    "paths": {"structure": "paths"},
    "three paths": {"structure": structures.Paths(3, 4)},
    "some paths": {"structure": structures.Paths(4)},
    "more paths than budget": {"structure": structures.Paths(4, 2), "budget": 3},
    "given chain": {"structure": structures.Chain(4)},
    "delayed": {"structure": structures.Tree((1, 1, 3, 1))},
    **{kind: {"structure": structures.Tree((3, 2, 1), children=kind)} for kind in KINDS},
    "cut": {"structure": structures.Tree((3, 2, 2), children="without_replacement"), "budget": 11},
}
VERIFY: dict[str, tuple[str, ...]] = {
    "layer": tuple(STRUCTURES),
    "recursive": tuple(STRUCTURES),
    "traversal": tuple(STRUCTURES),
    "walk": ("comb", "delayed", "fixed"),
    "kseq": ("paths", "three paths", "more paths than budget", "with_replacement", "delayed"),
    "multipath": ("paths", "three paths", "some paths", "more paths than budget", "given chain"),
    "block": ("given chain",),
    "token": ("given chain",),
}


@cache
def target() -> PreTrainedModel:
    return tiny_lm()


@cache
def drafter() -> PreTrainedModel:
    return perturbed(target(), 0.1)


@pytest.mark.parametrize("name", STRUCTURES)
def test_greedy_text(name: str) -> None:
    engine = dg.Engine.from_pretrained(target(), draft_model=drafter(), **STRUCTURES[name])
    result = engine.generate(PROMPT, dg.SamplingParams(max_new_tokens=40))
    assert result.token_ids == plain(target(), PROMPT, 40)
    assert result.stats.num_accepted_tokens > 0
    assert not any(any(record.sampled) for record in result.rounds)


@pytest.mark.parametrize(("rule", "name"), [(rule, name) for rule, names in VERIFY.items() for name in names])
def test_rules_verify_what_is_drafted_for_them(rule: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At temperature 1, with float32 laws from a real cache: every draft passes the rule's own check."""
    trees: list[TokenTree] = []
    observe = ModelDrafter.verified

    def observed(self: ModelDrafter, request: Any, draft: Any, *rest: Any) -> None:
        if draft.num_passes:  # else it has copies alone, in the place of the structure's own draft
            trees.append(draft.tree)
        RULES[rule].check(draft.tree)
        observe(self, request, draft, *rest)

    monkeypatch.setattr(ModelDrafter, "verified", observed)
    engine = dg.Engine.from_pretrained(target(), draft_model=drafter(), rule=rule, **STRUCTURES[name])
    texts = []
    for seed in (0, 1, 0):
        result = engine.generate(PROMPT, dg.SamplingParams(max_new_tokens=25, temperature=1.0, seed=seed))
        assert len(result.token_ids) == 25
        texts.append(result.token_ids)
    assert texts[2] == texts[0]
    full = [tree for tree in trees if len(tree) > 3]
    assert full or name == "more paths than budget"
    assert all(("sampled" in tree.kinds) == (RULES[rule].uses_laws and name != "fixed") for tree in full)
    assert not any(tree.across for tree in trees)


def test_the_first_path_of_a_repeated_token_keeps_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """i.i.d. paths meet: one of them is evaluated, and whichever is accepted, the drafter's cache is its text."""
    engine = dg.Engine.from_pretrained(target(), draft_model=drafter(), structure=structures.Paths(5, 4))
    observe, model = ModelDrafter.verified, engine.drafter.model
    repeated = 0

    def observed(self: ModelDrafter, request: Any, draft: Any, verdict: Any, *rest: Any) -> None:
        nonlocal repeated
        before = len(request.drafting.text)
        observe(self, request, draft, verdict, *rest)
        fed = [node for node in verdict.path if node in draft.graph.fed]
        assert len(request.drafting.text) == before + len(fed)
        repeated += any(list(draft.graph.fed.values()).count(draft.graph.fed[node]) > 1 for node in fed)

    monkeypatch.setattr(ModelDrafter, "verified", observed)
    params = dg.SamplingParams(max_new_tokens=100, temperature=0.6, seed=1)
    result = engine.generate(PROMPT, params)
    assert repeated > 0
    assert result.stats.num_drafter_evaluations < 16 * result.stats.num_rounds
    assert not model.cache._used
