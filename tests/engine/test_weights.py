"""Weights that change between requests, as in reinforcement learning: no text is decoded with what older ones have read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from converted import lm
from models import perturbed, plain, tiny_lm
from recurrent import recurrent

PROMPT = [(7 * n) % 60 for n in range(100)]
TOKENS = 12


def optimizer_step(model: PreTrainedModel) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    model(input_ids=torch.tensor([PROMPT[:20]])).logits.logsumexp(-1).sum().backward()
    optimizer.step()


def loaded_anew(model: PreTrainedModel) -> None:
    model.load_state_dict(perturbed(model, 0.5).state_dict())


def written_past_torch(model: PreTrainedModel) -> None:
    for weight in model.parameters():
        weight.data.numpy()[...] *= 1.2


CHANGES = [optimizer_step, loaded_anew, written_past_torch]


def make(**options: Any) -> tuple[PreTrainedModel, dg.Engine]:
    target = tiny_lm(window=512)
    return target, dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05), budget=6, **options)


def decode(engine: dg.Engine, **options: Any) -> dg.Result:
    return asyncio.run(engine.agenerate(PROMPT, max_new_tokens=TOKENS, **options))


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_old_weights_have_read_is_not_used(change: Callable[[PreTrainedModel], None], told: bool) -> None:
    if change is written_past_torch and not told:
        pytest.skip("nothing shows it: that is what weights_changed is for")
    target, engine = make()
    before = decode(engine)
    assert decode(engine).stats.num_cached_prompt_tokens == len(PROMPT) - 1
    change(target)
    if told:
        engine.weights_changed()
    after = decode(engine)
    assert after.token_ids == plain(target, PROMPT, TOKENS) != before.token_ids
    assert after.stats.num_cached_prompt_tokens == 0


def test_after_a_change_beginnings_are_read_once_again() -> None:
    target, engine = make()
    decode(engine)
    optimizer_step(target)
    engine.weights_changed()
    decode(engine)
    again = decode(engine)
    assert again.stats.num_cached_prompt_tokens == len(PROMPT) - 1
    assert again.token_ids == plain(target, PROMPT, TOKENS)


def test_seeded_texts_and_their_log_probabilities_are_those_of_the_new_weights() -> None:
    target, engine = make(rule="agree")
    decode(engine, temperature=1.0, seed=3)
    optimizer_step(target)
    engine.weights_changed()
    after = decode(engine, temperature=1.0, seed=3, logprobs=True)
    fresh = dg.Engine.from_pretrained(target, budget=0, rule="agree")
    expected = fresh.generate(PROMPT, max_new_tokens=TOKENS, temperature=1.0, seed=3, logprobs=True)
    assert after.token_ids == expected.token_ids
    torch.testing.assert_close(torch.tensor(after.logprobs), torch.tensor(expected.logprobs), atol=1e-4, rtol=0)


def test_a_drafter_of_old_weights_costs_no_exactness() -> None:
    target, engine = make()
    optimizer_step(target)
    engine.weights_changed()
    assert engine.generate(PROMPT, max_new_tokens=TOKENS).token_ids == plain(target, PROMPT, TOKENS)


@pytest.mark.parametrize("model", ["pair", "recurrent"])
def test_a_text_under_way_forbids_it(model: str) -> None:
    engine = make()[1] if model == "pair" else dg.Engine.from_pretrained(recurrent("mamba"), budget=4)
    stream = engine.stream(PROMPT[:20], max_new_tokens=TOKENS)
    next(stream)
    with pytest.raises(dg.DraftgraphError, match=r"1 texts of \w+ForCausalLM are being decoded.*close them"):
        engine.weights_changed()
    stream.close()
    engine.weights_changed()


def test_a_request_in_the_background_forbids_it() -> None:
    _, engine = make()

    refused: list[str] = []

    def change(*_: Any) -> bool:
        try:
            engine.weights_changed()
        except dg.DraftgraphError as error:
            refused.append(str(error))
        return False

    async def main() -> None:
        with engine._background._loop.turn:  # so that it waits
            stream = engine.astream(PROMPT, max_new_tokens=300)
            change()
        await stream.aclose()
        await engine.agenerate(PROMPT, max_new_tokens=3, stop_when=change)
        engine.weights_changed()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert len(refused) == 4
    assert all(re.match("1 requests are being decoded.*wait for them", message) for message in refused)


def test_a_backend_with_a_copy_of_the_weights_refuses() -> None:
    engine = dg.Engine.from_pretrained(lm(), backend="openvino", budget=4)
    with pytest.raises(dg.DraftgraphError, match=r"OpenVINO computes .* with a copy.*write backend='torch'"):
        engine.weights_changed()
