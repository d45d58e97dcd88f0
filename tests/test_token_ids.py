"""Token ids are read from whatever users and tokenizers hold; padding is dropped, nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BatchEncoding

from draftgraph.errors import PromptError
from draftgraph.token_ids import rows_of, token_ids
from ids import told
from models import byte_tokenizer

IDS = [4, 7, 1]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 4), st.integers(0, 4),
    st.sampled_from([list, tuple, np.array, torch.tensor]), st.sampled_from([int, bool, float]), st.booleans(),
)  # fmt: skip
def test_padding_on_either_side_is_dropped(
    ids: list[int], left: int, right: int, kind: Any, flag: Any, as_batch: bool
) -> None:
    padded, mask = [0] * left + ids + [0] * right, [flag(0)] * left + [flag(1)] * len(ids) + [flag(0)] * right
    fields = {"input_ids": [padded] if as_batch else padded, "attention_mask": [mask] if as_batch else mask}
    assert rows_of({name: kind(value) for name, value in fields.items()}) == ([ids], as_batch)


@pytest.mark.parametrize(
    "extra",
    [
        {"token_type_ids": [0, 0, 0]}, {"special_tokens_mask": [1, 0, 0]}, {"offset_mapping": [(0, 1)] * 3}, {"length": [3]},
        {"pixel_values": None}, {"attention_mask": None},
    ],
    ids=told,
)  # fmt: skip
def test_what_tokenizers_add_does_no_harm(extra: dict[str, Any]) -> None:
    assert token_ids(BatchEncoding({"input_ids": IDS} | extra)) == IDS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "has input_ids; this one has"),
        ({"ids": IDS}, r"this one has \['ids'\]"),
        ({"role": "user", "content": "Hi"}, "write engine.chat"),
        ({"input_ids": None}, "input_ids is None; write integers"),
        ({"input_ids": "text"}, "input_ids is 'text'"),
        ({"input_ids": ["a", "b"]}, "write integers of shape"),
        ({"input_ids": [1.0]}, "input_ids"),
        ({"input_ids": [True]}, "input_ids"),
        ({"input_ids": torch.ones(1, 1, 1, dtype=torch.long)}, "input_ids"),
        ({"input_ids": IDS, "pixel_values": torch.zeros(1)}, "'pixel_values' cannot be honoured"),
        ({"input_ids": IDS, "labels": IDS}, "'labels' cannot be honoured"),
        ({"input_ids": IDS, "token_type_ids": [0, 1, 1]}, "token_type_ids other than 0"),
        ({"input_ids": IDS, "attention_mask": [1, 0, 1]}, "attention_mask has gaps"),
        ({"input_ids": IDS, "attention_mask": [1, 1]}, "another shape"),
        ({"input_ids": IDS, "attention_mask": [1, 2, 1]}, "write 0 and 1"),
        ({"input_ids": IDS, "attention_mask": [[1, 1, 1]] * 2}, "another shape"),
        ({"input_ids": IDS, "attention_mask": "111"}, "write 0 and 1"),
    ],
    ids=told,
)
def test_mappings_that_are_no_prompt(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        token_ids(fields)


def test_things_that_are_looked_up_by_name_are_mappings_even_if_their_type_says_nothing() -> None:
    class Table:
        """Like a data frame: iterating gives the names of columns."""

        def keys(self) -> list[str]:
            return ["text"]

        def __iter__(self) -> Any:
            return iter(["text"])

    with pytest.raises(PromptError, match="has input_ids"):
        token_ids(Table())


def test_one_text_as_the_tokenizers_package_reads_it() -> None:
    tokenizer = byte_tokenizer()
    encoding = tokenizer(["Hi", "there"], padding=False).encodings[0]
    assert token_ids(encoding) == tokenizer("Hi")["input_ids"]


def test_the_only_row_of_a_batch_is_a_prompt() -> None:
    assert token_ids(torch.tensor([IDS])) == IDS
    assert token_ids({"input_ids": np.array([IDS])}) == IDS
    with pytest.raises(PromptError, match="2 rows stand where one prompt belongs"):
        token_ids({"input_ids": [IDS, IDS]})
    with pytest.raises(PromptError, match="token ids are integers"):
        token_ids(torch.tensor([IDS, IDS]))
