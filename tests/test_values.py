"""What users give is read as plain Python, or not at all."""

from __future__ import annotations

import itertools
from collections import deque
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from draftgraph.errors import brief
from draftgraph.values import MOST_ITEMS, as_flag, as_integer, as_list, as_number, has_surrogates
from ids import told


class Word(IntEnum):
    YES = 7


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no name")

    def __index__(self) -> int:
        raise RuntimeError("no number")


META = torch.zeros((), dtype=torch.long, device="meta")
NO_NUMBERS = [
    True,
    np.bool_(True),
    torch.tensor(True),
    "7",
    b"7",
    None,
    [7],
    torch.tensor([7]),
    7j,
    np.complex64(7),
    Broken(),
    META,
]


@pytest.mark.parametrize("value", [7, np.int64(7), np.uint8(7), np.array(7), torch.tensor(7), Word.YES], ids=told)
def test_whole_numbers_of_any_kind_become_ints(value: Any) -> None:
    assert as_integer(value) == 7
    assert type(as_integer(value)) is int
    assert as_number(value) == 7.0


@pytest.mark.parametrize(
    "value", [*NO_NUMBERS, 7.0, np.float32(7), torch.tensor(7.0), Decimal(7)], ids=lambda v: told(brief(v))
)
def test_what_is_no_whole_number_is_none(value: Any) -> None:
    assert as_integer(value) is None


@pytest.mark.parametrize(
    "value",
    [0.5, np.float16(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.bfloat16), Decimal("0.5"), Fraction(1, 2)],
)
def test_numbers_of_any_kind_become_floats(value: Any) -> None:
    assert as_number(value) == 0.5
    assert type(as_number(value)) is float


@pytest.mark.parametrize("value", [*NO_NUMBERS, 10**400, object()], ids=lambda v: told(brief(v)))
def test_what_is_no_number_is_none(value: Any) -> None:
    assert as_number(value) is None


def test_flags() -> None:
    assert [as_flag(value) for value in (True, np.False_, torch.tensor(True))] == [True, False, True]
    assert [as_flag(value) for value in (1, 0, "yes", None, [True], torch.tensor([True]), torch.tensor(1))] == [
        None
    ] * 7


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        (1, 2),
        range(1, 3),
        np.array([1, 2]),
        torch.tensor([1, 2]),
        deque([1, 2]),
        iter([1, 2]),
        {1: 0, 2: 0}.keys(),
    ],
)
def test_items_are_read_from_anything_with_an_order(value: Any) -> None:
    assert as_list(value) == [1, 2]


@pytest.mark.parametrize(
    "value",
    ["12", b"12", {1: 2}, 5, None, torch.tensor(5), itertools.count(), torch.zeros(2, device="meta")],
    ids=lambda v: told(brief(v)),
)
def test_texts_mappings_and_endless_iterators_have_no_items(value: Any) -> None:
    assert as_list(value) is None


def test_the_longest_iterator_that_is_read() -> None:
    assert len(as_list(iter(range(MOST_ITEMS))) or ()) == MOST_ITEMS
    assert as_list(iter(range(MOST_ITEMS + 1))) is None


def test_an_iterators_own_error_is_its_own() -> None:
    def spoilt() -> Any:
        yield 1
        raise KeyError("lost")

    with pytest.raises(KeyError):
        as_list(spoilt())


def test_lone_surrogates() -> None:
    assert [has_surrogates(text) for text in ("", "plain", "日本語 😀", "\ud83d", "a\udfffb")] == [False] * 3 + [
        True
    ] * 2


def test_values_in_messages_are_short_and_printable() -> None:
    assert brief(3) == "3"
    assert brief("a\x1b[31m\n") == r"'a\x1b[31m\n'"
    assert len(brief("x" * 10**6)) < 130
    assert len(brief(list(range(10**6)))) < 130
    assert "\n" not in brief(torch.zeros(9, 9))
    assert brief(10**5000) == "<int>"
    assert "Broken" in brief(Broken())
    nested: list[Any] = []
    for _ in range(10**5):
        nested = [nested]
    assert len(brief(nested)) < 130
