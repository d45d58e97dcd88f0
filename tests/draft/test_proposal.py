"""A draft is looked at before it is verified: what is wrong is said by name, and the engine goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.errors import DrafterError, DraftError
from models import plain, tiny_lm
from own_drafters import Making

PROMPT, VOCAB = [5, 9, 5], 64


@cache
def target() -> PreTrainedModel:
    return tiny_lm(vocab=VOCAB)


def _row(graph: dg.DraftGraph, law: torch.Tensor, request: Any, stated: torch.Tensor) -> None:
    """Draw from one law, and state another."""
    graph.sample(dg.ROOT, law, request.draw)
    graph.laws[-1] = stated[None]


def _deep(graph: dg.DraftGraph, nodes: int) -> None:
    node = dg.ROOT
    for token in range(nodes):
        node = graph.fix(node, token)


def _wide(graph: dg.DraftGraph, nodes: int) -> None:
    for token in range(nodes):
        graph.fix(dg.ROOT, token)


Make = Callable[[dg.DraftGraph, torch.Tensor, Any], Any]
MALFORMED: dict[str, tuple[Make, type[Exception], str]] = {
    "too many nodes": (lambda g, law, r: _wide(g, 7), DraftError, "proposed 7 nodes, and this round verifies 6"),
    "too deep": (lambda g, law, r: _deep(g, 6), DraftError, "a node of depth 6, and no node may be deeper than"),
    "a parent that is not there": (lambda g, law, r: g.fix(3, 1), DraftError, "node 0 has parent 3, which is not in"),
    "a parent before the root": (lambda g, law, r: g.fix(-2, 1), DraftError, "node 0 has parent -2"),
    "a cycle": (lambda g, law, r: (_wide(g, 2), g.parents.__setitem__(0, 1)), DraftError, "node 0 has parent 1"),
    "a token outside": (lambda g, law, r: g.fix(dg.ROOT, VOCAB), DraftError, "token 64, outside the vocabulary of 64"),
    "a negative token": (lambda g, law, r: g.fix(dg.ROOT, -1), DraftError, "token -1, outside the vocabulary"),
    "a token that is none": (lambda g, law, r: g.fix(dg.ROOT, 1.5), DrafterError, "TypeError"),
    "a FIXED slot twice": (lambda g, law, r: [g.fix(dg.ROOT, 3) for _ in range(2)], DraftError, "duplicate slots"),
    "a law that sums to 2": (lambda g, law, r: _row(g, law, r, 2 * law), DraftError, "row 0 of laws sums to 2"),
    "logits for a law": (lambda g, law, r: _row(g, law, r, law.log()), DraftError, "pass probabilities, not logits"),
    "a law with NaN": (lambda g, law, r: _row(g, law, r, law * math.nan), DraftError, "negative, infinite or NaN"),
    "a law of another size": (lambda g, law, r: _row(g, law, r, law[:9]), DraftError, "rows over V = 64"),
    "a law of integers": (lambda g, law, r: _row(g, law, r, law.long()), DraftError, "floating-point rows"),
    "laws in a block": (lambda g, law, r: g.sample(dg.ROOT, law[None], r.draw), DraftError, r"one row f\[V\]"),
    "a token that its law excludes": (
        lambda g, law, r: _row(g, law, r, torch.nn.functional.one_hot(law.argmin(), VOCAB).double()),
        DraftError,
        "gives token .* no mass",
    ),
    "a score that is no probability": (lambda g, law, r: g.fix(dg.ROOT, 1, score=3.0), DraftError, "from 0 to 1"),
    "a score that is NaN": (lambda g, law, r: g.fix(dg.ROOT, 1, score=math.nan), DraftError, "from 0 to 1"),
    "no draft": (lambda g, law, r: "draft", DrafterError, r"proposed 'draft'; return dg.Draft\(graph\)"),
    "a graph": (lambda g, law, r: g, DrafterError, r"return dg.Draft\(graph\)"),
    "an exception": (lambda g, law, r: 1 / 0, DrafterError, "Making failed while proposing: ZeroDivisionError"),
    "a law row that is not there": (
        lambda g, law, r: (g.fix(dg.ROOT, 1), g.law_row.__setitem__(0, 4)),
        DraftError,
        "names law row 4",
    ),
}


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_draft_is_refused_by_name(name: str, after: int) -> None:
    """In the first round and later; what was generated before is kept, and nothing stays taken."""
    make, kind, message = MALFORMED[name]
    drafter = Making(make, after)
    engine = dg.Engine.from_pretrained(target(), drafter=drafter, budget=6, num_speculative_tokens=6)
    params = dg.SamplingParams(max_new_tokens=after + 4, temperature=1.0, seed=2)
    with pytest.raises(kind, match=message) as raised:
        engine.generate(PROMPT, params)
    assert len(raised.value.partial.token_ids) == after
    assert not engine.target.cache._used
    drafter.make = lambda graph, law, request: None
    greedy = dg.SamplingParams(max_new_tokens=20)
    assert engine.generate(PROMPT, greedy).token_ids == plain(target(), PROMPT, 20)


def test_a_draft_that_breaks_its_promise_is_refused() -> None:
    """It says chains, and branches: the rule would not verify that."""

    class Branches(Making):
        structure = dg.structures.Chain()

    engine = dg.Engine.from_pretrained(
        target(), drafter=Branches(lambda g, law, r: _wide(g, 2)), rule="block", budget=6
    )
    with pytest.raises(DraftError, match=r"rule 'block' verifies .* on chains, and this draft branches"):
        engine.generate(PROMPT)


def test_a_trusted_drafter_is_checked_for_what_costs_nothing() -> None:
    class Trusted(Making):
        trusted = True

    for name, refused in (("too many nodes", True), ("a token outside", True), ("a FIXED slot twice", True)):
        make, kind, message = MALFORMED[name]
        engine = dg.Engine.from_pretrained(target(), drafter=Trusted(make), budget=6)
        with pytest.raises(kind, match=message):
            engine.generate(PROMPT)
        assert refused
    engine = dg.Engine.from_pretrained(
        target(), drafter=Trusted(MALFORMED["a score that is no probability"][0]), budget=6
    )
    assert engine.generate(PROMPT, dg.SamplingParams(max_new_tokens=9)).token_ids == plain(target(), PROMPT, 9)


def test_what_is_drawn_from_is_what_is_kept() -> None:
    """The user may go on writing into the tensor that was passed."""
    law = torch.tensor([0.5, 0.5, 0.0])
    graph = dg.DraftGraph()
    node = graph.sample(dg.ROOT, law, lambda drawn, number: int(drawn.argmax()))
    law.zero_()
    assert graph.tree().laws[graph.law_row[node]].tolist() == [0.5, 0.5, 0.0]
    assert graph.fix(node, torch.tensor(2)) == 1
    assert graph.tree().structure == "chain"
    graph.fix(node, 1)
    assert graph.tree().structure == "levels", "no promise is made unless it is written"
    assert (graph.score(node), graph.score(1)) == (1.0, 1.0)
