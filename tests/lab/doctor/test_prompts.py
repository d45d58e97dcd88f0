"""What a diagnosis is made on, and how it is named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from draftgraph.errors import OptionError
from draftgraph.lab.doctor.checks import Checkup, Side
from draftgraph.lab.doctor.prompts import KINDS, MESSAGES, PROMPTS, encode_prompts
from models import byte_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def checkup(template: str | None = None, tokenizer: bool = True, window: int = 200) -> Checkup:
    """A target that was read, without weights."""
    target: Any = Side("target", Path("t"))
    if tokenizer:
        target.tokenizer = byte_tokenizer()
        target.tokenizer.chat_template = template
    text = SimpleNamespace(vocab_size=256, max_position_embeddings=window)
    target.config = SimpleNamespace(get_text_config=lambda decoder: text)
    return Checkup(target, None, [])


def read(found: Any) -> list[str]:
    return [byte_tokenizer().decode(ids) for ids in found.ids]


def test_texts_are_continued_as_they_are_without_a_template():
    found = encode_prompts(checkup(), [], "", None, 16)
    assert read(found) == list(PROMPTS)
    assert str(found) == f"{len(PROMPTS)} prompts: bundled with draftgraph ({KINDS}); continued as they are"


def test_messages_are_laid_out_where_there_is_a_template():
    found = encode_prompts(checkup(TEMPLATE), [], "", None, 16)
    assert read(found) == [f"<user>{text}<answer>" for text in MESSAGES]
    own = encode_prompts(checkup(TEMPLATE), ["Why?"], "given with --prompt", None, 16)
    assert read(own) == ["<user>Why?<answer>"]
    assert str(own) == "1 prompt: given with --prompt; each as a message, laid out by the tokenizer's chat template"
    assert own.to_dict() == {"count": 1, "source": "given with --prompt", "chat": True}
    assert read(encode_prompts(checkup(TEMPLATE), ["Why?"], "", False, 16)) == ["Why?"]


def test_a_small_window_keeps_the_ends():
    assert read(encode_prompts(checkup(window=20), ["0123456789"], "", None, 16)) == ["6789"]


@pytest.mark.parametrize(
    ("state", "texts", "chat", "words"),
    [
        ({"tokenizer": False}, ["a"], None, "no tokenizer files"),
        ({}, ["a"], True, "chat template"),
        ({"template": "{{ raise_exception('no') }}"}, ["a"], None, "cannot lay out"),
        ({"template": "{% for"}, ["a"], None, "cannot lay out"),
        ({"window": 16}, ["a"], None, "leaves no room"),
        ({}, [""], None, "is empty"),
    ],
)
def test_what_cannot_be_read_is_refused(state, texts, chat, words):
    with pytest.raises(OptionError, match=words):
        encode_prompts(checkup(**state), texts, "", chat, 16)
