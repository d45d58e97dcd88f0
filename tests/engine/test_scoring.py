"""Log-probabilities are those of transformers' own forward: of given texts, and of answers as they come."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import pytest
import torch

import draftgraph as dg
from converted import lm
from draftgraph.engine import scoring
from draftgraph.errors import OptionError, PromptError
from models import byte_tokenizer, perturbed, tiny_lm
from recurrent import recurrent

TEXT = [(11 * n + n * n) % 60 for n in range(90)]


def by_transformers(model: Any, ids: list[int]) -> torch.Tensor:
    """f[len(ids) - 1, V]"""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].float(), dim=1)


@cache
def scored_by(kind: str) -> tuple[dg.Engine, torch.Tensor]:
    """An engine, and what transformers says of TEXT."""
    models: dict[str, Any] = {
        "openvino": lm,
        "bitwise": lm,
        "recurrent": lambda: recurrent("mamba"),
        "window": lambda: tiny_lm("mistral", num_key_value_heads=2, sliding_window=16),
    }
    model = models.get(kind, tiny_lm)()
    options: dict[str, Any] = {"budget": 0}
    if kind in ("openvino", "bitwise"):
        options |= {"backend": "openvino", "bitwise": kind == "bitwise"}
    return dg.Engine.from_pretrained(model, **options), by_transformers(model, TEXT)


@pytest.mark.parametrize("piece", [1, 2, 7, 128])
@pytest.mark.parametrize("kind", ["torch", "openvino", "bitwise", "recurrent", "window"])
def test_a_text_has_the_log_probabilities_of_a_plain_forward(
    kind: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, expected = scored_by(kind)
    monkeypatch.setattr(scoring, "PIECE_ROWS", piece)
    scores = engine.score(TEXT, top_logprobs=3)
    assert scores.token_ids == TEXT
    assert scores.logprobs[0] is None
    assert scores.logprobs[1:] == pytest.approx(expected[range(89), TEXT[1:]].tolist(), abs=2e-4)
    assert scores.top_logprobs is not None
    assert scores.top_logprobs[0] is None
    best, _ = expected.topk(3)
    for row, found in zip(best.tolist(), scores.top_logprobs[1:], strict=True):
        assert found is not None
        assert [value for _, value in found] == pytest.approx(row, abs=2e-4)


def test_scores_beside_decoding_and_of_texts_of_any_length() -> None:
    model = tiny_lm(vocab=256)
    engine = dg.Engine.from_pretrained(model, tokenizer=byte_tokenizer(), budget=0)
    assert engine.score([7]) == scoring.Scores([7], [None])
    assert engine.score("abc").token_ids == byte_tokenizer()("abc")["input_ids"]
    assert len(engine.score([5] * 128).logprobs) == 128

    async def both() -> None:
        stream = engine.astream([5, 9], max_new_tokens=20)
        scores = [await asyncio.to_thread(engine.score, TEXT) for _ in range(3)]
        assert len([event async for event in stream]) == 20
        for each in scores[1:]:
            assert each.logprobs[1:] == pytest.approx(scores[0].logprobs[1:], abs=1e-5)

    asyncio.run(both())
    assert not engine.target.cache._used  # type: ignore[attr-defined]


def test_what_cannot_be_scored_is_refused() -> None:
    engine = dg.Engine.from_pretrained(tiny_lm(), budget=0)
    with pytest.raises(PromptError, match="129 tokens and the target's context window is 128"):
        engine.score([5] * 129)
    with pytest.raises(PromptError):
        engine.score([])
    with pytest.raises(OptionError, match="top_logprobs=65 is more than the target's vocabulary of 64"):
        engine.score([5, 9], top_logprobs=65)
    with pytest.raises(OptionError, match="top_logprobs=-1"):
        engine.generate([5], top_logprobs=-1)
    with pytest.raises(OptionError, match="top_logprobs=65"):
        engine.generate([5], top_logprobs=65)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_tell_the_best_tokens_of_every_position(temperature: float) -> None:
    model = tiny_lm()
    engine = dg.Engine.from_pretrained(model, draft_model=perturbed(model, 0.05), budget=6)
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": temperature, "seed": 1, "top_k": 5}
    result = engine.generate([5, 9, 5], top_logprobs=4, **options)
    expected = by_transformers(model, [5, 9, 5, *result.token_ids])[2:]
    assert result.logprobs == pytest.approx(expected[range(20), result.token_ids].tolist(), abs=1e-4)
    assert result.top_logprobs is not None
    best, _ = expected.topk(4)
    for row, found in zip(best.tolist(), result.top_logprobs, strict=True):
        assert [value for _, value in found] == pytest.approx(row, abs=1e-4)
    events = list(engine.stream([5, 9, 5], top_logprobs=4, **options))
    assert [value for event in events for value in event.logprobs or ()] == result.logprobs
    assert [found for event in events for found in event.top_logprobs or ()] == result.top_logprobs
    assert all(len(event.logprobs or ()) == len(event.token_ids) for event in events)
    some = engine.generate([5, 9, 5], logprobs=True, **options)
    assert (some.logprobs, some.top_logprobs) == (result.logprobs, None)
    none = next(iter(engine.stream([5, 9, 5], **options)))
    assert (none.logprobs, none.top_logprobs) == (None, None)
