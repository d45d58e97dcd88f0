"""Answers in all forms, and whatever else a server may send."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from draftgraph.lab.remote.answers import LEAST_LOGPROB, Answer, read_answer
from draftgraph.lab.remote.client import ServerError

COMPLETION = {
    "choices": [
        {
            "text": " a b",
            "finish_reason": "stop",
            "logprobs": {
                "tokens": [" a", " b"],
                "token_logprobs": [-0.5, -9999.0],
                "top_logprobs": [{" c": -1.0, " a": -0.5}, None],
            },
        }
    ],
    "metrics": {"speculative_decoding": {"num_draft_tokens": 4}},
}
CHAT = {
    "choices": [
        {
            "message": {"content": " a"},
            "finish_reason": "length",
            "logprobs": {
                "content": [{"token": " a", "logprob": -0.5, "top_logprobs": [{"token": " c", "logprob": -1.0}]}]
            },
        }
    ],
    "metrics": None,
}


def test_a_completion_is_read():
    assert read_answer(COMPLETION) == Answer(
        " a b", True, (" a", " b"), (-0.5, LEAST_LOGPROB), (((" a", -0.5), (" c", -1.0)), ()), 4
    )


def test_a_chat_is_read():
    assert read_answer(CHAT) == Answer(" a", False, (" a",), (-0.5,), (((" c", -1.0),),), None)


def test_without_probabilities_there_is_the_text():
    assert read_answer({"choices": [{"message": {"content": None}, "finish_reason": "length"}]}) == Answer("", False)


def test_halves_of_characters_can_be_kept():
    answer = read_answer({"choices": [{"text": json.loads('"\\ud83d"'), "finish_reason": "stop"}]})
    assert answer.text.encode() == b"?"


@pytest.mark.parametrize("logprob", [float("nan"), 0.5, "much", [1]])
def test_what_is_no_log_probability_is_refused(logprob):
    chat = {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": logprob}]}}]}
    with pytest.raises(ServerError, match="not one of OpenAI's API"):
        read_answer(chat)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "text", "message", "content", "logprobs", "tokens", "token", "logprob", "top_logprobs",
                 "token_logprobs", "metrics", "speculative_decoding", "finish_reason"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_whatever_comes_is_an_answer_or_refused(reply):
    with suppress(ServerError):
        assert isinstance(read_answer(reply), Answer)
