"""What a real server tells of its drafts: traces that the viewer reads, and nothing for those who do not ask."""

from __future__ import annotations

import json

import pytest

from draftgraph.view import tracefile
from served import Served, engine

ASKED = {
    "messages": [{"role": "user", "content": "write a function that adds two numbers"}],
    "max_tokens": 40,
    "temperature": 0,
}
TRACED = {"draftgraph": {"trace": True}}


def chunks(server: Served, body: dict, path: str = "/v1/chat/completions") -> list[dict]:
    answer = server.http.post(path, json=body | {"stream": True})
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert data[-1] == "[DONE]"
    return [json.loads(each) for each in data[:-1]]


def told(parts: list[dict]) -> tuple[list[dict], dict]:
    """What chunks say of rounds, and the trace in the last one."""
    rounds = [part["draftgraph"] for part in parts if "round" in part.get("draftgraph", {})]
    return rounds, parts[-1]["draftgraph"]["trace"]


def loaded(tmp_path, trace: dict) -> tracefile.Trace:
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(trace), encoding="utf-8")
    return tracefile.load(file)


def emitted(trace: tracefile.Trace) -> list[int]:
    """The tokens that the rounds say they emitted."""
    tokens = []
    for record in trace.rounds:
        tokens += [*(record.tokens[node] for node in record.path), record.bonus][: record.emitted]
    return tokens


def test_chunks_tell_of_rounds_and_the_last_one_has_a_trace_file(server: Served, tmp_path):
    own = engine().generate(engine().chat_prompt(ASKED["messages"]), max_new_tokens=40)
    rounds, whole = told(chunks(server, ASKED | TRACED))
    trace = loaded(tmp_path, whole)
    assert (trace.text, trace.token_ids, trace.finish_reason) == (own.text, own.token_ids, own.finish_reason)
    assert trace.prompt_ids == list(engine().chat_prompt(ASKED["messages"]))
    assert emitted(trace) == own.token_ids
    assert [each["round"] for each in rounds] == whole["rounds"]
    words = {int(token): word for each in rounds for token, word in each["words"].items()}
    assert words == trace.words
    assert sum(len(each["words"]) for each in rounds) == len(words), "each is told once"
    assert [piece for each in rounds for piece in each["pieces"]] == trace.pieces
    assert "".join(trace.pieces) == own.text


def test_an_answer_in_one_piece_has_a_trace_too(server: Served, tmp_path):
    answer = server.http.post("/v1/chat/completions", json=ASKED | TRACED).json()
    trace = loaded(tmp_path, answer["draftgraph"]["trace"])
    _, whole = told(chunks(server, ASKED | TRACED | {"stream_options": {"include_usage": True}}))
    streamed = loaded(tmp_path, whole)
    assert emitted(trace) == emitted(streamed) == trace.token_ids
    assert trace.text == streamed.text == answer["choices"][0]["message"]["content"]


def test_completions_have_traces_too_and_characters_of_several_tokens_are_whole(server: Served, tmp_path):
    text = "naïve 漢字 🙂 end"
    body = {"prompt": "x = '漢", "max_tokens": 60, "temperature": 0, "structured_outputs": {"choice": [text]}}
    parts = chunks(server, body | TRACED, "/v1/completions")
    rounds, whole = told(parts)
    assert "".join(choice["text"] for part in parts for choice in part["choices"]) == text
    assert "".join(piece for each in rounds for piece in each["pieces"]) == text
    assert loaded(tmp_path, whole).text == text


def test_an_answer_that_ends_within_a_character_has_pieces_for_all_of_it(server: Served):
    body = {"prompt": "x = '", "max_tokens": 2, "temperature": 0, "structured_outputs": {"choice": ["漢字漢字"]}}
    parts = chunks(server, body | TRACED, "/v1/completions")
    text = "".join(choice["text"] for part in parts for choice in part["choices"])
    assert "\ufffd" in text
    assert "".join(piece for each in told(parts)[0] for piece in each["pieces"]) == text


@pytest.mark.parametrize("draftgraph", [{}, {"trace": False}, {"trace": None}])
def test_nothing_is_told_to_those_who_do_not_ask(server: Served, draftgraph):
    body = ASKED | {"draftgraph": draftgraph}
    plain = chunks(server, ASKED)
    asked = chunks(server, body)
    assert [part["choices"] for part in plain] == [part["choices"] for part in asked]
    assert all("draftgraph" not in part for part in asked)
    assert "draftgraph" not in server.http.post("/v1/chat/completions", json=body).json()


def test_a_trace_changes_no_answer(server: Served):
    assert [part["choices"] for part in chunks(server, ASKED | TRACED)[:-1]] == [
        part["choices"] for part in chunks(server, ASKED)
    ]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"draftgraph": {"trace": "yes"}}, "draftgraph.trace"),
        ({"draftgraph": {"traces": True}}, "draftgraph.traces"),
        ({**TRACED, "n": 2}, "draftgraph.trace"),
    ],
    ids=["no-switch", "unknown", "several"],
)
def test_what_cannot_be_traced_is_refused_by_name(server: Served, more, param):
    for stream in (False, True):
        answer = server.http.post("/v1/chat/completions", json=ASKED | more | {"stream": stream})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_prompt_alone_has_no_trace(server: Served):
    body = {"prompt": "a", "max_tokens": 0, "echo": True, **TRACED}
    answer = server.http.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "draftgraph.trace")
    several = server.http.post("/v1/completions", json={"prompt": ["a", "b"], "max_tokens": 2, **TRACED})
    assert (several.status_code, several.json()["error"]["param"]) == (400, "draftgraph.trace")
