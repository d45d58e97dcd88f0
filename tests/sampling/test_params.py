"""Every option is looked at when it is given: read once, made plain, copied, or refused by name."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import math
import pickle
from dataclasses import asdict, fields, replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st

import draftgraph as dg
from draftgraph.errors import OptionError
from draftgraph.sampling.params import ELSEWHERE, SamplingParams
from ids import told

NAMES = [field.name for field in fields(SamplingParams)]
ODD = [
    None, True, False, "4", "", b"4", 2.5, -1, math.nan, math.inf, -math.inf, 10**400, -(10**5000), 1j, object(), [4],
    ["a"], {}, {4: 4},
    torch.tensor([4, 5]), torch.tensor(True), torch.zeros((), device="meta"), np.array("4"), np.str_("4"), lambda: 1, int, (),
]  # fmt: skip


def forbid(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores.index_fill(1, torch.tensor([3]), -math.inf)


# --- values of every kind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_value_is_possible_or_an_option_error_that_names_the_option(name: str) -> None:
    for value in ODD:
        with contextlib.suppress(OptionError):
            made = SamplingParams(**{name: value})
            assert replace(made) == made
            continue
        with pytest.raises(OptionError, match=name) as raised:
            SamplingParams(**{name: value})
        assert len(str(raised.value)) < 400


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), st.floats() | st.none(), max_size=3),
        max_size=4,
    )
)  # fmt: skip
def test_no_combination_fails_in_another_way(options: dict[str, Any]) -> None:
    with contextlib.suppress(OptionError):
        SamplingParams(**options)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor, int], ids=["int64", "uint8", "tensor", "int"])
@pytest.mark.parametrize("name", ["max_new_tokens", "top_k", "min_new_tokens", "seed", "sample"])
def test_whole_numbers_of_any_kind_are_ints(name: str, kind: Any) -> None:
    value = getattr(SamplingParams(**{name: kind(7)}), name)
    assert (value, type(value)) == (7, int)


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor, Decimal, float])
@pytest.mark.parametrize(
    "name", ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]
)
def test_numbers_of_any_kind_are_floats(name: str, kind: Any) -> None:
    value = getattr(SamplingParams(**{name: kind(0.5)}), name)
    assert (value, type(value)) == (0.5, float)


def test_params_are_plain_python() -> None:
    made = SamplingParams(
        max_new_tokens=np.int32(4), temperature=torch.tensor(0.5), logit_bias={np.int64(3): torch.tensor(2.0)},
        stop=np.array(["a"]), stop_token_ids=torch.tensor([1, 2]), logprobs=np.bool_(True), seed=np.uint64(2**63),
    )  # fmt: skip
    assert json.loads(json.dumps(asdict(made)))["stop_token_ids"] == [1, 2]
    assert made == pickle.loads(pickle.dumps(made)) == copy.deepcopy(made)


# --- iterators, copies ------------------------------------------------------------------------------------------------


def test_iterators_are_read_once_and_kept() -> None:
    made = SamplingParams(
        stop=(text for text in ("ab", "c")), stop_token_ids=iter([1, 2]), logits_processors=(p for p in [forbid])
    )
    for _ in range(2):
        assert (list(made.stop), list(made.stop_token_ids)) == (["ab", "c"], [1, 2])
        assert list(made.logits_processors) == [forbid]


@pytest.mark.parametrize("name", ["stop", "stop_token_ids", "logits_processors"])
def test_endless_iterators_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match=rf"{name}=.*write a sequence"):
        SamplingParams(**{name: itertools.cycle(["a"])})


def test_what_the_user_changes_afterwards_changes_nothing() -> None:
    stops, ids, bias, processors = ["ab"], [1], {3: 1.0}, [forbid]
    made = SamplingParams(stop=stops, stop_token_ids=ids, logit_bias=bias, logits_processors=processors)
    before = copy.copy(made)
    for given_, added in ((stops, "x"), (ids, 5), (processors, None)):
        given_.append(added)
    bias[3] = math.nan
    assert made == before
    assert (made.stop, made.stop_token_ids, made.logit_bias) == (("ab",), (1,), {3: 1.0})


@pytest.mark.parametrize("stop", ["ab", ["ab"], ("ab",), {"ab"}, frozenset({"ab"}), np.array(["ab"]), {"ab": 1}.keys()])
def test_stop_strings_come_in_any_container(stop: Any) -> None:
    assert SamplingParams(stop=stop).stop == ("ab",)


@pytest.mark.parametrize(
    "stop", ["", [""], ["a", ""], [None], [5], [b"a"], {"a": 1}, b"a", [["a"]], "\ud800", ["a\udfff"]]
)
def test_stop_strings_that_no_text_can_contain(stop: Any) -> None:
    with pytest.raises(OptionError, match=r"stop=.*write "):
        SamplingParams(stop=stop)


@pytest.mark.parametrize(
    "ids", ["12", [1.0], [True], [-1], [None], [[1]], torch.tensor([1.0]), {1: 2}, b"12"], ids=told
)
def test_stop_token_ids_that_are_none(ids: Any) -> None:
    with pytest.raises(OptionError, match=r"stop_token_ids.*write "):
        SamplingParams(stop_token_ids=ids)


def test_processors_are_objects_not_classes() -> None:
    with pytest.raises(OptionError, match=r"logits_processors=.*not their class"):
        SamplingParams(logits_processors=[hf.NoRepeatNGramLogitsProcessor])
    chain = hf.LogitsProcessorList([hf.NoRepeatNGramLogitsProcessor(2)])
    assert len(SamplingParams(logits_processors=chain).logits_processors) == 1


# --- logit_bias -------------------------------------------------------------------------------------------------------


def test_bias_keys_may_be_texts_as_json_has_them() -> None:
    assert SamplingParams(logit_bias={"50": -100, 7: 1}).logit_bias == {50: -100.0, 7: 1.0}
    assert SamplingParams(logit_bias=json.loads(json.dumps({5: 1.5}))).logit_bias == {5: 1.5}
    assert SamplingParams(logit_bias={3: -math.inf}).logit_bias == {3: -math.inf}


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({"a": 1}, "key 'a'"), ({"-1": 1}, "key '-1'"), ({" 5": 1}, "key ' 5'"), ({"5.0": 1}, "key '5.0'"), ({"٣": 1}, "key"),
        ({"": 1}, "key ''"), ({-1: 1}, "key -1"), ({1.0: 1}, "key 1.0"), ({True: 1}, "key True"), ({None: 1}, "key None"),
        ({"9" * 5000: 1}, "key"), ({5: None}, "{5: None}"), ({5: "1"}, "{5: '1'}"), ({5: math.nan}, "{5: nan}"),
        ({5: math.inf}, "{5: inf}"), ({5: 1e300}, "1e\\+300"), ({5: True}, "True"), ({5: [1]}, r"\[1\]"),
        ({"5": 1, 5: 2}, "token id 5 twice"), ([5], "a mapping"), ([(5, 1)], "a mapping"), ("50", "a mapping"),
        (None, "a mapping"),
        (torch.zeros(5), "a mapping"), (5, "a mapping"),
    ],
    ids=told,
)  # fmt: skip
def test_biases_that_are_not_possible(bias: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"logit_bias.*{message}.*"):
        SamplingParams(logit_bias=bias)


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {64: 1}},
        {"logit_bias": {"1000000": -100}},
        {"stop_token_ids": [3, 64]},
        {"stop_token_ids": [10**30]},
    ],
)
def test_token_ids_beyond_the_vocabulary(options: dict[str, Any]) -> None:
    made = SamplingParams(**options)
    with pytest.raises(
        OptionError, match=f"{next(iter(options))} names token id .*vocabulary has 64.*write ids from 0 to 63"
    ):
        made.refuse_beyond(64)
    SamplingParams(logit_bias={63: 1}, stop_token_ids=[63]).refuse_beyond(64)


# --- names, combinations ----------------------------------------------------------------------------------------------


def test_a_copy_with_other_options() -> None:
    made = SamplingParams(temperature=0.5, stop="a")
    other = made.with_options(max_new_tokens=4, stop=iter(["b"]))
    assert (other.temperature, other.max_new_tokens, other.stop) == (0.5, 4, ("b",))
    assert made.max_new_tokens == 128


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("temprature", "Did you mean 'temperature'"),
        ("max_new_token", "Did you mean 'max_new_tokens'"),
        ("topk", "mean 'top_k'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_one(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=f"unknown option '{name}'.*{message}"):
        SamplingParams().with_options(**{name: 1})


@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_of_other_libraries_are_refused_with_ours(name: str) -> None:
    with pytest.raises(OptionError, match=f"unknown option '{name}'; write "):
        SamplingParams().with_options(**{name: 1})
    assert name not in NAMES


def test_a_minimum_beyond_the_maximum() -> None:
    with pytest.raises(OptionError, match="min_new_tokens=9 is more than max_new_tokens=8"):
        SamplingParams(min_new_tokens=9, max_new_tokens=8)
    assert SamplingParams(min_new_tokens=8, max_new_tokens=8).min_new_tokens == 8


@pytest.mark.parametrize("seed", [-(2**127), -1, 0, 2**63, 2**64, 2**128 - 1])
def test_seeds_of_up_to_128_bits(seed: int) -> None:
    assert SamplingParams(seed=seed).seed == seed
    with pytest.raises(OptionError, match=r"seed=.*128 bits"):
        SamplingParams(seed=2**128 + seed**2)


def test_defaults_are_greedy_and_short() -> None:
    made = dg.SamplingParams()
    assert (made.temperature, made.max_new_tokens, made.stop, made.logit_bias) == (0.0, 128, (), {})
