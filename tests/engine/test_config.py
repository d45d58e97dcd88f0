"""Options of an engine are looked at when they are given, as those of a request are."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import draftgraph as dg
from draftgraph.errors import OptionError
from ids import told
from models import byte_tokenizer, tiny_lm

NAMES = [field.name for field in fields(dg.Config)]
COUNTS = ["budget", "num_speculative_tokens"]
PARAMETERS = {
    "length": dg.structures.Chain, "count": dg.structures.Paths, "read_ahead": dg.structures.Graph, "match": dg.structures.GSD,
}  # fmt: skip
ODD = [
    True, "8", "", 2.0, -2, math.nan, math.inf, 10**400, -(10**5000), 1j, object(), [4], {4: 4}, {}, b"4", np.array([1, 2]),
    torch.tensor([4, 5]), torch.tensor(True), torch.zeros((), device="meta"), np.float64(2), int, (), [["merge"]], "a\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_value_is_possible_or_an_option_error(name: str) -> None:
    for value in ODD:
        with contextlib.suppress(OptionError):
            made = dg.Config(**{name: value})
            assert replace(made) == made
            continue
        with pytest.raises(OptionError) as raised:
            dg.Config(**{name: value})
        assert len(str(raised.value)) < 500


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=3)
        | st.lists(st.integers(), max_size=3),
        max_size=3,
    )
)
def test_no_combination_fails_in_another_way(options: dict[str, Any]) -> None:
    with contextlib.suppress(OptionError):
        dg.Config(**options)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [True, "3", 3.0, math.nan, None, [3], torch.tensor(3.0)], ids=told)
def test_counts_are_whole_numbers(name: str, value: Any) -> None:
    if name == "num_speculative_tokens" and value is None:
        return
    with pytest.raises(OptionError, match=f"{name}=.* is not possible; write an integer >= "):
        dg.Config(**{name: value})


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_whole_numbers_of_any_kind_are_ints(name: str, kind: Any) -> None:
    value = getattr(dg.Config(**{name: kind(3)}), name)
    assert (value, type(value)) == (3, int)


def test_iterators_and_arrays_are_read_once() -> None:
    made = dg.Config(edges=(name for name in ("own", "context", "own")))
    assert made.edges == replace(made).edges == ("own", "context")
    for shape in (torch.tensor([3, 2]), iter([np.int64(3), 2]), np.array([3, 2]), [3, 2]):
        assert dg.structures.Tree(shape).branching == (3, 2)


@pytest.mark.parametrize(
    "prediction",
    [
        [4, 5],
        (4, 5),
        np.array([4, 5]),
        torch.tensor([4, 5]),
        torch.tensor([[4, 5]]),
        iter([4, 5]),
        {"input_ids": [4, 5]},
    ],
    ids=told,
)
def test_predictions_come_in_any_form(prediction: Any) -> None:
    made = dg.Config(drafter="text", prediction=prediction)
    assert made.prediction == replace(made, budget=3).prediction == (4, 5)
    engine = dg.Engine.from_pretrained(tiny_lm(), config=made)
    assert len(engine.generate([5], max_new_tokens=3).token_ids) == 3


@pytest.mark.parametrize(
    "prediction", [[1.5], [True], ["a", 3], 5, b"ab", {"text": "a"}, itertools.count(), "a\ud800", [None]], ids=told
)
def test_predictions_that_are_none(prediction: Any) -> None:
    with pytest.raises(OptionError, match=r"prediction=.* is not possible"):
        dg.Config(drafter="text", prediction=prediction)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_structures_are_looked_at_too(name: str) -> None:
    for value in (True, "3", 3.0, math.nan, [3], torch.tensor(3.0), -2, 10**400):
        with pytest.raises(OptionError, match=f"{name}=.* is not possible; write an integer from"):
            PARAMETERS[name](**{name: value})
    for kind in (np.int64, np.uint8, torch.tensor):
        value = getattr(PARAMETERS[name](**{name: kind(3)}), name)
        assert (value, type(value)) == (3, int)


@pytest.mark.parametrize("value", [*ODD, None], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["branching", "children", "gsd_match", "read_ahead"])
@pytest.mark.filterwarnings("ignore:.*a parameter of structures now:DeprecationWarning")
def test_old_options_with_odd_values_are_possible_or_an_option_error(name: str, value: Any) -> None:
    with contextlib.suppress(OptionError):
        dg.Config(**{name: value})
    with contextlib.suppress(OptionError):
        dg.Config(structure=value, **{name: 1})


@pytest.mark.parametrize("name", ["structure", "rule", "drafter", "edges"])
@pytest.mark.parametrize("value", [5, ["layer", "x"], np.array(["a", "b"]), torch.tensor([1, 2]), b"layer"], ids=told)
def test_names_are_texts(name: str, value: Any) -> None:
    with pytest.raises(OptionError):
        dg.Config(**{name: value})


@pytest.mark.parametrize("config", [{"budget": 3}, "auto", 3])
def test_a_config_is_a_config(config: Any) -> None:
    with pytest.raises(OptionError, match=r"config=.* is not possible; write a Config, or its fields by name"):
        dg.Engine.from_pretrained(tiny_lm(), config=config)


def test_a_tokenizer_may_be_its_folder(tmp_path: Any) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    engine = dg.Engine.from_pretrained(tiny_lm(vocab=256), tokenizer=str(tmp_path), budget=0)
    assert (
        engine.generate("Hi", max_new_tokens=3).token_ids
        == engine.generate(byte_tokenizer()("Hi")["input_ids"], max_new_tokens=3).token_ids
    )


@pytest.mark.parametrize(
    "tokenizer", [5, object(), byte_tokenizer().backend_tokenizer, print], ids=["5", "object", "core", "print"]
)
def test_what_is_no_tokenizer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(OptionError, match=r"is no transformers tokenizer; write AutoTokenizer.from_pretrained"):
        dg.Engine.from_pretrained(tiny_lm(vocab=256), tokenizer=tokenizer)
