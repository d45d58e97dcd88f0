"""Whatever users give as a prompt is the prompt that it stands for, or a PromptError that says what is possible."""

from __future__ import annotations

import io
import itertools
from array import array
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import BatchEncoding, PreTrainedTokenizerFast

import draftgraph as dg
from draftgraph.engine.prompts import encode, split
from draftgraph.errors import OptionError, PromptError
from ids import told
from models import byte_tokenizer, tiny_lm

IDS = [72, 105, 33]
LENGTH = {"max_new_tokens": 5}
tokenizer = cache(byte_tokenizer)


@cache
def engine() -> dg.Engine:
    return dg.Engine.from_pretrained(tiny_lm(vocab=256), tokenizer=tokenizer(), budget=0)


@cache
def expected() -> list[int]:
    return engine().generate(IDS, **LENGTH).token_ids


ONE: dict[str, Any] = {
    "list": IDS, "tuple": tuple(IDS), "array": array("i", IDS), "deque": deque(IDS), "iterator": iter(IDS),
    "generator": (i for i in IDS), "keys": dict.fromkeys(IDS).keys(), "tensor": torch.tensor(IDS),
    "int32 tensor": torch.tensor(IDS, dtype=torch.int32), "NumPy": np.array(IDS), "uint8": np.array(IDS, dtype=np.uint8),
    "tensors of one id": [torch.tensor(i) for i in IDS], "NumPy numbers": [np.int64(i) for i in IDS],
    "mapping": {"input_ids": IDS}, "encoding": BatchEncoding({"input_ids": IDS, "attention_mask": [1, 1, 1]}),
    "padded": {"input_ids": torch.tensor([0, 0, *IDS]), "attention_mask": torch.tensor([0, 0, 1, 1, 1])},
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_one_prompt_gives_one_result(name: str) -> None:
    result = engine().generate(ONE[name], **LENGTH)
    assert isinstance(result, dg.Result)
    assert result.token_ids == expected()


ROWS: dict[str, Any] = {
    "lists": [IDS, IDS], "tuple of tuples": (tuple(IDS), tuple(IDS)), "tensor": torch.tensor([IDS, IDS]),
    "array": np.array([IDS, IDS]), "tensors": [torch.tensor(IDS), torch.tensor([IDS])],
    "generators": ((i for i in IDS) for _ in range(2)), "mapping": {"input_ids": [IDS, IDS]},
    "mappings": [{"input_ids": IDS}, {"input_ids": np.array([IDS])}],
    "padded": {"input_ids": [[*IDS, 0], [0, *IDS]], "attention_mask": [[1, 1, 1, 0], [0, 1, 1, 1]]},
    "one row": torch.tensor([IDS]), "mapping of one row": {"input_ids": torch.tensor([IDS])}, "list of one": [IDS],
    "of all kinds": [IDS, torch.tensor(IDS), {"input_ids": IDS}],
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_batches_give_a_list_even_of_one(name: str) -> None:
    results = engine().generate(ROWS[name], **LENGTH)
    assert isinstance(results, list)
    assert [result.token_ids for result in results] == [expected()] * len(results)


@pytest.mark.parametrize(
    "texts", [["Hi!", "ab"], ("Hi!", "ab"), np.array(["Hi!", "ab"]), iter(["Hi!", "ab"])], ids=told
)
def test_texts_in_any_container_are_a_batch(texts: Any) -> None:
    alone = [engine().generate(text, **LENGTH).text for text in ("Hi!", "ab")]
    assert [result.text for result in engine().generate(texts, **LENGTH)] == alone


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("kind", [None, "pt", "np"])
def test_what_a_tokenizer_returns_for_a_padded_batch(padding_side: str, kind: str | None) -> None:
    texts = ["Hi!", "a longer text"]
    own = byte_tokenizer(("<pad>",), 257)
    own.pad_token, own.padding_side = "<pad>", padding_side
    encoded = own(texts, padding=True, return_tensors=kind)
    assert [encode(row, None, 257) for row in split(encoded)[0]] == [own(text)["input_ids"] for text in texts]


BAD: dict[str, tuple[Any, str]] = {
    "none": (None, "read from None"), "number": (5, "read from 5"), "flag": (True, "read from True"),
    "tensor of no dimension": (torch.tensor(5), "token ids"), "nothing": ([], "prompt is empty"),
    "no rows": (torch.zeros(0, 3, dtype=torch.long), "prompt is empty"), "empty rows": (torch.zeros(2, 0), "prompt is empty"),
    "masked away": ({"input_ids": IDS, "attention_mask": [0, 0, 0]}, "prompt is empty"),
    "bytes": (b"Hi", "decode"), "bytes in a batch": (["Hi", b"Hi"], "decode"), "bytearray": (bytearray(b"Hi"), "decode"),
    "memory": (memoryview(b"Hi"), "decode"), "flags": ([True, False], "item 0 of the prompt is True"),
    "flag tensor": (torch.tensor([True]), "integers"), "floats": ([1.0, 2.0], "item 0 of the prompt is 1.0"),
    "float tensor": (torch.tensor([1.0]), "integers"), "one float": ([1, 2.5], "item 1 of the prompt is 2.5"),
    "none in ids": ([1, None], "item 1 of the prompt is None"), "lone surrogate": ("a\ud800", "lone surrogate"),
    "surrogate in a batch": (["a", "\udfff"], "lone surrogate"), "set": ({1, 2}, "no order"),
    "frozen set": (frozenset({1}), "no order"), "three deep": ([[[1]]], "integers"),
    "three dimensions": (torch.ones(1, 1, 1), "integers"),
    "path": (Path("prompt.txt"), "read_text"), "file": (io.StringIO("a\nb\n"), "read_text"),
    "endless ids": (itertools.repeat(1), "at most"), "endless texts": (itertools.repeat("x"), "at most"),
    "huge id": ([10**5000], "outside the target's vocabulary"), "negative": ([-1], "outside"),
    "no data": (torch.zeros(3, dtype=torch.long, device="meta"), "token ids"), "class": (str, "token ids"),
    "function": (print, "token ids"), "messages": ([{"role": "user", "content": "Hi"}], r"engine\.chat\(messages\)"),
    "ids and text": ([5, "a"], "token ids"), "complex": (np.array([1j]), "integers"),
    "dates": (np.array(["2020-01-01"], "M8"), "integers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_prompt_is_refused_with_what_is_possible(name: str) -> None:
    given, message = BAD[name]
    with pytest.raises(PromptError, match=message):
        engine().generate(given, **LENGTH)
    with pytest.raises(PromptError):
        engine().stream(given, **LENGTH)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=2),
        max_leaves=8,
    )
)
def test_nonsense_is_a_prompt_or_a_prompt_error(nonsense: Any) -> None:
    try:
        items, is_batch = split(nonsense)
        ids = [encode(item, tokenizer(), 256) for item in items]
    except PromptError:
        return
    assert is_batch or len(ids) == 1
    assert all(0 <= token < 256 for row in ids for token in row)


def test_a_stream_takes_one_prompt_in_any_form() -> None:
    for prompt in (IDS, [IDS], torch.tensor([IDS]), {"input_ids": [IDS]}, iter(IDS)):
        stream = engine().stream(prompt, **LENGTH)
        assert [token for event in stream for token in event.token_ids] == expected()
    with pytest.raises(PromptError, match="a stream continues one prompt, not 2"):
        engine().stream([IDS, IDS])


def test_what_a_tokenizer_returns_may_be_spread_as_arguments() -> None:
    expected = engine().generate("Hi!", **LENGTH).token_ids
    assert engine().generate(**tokenizer()("Hi!"), **LENGTH).token_ids == expected
    assert engine().generate(**tokenizer()(["Hi!"], return_tensors="pt"), **LENGTH)[0].token_ids == expected
    assert engine().stream(**tokenizer()("Hi!"), **LENGTH).result().token_ids == []
    for ask in (engine().generate, engine().stream):
        with pytest.raises(OptionError, match="unknown option 'attention_mask'; write a prompt that is a mapping"):
            ask("Hi!", attention_mask=[1])
        with pytest.raises(PromptError, match="read from None"):
            ask(**LENGTH)


# --- the start token --------------------------------------------------------------------------------------------------


def starting(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer that adds special tokens to every text, e.g. "<s> $A </s>"."""
    own = byte_tokenizer(("<s>", "</s>"), 258)
    own.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 256), ("</s>", 257)]
    )
    return own


@pytest.mark.parametrize(
    ("template", "text", "begin"),
    [
        ("<s> $A", "Hi", [256]),
        ("<s> $A", "<s>Hi", [256]),
        ("<s> $A", "<s><s>Hi", [256, 256]),
        ("<s> $A", "</s>Hi", [256, 257]),
        ("<s> </s> $A", "<s></s>Hi", [256, 257]),
        ("<s> </s> $A", "<s>Hi", [256, 257, 256]),
        ("$A", "<s>Hi", [256]),
        ("$A", "<s><s>Hi", [256, 256]),
        ("$A", "Hi", []),
    ],
)
def test_a_text_that_begins_with_the_start_token_gets_no_second_one(template: str, text: str, begin: list[int]) -> None:
    own = starting(template)
    assert encode(text, own, 258) == [*begin, *own("Hi", add_special_tokens=False)["input_ids"]]


def test_what_a_tokenizer_adds_to_the_end_stays() -> None:
    own = starting("<s> $A </s>")
    assert encode("<s>Hi", own, 258) == encode("Hi", own, 258) == own("Hi")["input_ids"]


@pytest.mark.parametrize("text", ["aaaa", "abab", "aabb" * 3])
def test_texts_that_repeat_themselves_are_left_alone(text: str) -> None:
    assert encode(text, tokenizer(), 256) == tokenizer()(text)["input_ids"]


def test_a_tokenizer_that_fails_is_named_with_its_error() -> None:
    def broken(text: str) -> dict[str, list[int]]:
        raise KeyError("no vocabulary")

    with pytest.raises(PromptError, match="the tokenizer cannot read the text: KeyError"):
        encode("Hi", broken, 256)
