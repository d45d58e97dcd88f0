"""Completions of a real server: prompts of every form, stop strings, options, and the other small endpoints."""

from __future__ import annotations

import json
import subprocess

import openai
import pytest

from draftgraph.view import tracefile
from served import Served, engine

PROMPT = "def add(a, b):\n    return"


def complete(server: Served, **options):
    return server.client.completions.create(model="bundled", **({"prompt": PROMPT, "temperature": 0} | options))


def streamed(server: Served, **options):
    """Text, finish reason, token ids and usage of a stream."""
    extra = options.pop("extra_body", {}) | {"return_token_ids": True}
    text, reason, ids, usage = "", None, [], None
    stream = complete(server, stream=True, stream_options={"include_usage": True}, extra_body=extra, **options)
    for chunk in stream:
        for choice in chunk.choices:
            text, reason = text + choice.text, choice.finish_reason or reason
            ids += choice.token_ids
        usage = chunk.usage or usage
    return text, reason, ids, usage


def test_prompts_come_as_a_text_texts_ids_and_lists_of_ids(server: Served):
    ids = engine().tokenizer(PROMPT)["input_ids"]
    other = engine().tokenizer("class Stack:")["input_ids"]
    own, second = (engine().generate(prompt, max_new_tokens=20).text for prompt in (ids, other))
    for prompt in (PROMPT, [PROMPT], ids, [ids]):
        assert [choice.text for choice in complete(server, prompt=prompt, max_tokens=20).choices] == [own]
    for prompt in ([PROMPT, "class Stack:"], [ids, other]):
        answer = complete(server, prompt=prompt, max_tokens=20)
        assert [(choice.index, choice.text) for choice in answer.choices] == [(0, own), (1, second)]
        assert answer.usage.prompt_tokens == len(ids) + len(other)
    twice = complete(server, prompt=[ids, other], max_tokens=2, n=2)
    assert [choice.index for choice in twice.choices] == [0, 1, 2, 3]
    assert twice.usage.prompt_tokens == len(ids) + len(other), "each prompt is counted once"
    assert twice.usage.completion_tokens == 8


def test_without_a_length_there_are_sixteen_tokens_and_without_a_temperature_they_are_sampled(server: Served):
    answer = server.client.completions.create(model="bundled", prompt=PROMPT, seed=5)
    own = engine().generate(PROMPT, max_new_tokens=16, temperature=1.0, seed=5)
    assert (answer.choices[0].text, answer.usage.completion_tokens) == (own.text, 16)


@pytest.mark.parametrize("seed", range(6))
def test_stops_in_the_middle_of_an_accepted_run_end_text_ids_and_usage_alike(server: Served, seed):
    whole = engine().generate(PROMPT, max_new_tokens=48)
    at = 5 + 9 * seed
    stop = whole.text[at : at + 3]
    assert stop
    own = engine().generate(PROMPT, max_new_tokens=48, stop=stop)
    assert own.finish_reason == "stop"
    assert own.text == whole.text[: whole.text.find(stop)]
    answer = complete(server, max_tokens=48, stop=[stop, "never there"], extra_body={"return_token_ids": True})
    choice = answer.choices[0]
    said = (choice.text, choice.finish_reason, choice.token_ids, answer.usage)
    assert said[:3] == (own.text, "stop", own.token_ids)
    assert answer.usage.completion_tokens == len(own.token_ids)
    assert streamed(server, max_tokens=48, stop=[stop, "never there"]) == said


def test_a_stop_at_the_limit_is_a_stop(server: Served):
    whole = engine().generate(PROMPT, max_new_tokens=20)
    ends = (whole.text[-length:] for length in range(2, len(whole.text)))
    stop = next(end for end in ends if whole.text.find(end) == len(whole.text) - len(end))
    assert complete(server, max_tokens=20, stop=stop).choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"top_k": 5, "seed": 1, "temperature": 0.8}, {"top_k": 5, "seed": 1, "temperature": 0.8}),
        ({"top_k": -1, "seed": 1, "temperature": 0.8}, {"seed": 1, "temperature": 0.8}),
        ({"min_p": 0.1, "seed": 2, "temperature": 1}, {"min_p": 0.1, "seed": 2, "temperature": 1.0}),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"presence_penalty": 0.5, "frequency_penalty": 0.5}, {"presence_penalty": 0.5, "frequency_penalty": 0.5}),
        ({"logit_bias": {"221": -100.0, "300": 3}}, {"logit_bias": {221: -100.0, 300: 3.0}}),
        ({"stop_token_ids": [221]}, {"stop_token_ids": [221]}),
        ({"min_tokens": 20, "ignore_eos": True}, {"min_new_tokens": 20, "ignore_eos": True}),
        ({"top_k": 10**30, "temperature": 1, "seed": 4}, {"temperature": 1.0, "seed": 4}),
        ({"seed": -(1 << 63), "temperature": 1}, {"seed": -(1 << 63), "temperature": 1.0}),
    ],
    ids=lambda case: ",".join(case),
)  # fmt: skip
def test_options_mean_what_the_engine_means_by_them(server: Served, fields, options):
    known = {name: fields[name] for name in fields.keys() & {"temperature", "seed", "logit_bias"}}
    extra = {name: value for name, value in fields.items() if name not in known}
    answer = complete(server, max_tokens=24, extra_body=extra, **known)
    own = engine().generate(PROMPT, max_new_tokens=24, **options)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (own.text, own.finish_reason)


def test_fields_that_change_no_answer_are_accepted(server: Served):
    fields = {
        "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "prompt_cache_key": "k",
        "safety_identifier": "s", "best_of": 1, "suffix": None, "logprobs": None,
    }  # fmt: skip
    answer = server.http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 3, **fields})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"foo": 1}, "foo"), ({"best_of": 2}, "best_of"), ({"suffix": "x"}, "suffix"), ({"n": 0}, "n"), ({"n": 1000}, "n"),
        ({"temperature": -1}, "temperature"), ({"temperature": "1"}, "temperature"), ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"), ({"top_k": 1.5}, "top_k"), ({"seed": "x"}, "seed"), ({"seed": True}, "seed"),
        ({"stop": 3}, "stop"), ({"stop": ["a", 3]}, "stop[1]"),
        ({"stop": ["a"] * 65}, "stop"), ({"stop": ""}, "stop"), ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 1000000}, "max_tokens"), ({"min_tokens": 9}, "min_tokens"),
        ({"presence_penalty": 3}, "presence_penalty"), ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": "x"}}, "logit_bias.5"), ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"stop_token_ids": [999999]}, "stop_token_ids"), ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"), ({"stream_options": {"x": 1}}, "stream_options.x"),
        ({"prompt": 3}, "prompt"), ({"prompt": [1, "a"]}, "prompt"), ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": ""}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt[0]"), ({"prompt": [999999]}, "prompt"),
        ({"prompt": [-1]}, "prompt"), ({"prompt": ["a", ""]}, "prompt[1]"), ({"prompt": None}, "prompt"),
        ({"logprobs": 21}, "logprobs"), ({"budget": -1}, "budget"), ({"draftgraph": {"x": 1}}, "draftgraph.x"),
        ({"draftgraph": {"trace": True}, "n": 2}, "draftgraph.trace"),
        ({"budget": 1, "draftgraph": {"budget": 2}}, "budget"), ({"messages": []}, "messages"), ({"functions": []}, "functions"),
        ({"use_beam_search": False}, "use_beam_search"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_its_name(server: Served, fields, param):
    answer = server.http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 4} | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
    assert error["message"]


def test_tokens_and_texts_are_each_other_s_inverse(server: Served):
    for text in ("def f(x):\n\treturn x", "é語 \U0001f600", "<|endoftext|>x"):
        told = server.http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
        assert told["tokens"] == engine().tokenizer(text)["input_ids"]
        assert (told["count"], told["max_model_len"]) == (len(told["tokens"]), 1024)
        assert len(told["token_strs"]) == told["count"]
        assert server.http.post("/detokenize", json={"tokens": told["tokens"]}).json() == {"prompt": text}
    assert server.http.post("/detokenize", json={"tokens": [99999]}).status_code == 400
    assert server.http.post("/tokenize", json={}).status_code == 400


def test_prometheus_counts_what_was_done(server: Served):
    def read() -> dict[str, float]:
        lines = [line for line in server.http.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    label = '{model_name="bundled"}'
    before = read()
    answer = complete(server, max_tokens=30)
    after = read()
    told = answer.metrics["speculative_decoding"]
    for name, count in (
        ("spec_decode_num_drafts_total", told["num_spec_steps"]),
        ("spec_decode_num_draft_tokens_total", told["num_draft_tokens"]),
        ("spec_decode_num_accepted_tokens_total", told["num_accepted_draft_tokens"]),
        ("prompt_tokens_total", answer.usage.prompt_tokens),
        ("generation_tokens_total", 30),
        ("time_to_first_token_seconds_count", 1),
    ):
        name = f"draftgraph:{name}{label}"
        assert after[name] - before[name] == count, name
    first = 'draftgraph:spec_decode_num_accepted_tokens_per_pos_total{model_name="bundled",position="0"}'
    assert after[first] - before[first] == told["num_spec_steps"] - told["acceptance_histogram"][0]
    done = 'draftgraph:request_success_total{finished_reason="length",model_name="bundled"}'
    assert after[done] - before[done] == 1
    assert after[f"draftgraph:num_requests_running{label}"] == 0


def test_curl_streams_lines_that_end_with_done(server: Served):
    body = json.dumps({"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "stream": True})
    done = subprocess.run(
        ["curl", "-sN", f"{server.url}/v1/completions", "-H", "Content-Type: application/json", "-d", body],
        capture_output=True, check=True, timeout=600,
    )  # fmt: skip
    lines = done.stdout.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == engine().generate(PROMPT, max_new_tokens=8).text
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_log_probabilities_are_the_engine_s_streamed_or_not(server: Served):
    own = engine().generate(PROMPT, max_new_tokens=12, top_logprobs=3)
    told = complete(server, max_tokens=12, logprobs=3).choices[0].logprobs
    assert told.token_logprobs == pytest.approx(own.logprobs, abs=1e-5)
    for best, logprob, listed in zip(own.top_logprobs, own.logprobs, told.top_logprobs, strict=True):
        assert max(listed.values()) == pytest.approx(best[0][1], abs=1e-5)
        assert logprob in [pytest.approx(value, abs=1e-5) for value in listed.values()]
    assert "".join(told.tokens) == own.text
    assert told.text_offset == [len("".join(told.tokens[:place])) for place in range(12)]
    parts = [chunk.choices[0].logprobs for chunk in complete(server, max_tokens=12, logprobs=3, stream=True)]
    assert [name for part in parts for name in part.tokens] == told.tokens
    assert [offset for part in parts for offset in part.text_offset] == told.text_offset
    assert [value for part in parts for value in part.token_logprobs] == told.token_logprobs


@pytest.mark.parametrize("stream", [False, True])
def test_echo_begins_with_the_prompt_and_scores_it(server: Served, stream):
    ids = engine().tokenizer(PROMPT)["input_ids"]
    scores = engine().score(PROMPT, top_logprobs=2)
    own = engine().generate(PROMPT, max_new_tokens=1, logprobs=True)
    for prompt in (PROMPT, ids):
        for count in (0, 1):
            body = {"prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": count, "temperature": 0, "seed": 1234}
            answer = server.http.post("/v1/completions", json=body | {"stream": stream})
            if stream:
                chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
                choices = [choice for chunk in chunks for choice in chunk["choices"]]
                logprobs = {
                    name: [each for choice in choices for each in choice["logprobs"][name]]
                    for name in choices[0]["logprobs"]
                }
                text, reason = "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]
            else:
                choice = answer.json()["choices"][0]
                text, reason, logprobs = choice["text"], choice["finish_reason"], choice["logprobs"]
                assert answer.json()["usage"]["completion_tokens"] == count
                assert answer.json()["usage"]["prompt_tokens"] == len(ids)
            assert (text, reason) == (PROMPT + own.text * count, "length")
            assert logprobs["token_logprobs"][0] is None
            assert logprobs["top_logprobs"][0] is None
            told = [*scores.logprobs[1:], *own.logprobs * count]
            assert logprobs["token_logprobs"][1:] == pytest.approx(told, abs=1e-5)
            assert "".join(logprobs["tokens"]) == text
            assert logprobs["text_offset"] == [
                len("".join(logprobs["tokens"][:at])) for at in range(len(logprobs["tokens"]))
            ]


def test_a_request_may_have_a_budget_of_its_own(server: Served):
    for extra in ({"budget": 0}, {"draftgraph": {"budget": 0}}):
        plain = complete(server, max_tokens=20, extra_body=extra)
        assert plain.metrics["speculative_decoding"]["num_draft_tokens"] == 0
        assert plain.metrics["speculative_decoding"]["num_spec_steps"] == 20
        assert plain.choices[0].text == engine().generate(PROMPT, max_new_tokens=20).text
    deep = complete(
        server, max_tokens=20, extra_body={"draftgraph": {"num_speculative_tokens": 2, "structure": "chain"}}
    )
    assert deep.metrics["speculative_decoding"]["num_spec_tokens"] <= 2
    assert deep.choices[0].text == engine().generate(PROMPT, max_new_tokens=20).text
    refused = server.http.post("/v1/completions", json={"prompt": PROMPT, "draftgraph": {"structure": "bush"}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "draftgraph.structure")


def test_copies_of_a_prediction_are_counted_accepted_and_rejected(server: Served):
    own = engine().generate(PROMPT, max_new_tokens=40)

    def predicted(text: str):
        extra = {
            "prediction": {"type": "content", "content": text},
            "draftgraph": {"budget": 24, "num_speculative_tokens": 3},
        }
        answer = complete(server, max_tokens=40, extra_body=extra)
        assert answer.choices[0].text == own.text, "whatever was predicted"
        details = answer.usage.completion_tokens_details
        return details.accepted_prediction_tokens, details.rejected_prediction_tokens

    right, wrong = predicted(own.text), predicted(own.text.replace("a", "b"))
    assert right[0] > wrong[0]
    assert wrong[1] > 0
    assert right[0] > 15


def test_a_prompt_that_was_read_is_not_read_again(server: Served):
    text = "def parse(line):\n    parts = line.split(',')\n" * 6
    first = complete(server, prompt=text, max_tokens=4)
    again = complete(server, prompt=text, max_tokens=4)
    assert again.choices[0].text == first.choices[0].text
    assert 0 < again.usage.prompt_tokens_details.cached_tokens < again.usage.prompt_tokens
    assert first.usage.prompt_tokens_details.cached_tokens == 0


def test_a_trace_shows_what_the_engine_did_streamed_or_not(server: Served, tmp_path):
    own = engine().generate(PROMPT, max_new_tokens=20)
    body = {"prompt": PROMPT, "max_tokens": 20, "temperature": 0, "draftgraph": {"trace": True}}
    whole = server.http.post("/v1/completions", json=body).json()["draftgraph"]["trace"]
    lines = server.http.post("/v1/completions", json=body | {"stream": True}).text.split("\n\n")
    streamed = json.loads(lines[-3].removeprefix("data: "))["draftgraph"]["trace"]
    for told in (whole, streamed):
        (tmp_path / "trace.json").write_text(json.dumps(told), encoding="utf-8")
        trace = tracefile.load(tmp_path / "trace.json")
        assert (trace.text, trace.token_ids, trace.prompt) == (own.text, own.token_ids, PROMPT)
        assert [(record.tokens, record.path) for record in trace.rounds] == [
            (list(record.tokens), record.path) for record in own.rounds
        ]


def test_usage_says_where_a_rule_is_not_lossless(server: Served):
    drafting = {"draftgraph": {"rule": "top_beta", "structure": "chain"}}
    lossy, exact = (complete(server, max_tokens=4, extra_body=body).usage for body in (drafting, {}))
    assert lossy.lossless is False
    assert not hasattr(exact, "lossless")
    assert streamed(server, max_tokens=4, extra_body=drafting)[3].lossless is False


def test_a_threshold_without_the_rule_that_it_is_for_is_refused(server: Served):
    with pytest.raises(openai.BadRequestError, match="threshold is for rule='judge'") as refused:
        complete(server, max_tokens=4, extra_body={"draftgraph": {"threshold": 0.5}})
    assert refused.value.param == "draftgraph.threshold"
