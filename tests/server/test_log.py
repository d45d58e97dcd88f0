"""The log: lines of JSON, without what users wrote."""

from __future__ import annotations

import io
import json

import pytest

from draftgraph.errors import LogitsError, OptionError, PromptError, QueueFullError
from draftgraph.server.asked import NAMES
from draftgraph.server.errors import ApiError, as_api_error
from draftgraph.server.log import Log


def written(log_prompts: bool) -> dict:
    stream = io.StringIO()
    log = Log(log_prompts, stream)
    try:
        raise RuntimeError("about 'a secret prompt'\nin two lines")
    except RuntimeError as error:
        log.failure(error, id="x")
    [line] = stream.getvalue().splitlines()
    return json.loads(line)


def test_a_failure_says_where_it_came_from_and_quotes_nobody():
    told = written(log_prompts=False)
    assert (told["level"], told["event"], told["error"], told["id"]) == ("error", "failure", "RuntimeError", "x")
    assert "test_log.py" in told["where"][-1]
    assert "secret" not in json.dumps(told)
    assert "secret" in written(log_prompts=True)["message"]


def test_a_log_that_nobody_reads_any_more_fails_nobody():
    stream = io.StringIO()
    stream.close()
    Log(False, stream).write("info", "request")


@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (OptionError("stop_token_ids names token id 9, and stop too"), 400, "stop_token_ids"),
        (OptionError("max_new_tokens=0 is not possible"), 400, "max_tokens"),
        (OptionError("something else"), 400, None),
        (PromptError("it is empty"), 400, "prompt"),
        (QueueFullError("32 requests are running"), 429, None),
        (LogitsError("not a number"), 500, None),
        (KeyError("inside"), 500, None),
        (ApiError(413, "too large", "body"), 413, "body"),
    ],
    ids=lambda case: type(case).__name__,
)
def test_errors_of_the_engine_become_answers(error, status, param):
    told = as_api_error(error, NAMES)
    assert (told.status, told.param) == (status, param)
    assert ("Retry-After" in told.headers) == (status == 429)
    assert "inside" not in told.message
    assert set(told.to_dict()["error"]) == {"message", "type", "param", "code"}
