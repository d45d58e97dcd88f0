"""Under the rule `agree` a seed decides the text, whatever drafts for it, and however it is asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from laws import p_value
from models import perturbed, tiny_lm

PARAMS = {
    "plain": dg.SamplingParams(max_new_tokens=20, temperature=1.0, seed=7),
    "warped": dg.SamplingParams(
        max_new_tokens=20, temperature=0.8, seed=7, top_k=20, top_p=0.9, repetition_penalty=1.2
    ),
}
PROMPT = [5, 9, 5, 9, 11]
DRAFTERS = {"perturbed": 0.1, "poor": 1.0, "same": 0.0, "none": None}


@cache
def target() -> PreTrainedModel:
    return tiny_lm()


@cache
def engine(kind: str = "none", **options: Any) -> dg.Engine:
    noise = DRAFTERS[kind]
    draft = None if noise is None else target() if noise == 0.0 else perturbed(target(), noise)
    return dg.Engine.from_pretrained(target(), draft_model=draft, rule="agree", **options)


@cache
def expected(warping: str) -> list[int]:
    return engine(budget=0).generate(PROMPT, PARAMS[warping]).token_ids


@pytest.mark.parametrize(
    ("kind", "structure", "warping"),
    [
        (kind, structure, ("plain", "warped")[(i + j) % 2])
        for i, kind in enumerate(DRAFTERS)
        for j, structure in enumerate(("chain", "tree", "graph", "gsd"))
    ],
)
def test_text_does_not_depend_on_the_draft(kind: str, structure: str, warping: str) -> None:
    if kind == "none" and structure == "gsd":
        pytest.skip("gsd needs a draft model")
    for budget in (0, 2, 12, "auto"):
        result = engine(kind, structure=structure, budget=budget).generate(PROMPT, PARAMS[warping])
        assert result.token_ids == expected(warping)
    if kind == "same":
        assert result.stats.mean_acceptance_length > 1.5


def test_text_does_not_depend_on_the_shape_of_a_tree() -> None:
    for branching in ((3, 2, 1), (1, 4), (2,)):
        drafting = engine("perturbed", structure=dg.structures.Tree(branching))
        assert drafting.generate(PROMPT, PARAMS["plain"]).token_ids == expected("plain")


def test_batch_alone_and_stream_agree() -> None:
    drafting = engine("perturbed", budget=8)
    prompts = [PROMPT, [3], [9, 8, 7]]
    alone = [drafting.generate(prompt, PARAMS["plain"]).token_ids for prompt in prompts]
    assert [result.token_ids for result in drafting.generate(prompts, PARAMS["plain"])] == alone
    reverse = drafting.generate(prompts[::-1], PARAMS["plain"])
    assert [result.token_ids for result in reverse] == alone[::-1]
    streamed = [token for event in drafting.stream(PROMPT, PARAMS["plain"]) for token in event.token_ids]
    assert streamed == alone[0] == expected("plain")


def test_interleaved_streams_do_not_disturb_each_other() -> None:
    drafting = engine("perturbed", budget=8)
    streams = [drafting.stream(prompt, PARAMS["plain"]) for prompt in (PROMPT, PROMPT[::-1])]
    texts: list[list[int]] = [[], []]
    running = {0, 1}  # which of them ends first depends on the drafts
    while running:
        for number in sorted(running, reverse=True):
            event = next(streams[number], None)
            if event is None:
                running.remove(number)
            else:
                texts[number] += event.token_ids
    assert texts == [drafting.generate(p, PARAMS["plain"]).token_ids for p in (PROMPT, PROMPT[::-1])]
    assert not drafting.target.cache._used


def test_seeds_and_samples_differ_and_are_told() -> None:
    drafting = engine("perturbed", budget=8)
    texts = {
        tuple(drafting.generate(PROMPT, replace(PARAMS["plain"], seed=seed, sample=sample)).token_ids)
        for seed in range(4)
        for sample in range(2)
    }
    assert len(texts) == 8
    unseeded = drafting.generate(PROMPT, replace(PARAMS["plain"], seed=None))
    again = drafting.generate(PROMPT, replace(PARAMS["plain"], seed=unseeded.seed))
    assert again.token_ids == unseeded.token_ids


@pytest.mark.parametrize("kind", ["none", "perturbed"])
def test_first_tokens_follow_the_softmax(kind: str) -> None:
    model = tiny_lm(vocab=8, logit_gain=1.0)
    draft = perturbed(model, 0.2) if kind == "perturbed" else None
    drafting = dg.Engine.from_pretrained(model, draft_model=draft, rule="agree", budget=3)
    params = [dg.SamplingParams(max_new_tokens=1, temperature=1.0, seed=seed) for seed in range(600)]
    tokens = [drafting.generate([1, 2], its).token_ids[0] for its in params]
    law = torch.softmax(model(torch.tensor([[1, 2]])).logits[0, -1].double(), dim=0).tolist()
    assert p_value(tokens, dict(enumerate(law))) > 1e-4
    assert p_value(tokens, dict(enumerate(law[::-1]))) < 1e-6
