"""Drafting from text alone."""

from __future__ import annotations

from functools import cache

import pytest
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.draft.edges import sources
from models import plain, tiny_lm


@cache
def target() -> PreTrainedModel:
    return tiny_lm()


def result(tokens: int = 40, prompt: tuple[int, ...] = (9, 4), **options: object) -> dg.Result:
    engine = dg.Engine.from_pretrained(target(), **options)  # type: ignore[arg-type]
    return engine.generate(list(prompt), dg.SamplingParams(max_new_tokens=tokens))


def test_predicted_text_is_accepted_at_once() -> None:
    expected = plain(target(), [9, 4], 40)
    found = result(drafter="text", prediction=expected, budget=8)
    assert found.token_ids == expected
    assert found.stats.mean_acceptance_length > 7  # nothing but the budget bounds how deep copies go
    assert found.stats.accepted_by_source["text"] == found.stats.num_accepted_tokens
    assert found.stats.num_drafter_evaluations == found.stats.num_drafter_passes == 0
    assert found.stats.num_merged_nodes == found.stats.num_draft_tokens


def test_predicted_text_with_gaps() -> None:
    """Insertions, deletions and changes: the run is found again."""
    expected = plain(target(), [9, 4], 60)
    prediction = [*expected[:10], 0, 0, *expected[13:30], *expected[34:]]
    found = result(60, drafter="text", prediction=prediction, budget=8)
    assert found.token_ids == expected
    assert found.stats.mean_acceptance_length > 2


@pytest.mark.parametrize("prediction", [[63] * 50, [0], list(range(60))])
def test_wrong_predictions_cost_nothing_but_speed(prediction: list[int]) -> None:
    assert result(drafter="text", prediction=prediction).token_ids == plain(target(), [9, 4], 40)


def test_repetition_is_found_in_prompt_and_output() -> None:
    answer = plain(target(), [9, 4], 30)
    prompt = (9, 4, *answer, 9, 4)
    found = result(20, prompt, budget=8)
    assert found.token_ids == plain(target(), list(prompt), 20)
    assert set(found.stats.accepted_by_source) <= {"context", "own"}


@pytest.mark.parametrize("structure", ["chain", "tree", "graph"])
def test_drafts_are_fixed_and_within_the_budget(structure: str) -> None:
    found = result(40, (5, 6, 5, 7, 5, 6, 5), structure=structure, budget=5)
    assert any(round.tokens for round in found.rounds)
    for round in found.rounds:
        assert len(round.tokens) <= 5
        assert not any(round.sampled)
        if structure == "chain":
            assert list(round.parents) == list(range(-1, len(round.tokens) - 1))


@pytest.mark.parametrize("kind", ["lookup", "model"])
def test_a_request_that_never_drafts_keeps_nothing_to_copy_from(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of the target's rows are sorted out of the whole vocabulary, for every request and round."""
    looked: list[int] = []
    rows = sources.shared_rows
    monkeypatch.setattr(sources, "shared_rows", lambda scores, *more: looked.append(len(scores)) or rows(scores, *more))
    drafting = {"drafter": "lookup"} if kind == "lookup" else {"draft_model": target(), "edges": ("own", "context")}
    engine = dg.Engine.from_pretrained(target(), **drafting)  # type: ignore[arg-type]
    prompts = [[9, 4], [3, 7, 3]]
    plainly = engine.generate(prompts, max_new_tokens=12, budget=0)
    assert not looked
    assert [found.token_ids for found in plainly] == [plain(target(), prompt, 12) for prompt in prompts]
    engine.generate(prompts, max_new_tokens=12, budget=3)
    assert looked


def test_a_table_of_all_requests_learns_from_those_that_never_draft() -> None:
    engine = dg.Engine.from_pretrained(target(), drafter="lookup", edges=("own", "table"))
    right = engine.generate([9, 4], max_new_tokens=40, budget=0).token_ids
    found = engine.generate([9, 4], max_new_tokens=40, budget=8)
    assert found.token_ids == right
    assert found.stats.accepted_by_source["table"] > 0
