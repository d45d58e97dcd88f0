"""Answers in batches are what plain decoding says."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from draftgraph.lab.train.features.generate import answer_all
from laws import p_value
from models import tiny_lm

PROMPTS = [[5], [9, 3, 40], [7, 2, 11, 30, 8, 21, 4], [1, 1]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma", "phi"])
def test_greedy_answers_are_plain_ones(family: str) -> None:
    model = tiny_lm(family)
    usual = model.config._attn_implementation
    found = answer_all(model, [(prompt, 0.0) for prompt in PROMPTS], 20, [], captured=False)
    assert model.config._attn_implementation == usual
    for prompt, answer in zip(PROMPTS, found, strict=True):
        ids = list(prompt)
        for _ in range(20):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer.ids.tolist() == ids
        assert (answer.prompt, answer.temperature) == (len(prompt), 0.0)


def test_answers_end_at_the_first_end_token() -> None:
    model = tiny_lm()
    whole = answer_all(model, [(prompt, 0.0) for prompt in PROMPTS], 20, [], captured=False)
    ends = Counter(token for answer in whole for token in answer.ids[answer.prompt :].tolist()).most_common(2)
    eos = [token for token, _ in ends]
    for answer, long in zip(answer_all(model, [(p, 0.0) for p in PROMPTS], 20, eos, False), whole, strict=True):
        expected = long.ids.tolist()
        first = next((i for i in range(long.prompt, len(expected)) if expected[i] in eos), len(expected))
        assert answer.ids.tolist() == expected[: first + 1]


def test_answers_are_drawn_at_their_own_temperatures() -> None:
    model = tiny_lm(vocab=7, logit_gain=1.0).requires_grad_(False)
    torch.manual_seed(3)
    for temperature in (0.7, 1.0):
        found = answer_all(model, [([1, 2], temperature)] * 3000 + [([1, 2, 3], 0.0)], 2, [], captured=False)
        seen = [tuple(answer.ids[2:].tolist()) for answer in found[:-1]]
        first = (model(torch.tensor([[1, 2]])).logits[0, -1] / temperature).double().softmax(-1)
        law = {}
        for a in range(7):
            then = (model(torch.tensor([[1, 2, a]])).logits[0, -1] / temperature).double().softmax(-1)
            law |= {(a, b): float(first[a] * then[b]) for b in range(7)}
        assert p_value(seen, law) > 1e-4


def test_enough_ends_all_answers() -> None:
    found = answer_all(tiny_lm(), [(prompt, 0.0) for prompt in PROMPTS], 60, [], False, enough=lambda: True)
    assert {answer.num_answered for answer in found} == {17}
