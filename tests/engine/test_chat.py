"""Conversations are laid out by the tokenizer's own template, and a prompt that should have been one is told so once."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import draftgraph as dg
from draftgraph.errors import DraftgraphError, PromptError
from ids import told
from models import byte_tokenizer, tiny_lm

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'nobody' %}{{ raise_exception('nobody speaks') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QUESTION = [{"role": "user", "content": "Hi"}]
TALK = [{"role": "system", "content": "Be brief."}, *QUESTION, {"role": "assistant", "content": "Yes?"}, QUESTION[0]]
LENGTH = {"max_new_tokens": 4}


def chatting(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer(("<s>", "<|end|>"), 258)
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def engine() -> dg.Engine:
    return dg.Engine.from_pretrained(tiny_lm(vocab=258, window=512), tokenizer=chatting(), budget=0)


@pytest.mark.parametrize(
    "messages", [QUESTION, tuple(QUESTION), iter(QUESTION), "Hi"], ids=["list", "tuple", "iterator", "text"]
)
def test_a_question_in_any_form_is_the_same_prompt(messages: Any, engine: dg.Engine) -> None:
    expected = engine.tokenizer("<s><|user|>Hi<|end|><|assistant|>")["input_ids"]
    assert engine.chat_prompt(messages) == expected


def test_a_conversation_is_answered(engine: dg.Engine) -> None:
    prompt = "<s><|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Yes?<|end|><|user|>Hi<|end|><|assistant|>"
    assert engine.chat(TALK, **LENGTH).token_ids == engine.generate(prompt, **LENGTH).token_ids
    hot = {"temperature": 1.0, "seed": 4}
    assert engine.chat(TALK, LENGTH, **hot).token_ids == engine.generate(prompt, **LENGTH, **hot).token_ids


@pytest.mark.parametrize(
    "talks", [[TALK, "Hi"], (TALK, QUESTION), iter([TALK, "Hi"]), ["Hi", "Ho"], [QUESTION]], ids=told
)
def test_a_list_of_conversations_is_a_batch(talks: Any, engine: dg.Engine) -> None:
    talks = list(talks)
    alone = [engine.chat(talk, **LENGTH).token_ids for talk in talks]
    assert [result.token_ids for result in engine.chat(iter(talks), **LENGTH)] == alone
    assert len(engine.chat_prompt(talks)) == len(talks)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_dict": False},
        {"return_tensors": "pt"},
        {"return_tensors": "np", "return_dict": False},
        {"tokenize": False},
    ],
)
def test_whatever_apply_chat_template_returns_is_that_prompt(options: dict[str, Any], engine: dg.Engine) -> None:
    given = engine.tokenizer.apply_chat_template(TALK, add_generation_prompt=True, **options)
    result = engine.generate(given, **LENGTH)
    first = result[0] if isinstance(result, list) else result
    assert isinstance(result, list) == ("return_tensors" in options)  # a matrix of one row is a batch of one
    assert first.token_ids == engine.chat(TALK, **LENGTH).token_ids
    several = engine.tokenizer.apply_chat_template([TALK, TALK], add_generation_prompt=True, **options)
    assert [each.token_ids for each in engine.generate(several, **LENGTH)] == [first.token_ids] * 2


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "no messages in"), (None, "no messages in None"), (5, "no messages"), (b"Hi", "no messages"),
        (QUESTION[0], "no messages in"), ({"messages": QUESTION}, "no messages in"), ([[]], "a conversation has no messages"),
        ([{"role": "user"}], "message 0 has content=None"), ([{"content": "Hi"}], "message 0 has role=None"),
        ([*QUESTION, {"role": "user", "content": None}], "message 1 has content=None"), ([{}], "message 0 has role=None"),
        ([{"role": 5, "content": "Hi"}], "message 0 has role=5"),
        ([{"role": " ", "content": "Hi"}], "message 0 has an empty role"),
        ([{"role": "user", "content": 5}], "content=5"), ([{"role": "user", "content": ["Hi"]}], r"content=\['Hi'\]"),
        ([{"role": "user", "content": b"Hi"}], "content=b'Hi'"), ([QUESTION[0], "Hi"], "message 1 is 'Hi'"),
        ([QUESTION[0], None], "message 1 is None"), ([("user", "Hi")], r"message 0 is 'user'"),
        ([QUESTION, QUESTION[0]], "message 0 is"),
        ([{"role": "user", "content": "a\ud800"}], "lone surrogate"),
        ([QUESTION[0] | {"tool_calls": []}], "message 0 has 'tool_calls'"),
        ([{"role": "nobody", "content": "Hi"}], "the chat template refuses these messages: TemplateError: nobody speaks"),
    ],
    ids=told,
)  # fmt: skip
def test_malformed_messages_are_refused_by_name(messages: Any, message: str, engine: dg.Engine) -> None:
    for ask in (engine.chat, engine.chat_prompt):
        with pytest.raises(PromptError, match=message):
            ask(messages)


def test_fields_without_a_value_are_not_there(engine: dg.Engine) -> None:
    sent = [QUESTION[0] | {"tool_calls": None, "refusal": None}]
    assert engine.chat_prompt(sent) == engine.chat_prompt(QUESTION)


def test_without_a_template_the_way_to_write_a_prompt_is_told() -> None:
    bare = dg.Engine.from_pretrained(tiny_lm(vocab=258), tokenizer=chatting(None), budget=0)
    with pytest.raises(PromptError, match=r"the tokenizer has no chat template; write .*engine.generate\(text\)"):
        bare.chat(QUESTION)
    with pytest.raises(PromptError, match="messages need a tokenizer"):
        dg.Engine.from_pretrained(tiny_lm(), budget=0).chat(QUESTION)


def test_a_template_that_reads_no_messages_is_an_error_of_ours() -> None:
    odd = dg.Engine.from_pretrained(tiny_lm(vocab=258), tokenizer=chatting("{{ messages.nothing.at_all }}"), budget=0)
    with pytest.raises(DraftgraphError, match="the chat template refuses"):
        odd.chat(QUESTION)


# --- the hint ---------------------------------------------------------------------------------------------------------


def hints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "draftgraph"]


def test_a_text_that_no_template_made_is_told_so_once(engine: dg.Engine, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        engine.generate("Once upon a time", **LENGTH)
        list(engine.stream("Once upon a time", **LENGTH))
    assert len(hints(caplog)) == 1
    assert "engine.chat(messages)" in hints(caplog)[0]


@pytest.mark.parametrize(
    "prompt",
    [
        "<s><|user|>Hi<|end|><|assistant|>",
        "<|user|>Hi<|end|><|assistant|>Well, ",
        [5, 9, 5],
        {"input_ids": [5, 9, 5]},
    ],
    ids=told,
)
def test_prompts_that_may_well_be_right_are_left_alone(
    prompt: Any, engine: dg.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.generate(prompt, **LENGTH)
    engine.chat("Hi", **LENGTH)
    assert hints(caplog) == []


@pytest.mark.parametrize(
    "template", [None, "{{ raise_exception('never') }}", "{% for m in messages %}{{ m['content'] }}{% endfor %}"]
)
def test_where_nothing_can_be_told_nothing_is_said(template: str | None, caplog: pytest.LogCaptureFixture) -> None:
    other = dg.Engine.from_pretrained(tiny_lm(vocab=258), tokenizer=chatting(template), budget=0)
    other.generate("Once upon a time", **LENGTH)
    assert hints(caplog) == []
