"""Where a greedy text departs from the target's own, near ties are told from mistakes."""

from __future__ import annotations

import copy

import pytest
import torch

from draftgraph.lab.bench.agreement import Departure, compare
from models import plain, tiny_lm

PROMPT = [5, 6, 7, 8]
TOKENS = 6


@pytest.fixture(scope="module")
def target():
    return tiny_lm()


@pytest.fixture(scope="module")
def expected(target) -> list[int]:
    return plain(target, PROMPT, TOKENS)


def logits(target, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return target(input_ids=torch.tensor([ids])).logits[0, -1].double()


def test_the_same_text_departs_nowhere(target, expected):
    assert compare(target, PROMPT, expected, tuple(expected)) is None


@pytest.mark.parametrize("where", [0, 3, TOKENS - 1])
def test_a_mistake_is_found_where_it_is_with_its_gap(target, expected, where):
    row = logits(target, PROMPT + expected[:where])
    wrong = int(row.argmin())
    got = [*expected[:where], wrong, *expected[where + 1 :]]
    found = compare(target, PROMPT, expected, got)
    assert found is not None
    assert (found.position, found.expected, found.got, found.near_tie) == (where, expected[where], wrong, False)
    assert found.gap == pytest.approx(float(row[expected[where]] - row[wrong]), abs=1e-4)


def test_a_near_tie_is_told_from_a_mistake(target, expected):
    """A copy of the target in which another token is as likely as the best one."""
    twin = copy.deepcopy(target)
    other = (expected[0] + 1) % 64
    with torch.no_grad():
        head = twin.get_output_embeddings().weight
        if head is twin.get_input_embeddings().weight:
            head = torch.nn.Parameter(head.clone())
            twin.get_output_embeddings().weight = head
        head[other] = head[expected[0]]
    found = compare(twin, PROMPT, expected, [other, *expected[1:]])
    assert found is not None
    assert found.near_tie
    assert found.gap == pytest.approx(0.0, abs=1e-6)


def test_coarse_types_forgive_more(target, expected):
    row = logits(target, PROMPT)
    second = int(row.topk(2).indices[1])
    got = [second, *expected[1:]]
    narrow = compare(target, PROMPT, expected, got)
    coarse = compare(copy.deepcopy(target).bfloat16(), PROMPT, expected, got)
    assert narrow is not None
    assert coarse is not None
    scale = float((row - row.mean()).abs().max())
    assert narrow.near_tie == (narrow.gap <= 1e-3 * scale)
    assert coarse.near_tie == (coarse.gap <= 0.1 * scale) or abs(coarse.gap - 0.1 * scale) < 0.1


@pytest.mark.parametrize("got", [[], [1], None])
def test_a_text_that_ends_early_or_late_is_a_mistake(target, expected, got):
    if got is None:
        found = compare(target, PROMPT, expected, [*expected, 9])
        assert found == Departure(TOKENS, None, 9, None, False)
    else:
        got = expected[: len(got)]
        assert compare(target, PROMPT, expected, got) == Departure(len(got), expected[len(got)], None, None, False)


def test_ids_beyond_the_vocabulary_are_mistakes(target, expected):
    assert compare(target, PROMPT, expected, [999]) == Departure(0, expected[0], 999, None, False)
