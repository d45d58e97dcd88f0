"""Greedy output is, token by token, what transformers generates."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import NoRepeatNGramLogitsProcessor, PreTrainedModel

import draftgraph as dg
from draftgraph.backends import torch_model
from models import FAMILIES, perturbed, plain, tiny_lm

PROMPTS = {1: [5], 2: [9, 4], 17: [(7 * i + 3) % 61 for i in range(17)]}
TREE = {"structure": dg.structures.Tree((3, 2, 1, 1))}
ALL_EDGES = ("merge", "own", "context", "rejected", "table")
STRUCTURES: dict[str, dict[str, Any]] = {
    "chain": {"structure": "chain"},
    "tree": {"structure": "tree"},
    "graph": {"structure": "graph"},
    "graph with all edges": {"structure": "graph", "edges": ALL_EDGES, "num_speculative_tokens": 2},
    "gsd": {"structure": "gsd"},
    "branching": TREE,
}
ONLY_BESIDE_MODEL = ("branching", "gsd", "graph with all edges")
BUDGETS = (0, 1, 3, 8, 24, "auto")


@cache
def target(family: str = "llama", eos: int | None = None) -> PreTrainedModel:
    return tiny_lm(family, eos=eos)


@cache
def drafter(kind: str, family: str = "llama") -> PreTrainedModel | None:
    if kind == "same":
        return target(family)
    if kind == "random":
        return tiny_lm("gpt2", seed=9)
    return None if kind in ("lookup", "text") else perturbed(target(family), 0.12)


def check(
    model: PreTrainedModel, draft: PreTrainedModel | None, prompt: list[int], tokens: int, **options: Any
) -> dg.Result:
    return decoded(dg.Engine.from_pretrained(model, draft_model=draft, **options), prompt, tokens)


def decoded(engine: dg.Engine, prompt: list[int], tokens: int) -> dg.Result:
    result = engine.generate(prompt, dg.SamplingParams(max_new_tokens=tokens))
    assert result.token_ids == plain(engine.target.model, prompt, tokens)
    assert not engine.target.cache._used
    return result


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("structure", "budget"), [("graph", 24), ("graph with all edges", 3), ("branching", 24)])
def test_families(family: str, structure: str, budget: int) -> None:
    engine = dg.Engine.from_pretrained(
        target(family), draft_model=drafter("perturbed", family), budget=budget, **STRUCTURES[structure]
    )
    accepted = 0
    for prompt in (PROMPTS[2], PROMPTS[17]):
        accepted += decoded(engine, prompt, 20).stats.num_accepted_tokens
    assert accepted > 0


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_structures_and_budgets(structure: str, budget: int | str) -> None:
    engine = dg.Engine.from_pretrained(
        target(), draft_model=drafter("perturbed"), budget=budget, **STRUCTURES[structure]
    )
    for number, prompt in PROMPTS.items():
        result = decoded(engine, prompt, 20 + number)
        if budget != "auto":
            assert result.stats.num_verified_nodes <= budget * result.stats.num_rounds


@pytest.mark.parametrize(
    ("kind", "structure", "rule"),
    [
        (kind, structure, ("layer", "agree")[(i + j) % 2])
        for i, kind in enumerate(("perturbed", "random", "same", "lookup", "text"))
        for j, structure in enumerate(STRUCTURES)
    ],
)
def test_drafters(kind: str, structure: str, rule: str) -> None:
    if kind in ("lookup", "text") and structure in ONLY_BESIDE_MODEL:
        pytest.skip("text is looked up, not grown to a shape")
    expected = plain(target(), PROMPTS[2], 40)
    prediction = {"prediction": [*expected[:9], 1, 2, *expected[12:]], "drafter": "text"} if kind == "text" else {}
    result = check(target(), drafter(kind), PROMPTS[2], 40, budget=10, rule=rule, **STRUCTURES[structure], **prediction)
    if kind in ("same", "text"):
        assert result.stats.mean_acceptance_length > 2.0


@pytest.mark.parametrize("rule", ["block", "token"])
def test_chain_rules(rule: str) -> None:
    check(target(), drafter("perturbed"), PROMPTS[17], 40, rule=rule, num_speculative_tokens=5)


@pytest.mark.parametrize("chunk", [1, 4, 16])
@pytest.mark.parametrize("kind", ["perturbed", "lookup"])
def test_prefill_in_pieces(chunk: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_model.TorchModel, "most_rows", chunk)
    check(target(), drafter(kind), PROMPTS[17], 20, budget=8)
    check(target(), drafter(kind), [5, 6] * 8, 20, budget=8)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_end_of_sequence_inside_a_draft(structure: str) -> None:
    text = plain(target(), PROMPTS[2], 40)
    for eos in sorted(set(text))[:6]:
        model = target(eos=eos)
        result = check(model, target(), PROMPTS[2], 40, budget=12, **STRUCTURES[structure])
        assert result.finish_reason == "stop"
        assert result.token_ids[-1] == eos
        assert result.token_ids.count(eos) == 1


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", ["perturbed", "lookup"])
def test_processors(structure: str, kind: str) -> None:
    """Every verified position is shaped with its own prefix, not only the bonus token."""
    if kind == "lookup" and structure in ONLY_BESIDE_MODEL:
        pytest.skip("text is looked up, not grown to a shape")
    model = target(eos=8)
    options = {"repetition_penalty": 1.4, "min_new_tokens": 12}
    expected = plain(model, PROMPTS[17], 40, **options, logits_processor=[_no_repeat()])
    engine = dg.Engine.from_pretrained(model, draft_model=drafter(kind), budget=12, **STRUCTURES[structure])
    params = dg.SamplingParams(max_new_tokens=40, logits_processors=(_no_repeat(),), **options)
    assert engine.generate(PROMPTS[17], params).token_ids == expected
    assert expected != plain(model, PROMPTS[17], 40)


def _no_repeat() -> NoRepeatNGramLogitsProcessor:
    return NoRepeatNGramLogitsProcessor(2)


def test_up_to_the_context_window() -> None:
    model = tiny_lm(window=32)
    for structure in STRUCTURES.values():
        result = check(model, perturbed(model, 0.05), PROMPTS[17], 15, budget=12, **structure)
        assert len(result.token_ids) == 15
        engine = dg.Engine.from_pretrained(model, draft_model=model, **structure)
        longer = engine.generate(PROMPTS[17], dg.SamplingParams(max_new_tokens=100))
        assert (longer.token_ids, longer.finish_reason) == (result.token_ids, "length")


def test_deep_drafts() -> None:
    result = check(target(), target(), PROMPTS[2], 60, structure="chain", budget=20, num_speculative_tokens=20)
    assert result.stats.mean_acceptance_length > 4.0  # deeper nodes fall below the least mass worth a row


def test_half_precision_runs() -> None:
    model = tiny_lm().to(torch.bfloat16)
    engine = dg.Engine.from_pretrained(model, draft_model=model, budget=6)
    result = engine.generate([3, 4], dg.SamplingParams(max_new_tokens=20))
    assert len(result.token_ids) == 20
    assert result.stats.to_dict()["numerics"] == "near ties may differ with the width of a pass"
    assert result.stats.lossless


def test_whole_precision_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = dg.Engine.from_pretrained(target(), budget=6)
    assert engine.generate([3, 4], max_new_tokens=4).stats.numerics == "exact"
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")  # rounded to tf32, or to bfloat16
    assert engine.generate([3, 4], max_new_tokens=4).stats.numerics != "exact"
