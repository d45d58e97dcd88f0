"""Bodies become schemas, or are refused in the client's words."""

from __future__ import annotations

import json

import pytest

from draftgraph.server.body import understood
from draftgraph.server.errors import ApiError
from draftgraph.server.schemas import CompletionRequest


def body(**fields: object) -> bytes:
    return json.dumps({"prompt": "def f("} | fields).encode()


def test_a_null_is_as_good_as_no_field_even_where_the_field_is_not_supported() -> None:
    assert understood(body(functions=None, seed=None, nowhere=None), CompletionRequest).prompt == "def f("


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"budget": -1}, r'budget=-1 is not possible: write an integer >= 0, or "auto"'),
        ({"budget": True}, r"budget=true is not possible"),
        ({"echo": "yes"}, r"echo='yes' is not possible"),
        ({"draftgraph": {"budget": 1.5}}, r'budget=1\.5 is not possible: write an integer >= 0, or "auto"'),
    ],
)
def test_a_value_that_is_not_possible_is_shown_as_json(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ApiError, match=said):
        understood(body(**fields), CompletionRequest)


def test_no_object_is_no_body() -> None:
    with pytest.raises(ApiError, match="the body is null; send one JSON object"):
        understood(b"null", CompletionRequest)
