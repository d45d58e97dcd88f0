"""Wherever a text ends, in the midst of an accepted run or not: text, ids, log-probabilities and reason agree."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import draftgraph as dg
from models import byte_tokenizer, perturbed, tiny_lm

SPECIAL = {256: "<end>", 257: "<x>"}
ALPHABET = [97, 98, 99, *SPECIAL]
PROMPT = [65]


@cache
def target() -> PreTrainedModel:
    return tiny_lm(vocab=258, window=512)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    made = byte_tokenizer()
    made.add_tokens(list(SPECIAL.values()), special_tokens=True)
    return made


@cache
def drafting(ids: tuple[int, ...], budget: int) -> dg.Engine:
    """An engine whose drafts foresee `ids`."""
    return dg.Engine.from_pretrained(
        target(), tokenizer=tokenizer(), drafter="text", prediction=[*PROMPT, *ids], budget=budget, structure="chain"
    )


class Say:
    """A processor that leaves one token possible: the next one of a list."""

    def __init__(self, ids: tuple[int, ...]) -> None:
        self.ids = ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        only = torch.full_like(scores, -torch.inf)
        only[:, self.ids[(input_ids.shape[1] - len(PROMPT)) % len(self.ids)]] = 0.0
        return only


def expected(
    ids: list[int], stops: list[str], ends: set[int], limit: int, told: int | None
) -> tuple[str, list[int], str]:
    """The slow truth, token by token: text, ids, reason."""
    for count in range(1, len(ids) + 1):
        said = ids[:count]
        shown = tokenizer().decode(said, skip_special_tokens=True)
        cuts = [at for stop in stops if (at := shown.find(stop)) >= 0]
        for stop in stops:
            named = [token for token, name in SPECIAL.items() if any(name in each for each in stops)]
            whole = "".join(tokenizer().decode([token], skip_special_tokens=token not in named) for token in said)
            if any(SPECIAL[token] in stop for token in named) and (at := whole.find(stop)) >= 0:
                cuts.append(shown_before(said, named, at))
        if cuts:
            return shown[: min(cuts)], said, "stop"
        if said[-1] in ends:
            return shown, said, "stop"
        if count == limit:
            return shown, said, "length"
        if count == told:
            return shown, said, "stop"
    raise AssertionError("the limit ends every text")


def shown_before(said: list[int], named: list[int], at: int) -> int:
    """How many of the first `at` characters are shown."""
    place = shown = 0
    for token in said:
        text = tokenizer().decode([token], skip_special_tokens=token not in named)
        shown += max(0, min(len(text), at - place)) if token not in SPECIAL else 0
        place += len(text)
    return shown


STOPS = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "<end>", "<x>"]), min_size=1, max_size=3).map("".join), max_size=3
)


@settings(max_examples=80)
@given(
    st.lists(st.sampled_from(ALPHABET), min_size=2, max_size=14), STOPS, st.sets(st.sampled_from(ALPHABET), max_size=1),
    st.integers(1, 14), st.none() | st.integers(1, 14), st.sampled_from([0, 3, 8]),
)  # fmt: skip
def test_every_end_is_where_the_slow_truth_puts_it(
    ids: list[int], stops: list[str], ends: set[int], limit: int, told: int | None, budget: int
) -> None:
    said, limit = tuple(ids), min(limit, len(ids))
    calls = 0

    def until(token: int, logits: torch.Tensor, scores: torch.Tensor) -> bool:
        nonlocal calls
        calls += 1
        assert token == ids[calls - 1]
        return calls == told

    asked: dict[str, Any] = {
        "max_new_tokens": limit, "stop": stops, "stop_token_ids": ends, "stop_when": until, "logprobs": True,
        "logits_processors": [Say(said)],
    }  # fmt: skip
    engine = drafting(said, budget)
    text, tokens, reason = expected(ids, stops, ends, limit, told)
    result = engine.generate(PROMPT, **asked)
    assert (result.text, result.token_ids, result.finish_reason) == (text, tokens, reason)
    assert calls == len(tokens) == len(result.logprobs or ())
    calls = 0
    stream = engine.stream(PROMPT, **asked)
    events = list(stream)
    assert "".join(event.text for event in events) == text
    assert [token for event in events for token in event.token_ids] == tokens
    assert events[-1].finish_reason == stream.result().finish_reason == reason
    assert stream.result().logprobs == pytest.approx(result.logprobs, abs=1e-4)


# --- what an error leaves ---------------------------------------------------------------------------------------------


class Interrupt:
    """A `stop_when` that fails at a token."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error, self.seen = at, error, 0

    def __call__(self, token: int, logits: torch.Tensor, scores: torch.Tensor) -> bool:
        self.seen += 1
        if self.seen == self.at:
            raise self.error
        return False


@settings(max_examples=60)
@given(
    st.text("ab日é", min_size=6, max_size=12), st.integers(1, 6), st.sampled_from([0, 3, 8]),
    st.sampled_from([(), ("abc",), ("日z", "é<end>"), ("b日éa",)]), st.sampled_from([KeyboardInterrupt, RuntimeError]),
)  # fmt: skip
def test_the_partial_text_is_whole_wherever_an_error_strikes(
    text: str, at: int, budget: int, stop: tuple[str, ...], error: type[BaseException]
) -> None:
    said = tuple(tokenizer()(text)["input_ids"])
    asked = {"stop": stop, "stop_when": Interrupt(at, error()), "logits_processors": [Say(said)], "logprobs": True}
    if any(part in text for part in stop):
        return
    with pytest.raises(error) as raised:
        drafting(said, budget).generate(PROMPT, max_new_tokens=len(said), **asked)
    partial = raised.value.partial  # type: ignore[attr-defined]
    assert partial.token_ids == list(said[:at])
    assert partial.text == tokenizer().decode(said[:at])
    assert partial.finish_reason is None
    assert len(partial.logprobs) == at
    stats = partial.stats
    assert stats.num_output_tokens == at
    assert sum(record.emitted for record in partial.rounds) == at
    assert sum(stats.acceptance_histogram) == stats.num_rounds == len(partial.rounds)


@pytest.mark.parametrize("budget", [0, 6])
def test_a_stream_tells_its_whole_text_at_any_time(budget: int) -> None:
    text = "abc日ab"
    said = tuple(tokenizer()(text)["input_ids"])
    stream = drafting(said, budget).stream(
        PROMPT, max_new_tokens=len(said), stop=["ab!"], logits_processors=[Say(said)]
    )
    for _ in stream:
        result = stream.result()
        assert result.text == tokenizer().decode(result.token_ids)
    assert stream.result().text == text


def test_an_error_of_the_model_leaves_what_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = tuple(tokenizer()("abc日")["input_ids"])
    engine = drafting(said, 0)
    forward, passes = engine.target.forward, 0

    def failing(batch: Any, taps: Any = ()) -> Any:
        nonlocal passes
        passes += 1
        if passes == 6:
            raise RuntimeError("out of memory")
        return forward(batch)

    monkeypatch.setattr(engine.target, "forward", failing)
    with pytest.raises(RuntimeError) as raised:
        engine.generate(PROMPT, max_new_tokens=9, stop="c日z", logits_processors=[Say(said)])
    assert raised.value.partial.text == "abc\ufffd"  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert engine.generate(PROMPT, max_new_tokens=6, logits_processors=[Say(said)]).text == "abc日"


def test_special_tokens_stop_models_that_draft() -> None:
    model = target()
    engine = dg.Engine.from_pretrained(model, draft_model=perturbed(model), tokenizer=tokenizer(), budget=8)
    bias = {256: 4.0, 257: 4.0}
    whole = engine.generate(PROMPT, max_new_tokens=60, logit_bias=bias)
    ends = [i for i, token in enumerate(whole.token_ids) if token in SPECIAL]
    assert ends, "the seed of this test must say a special token"
    name = SPECIAL[whole.token_ids[ends[0]]]
    result = engine.generate(PROMPT, max_new_tokens=60, logit_bias=bias, stop=name)
    assert (result.token_ids, result.finish_reason) == (whole.token_ids[: ends[0] + 1], "stop")
    assert result.text == tokenizer().decode(result.token_ids, skip_special_tokens=True)
