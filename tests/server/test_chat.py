"""Chats with a real server, by the client that users have."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from typer.testing import CliRunner

from draftgraph.cli import app
from served import Served, engine

HELLO = [{"role": "user", "content": "write a function that adds two numbers"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "the weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def expected(messages=HELLO, **options):
    return engine().generate(engine().chat_prompt(messages), **options)


def collected(stream):
    """Text, finish reasons, usage and metrics of a stream."""
    text, reasons, usage, metrics = "", [], None, None
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
        if chunk.usage is not None:
            usage, metrics = chunk.usage, chunk.metrics
    return text, reasons, usage, metrics


def test_an_answer_is_the_engine_s_own_streamed_or_not(server: Served):
    client = server.client
    own = expected(max_new_tokens=40)
    whole = client.chat.completions.create(model="bundled", messages=HELLO, max_tokens=40, temperature=0)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (own.text, own.finish_reason)
    assert whole.usage.completion_tokens == len(own.token_ids)
    assert whole.usage.prompt_tokens == len(engine().chat_prompt(HELLO))
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    stream = client.chat.completions.create(
        model="bundled", messages=HELLO, max_completion_tokens=40, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    text, reasons, usage, metrics = collected(stream)
    assert (text, reasons, usage) == (own.text, [own.finish_reason], whole.usage)
    assert metrics == whole.metrics


def test_acceptance_is_told_in_vllm_s_schema(server: Served):
    own = expected(max_new_tokens=40).stats
    answer = server.client.chat.completions.create(model="bundled", messages=HELLO, max_tokens=40, temperature=0)
    told = answer.metrics["speculative_decoding"]
    assert set(told) == {
        "mean_acceptance_length", "draft_acceptance_rate", "acceptance_histogram", "num_spec_steps",
        "num_accepted_draft_tokens", "num_draft_tokens", "num_spec_tokens",
    }  # fmt: skip
    assert told["num_spec_steps"] == sum(told["acceptance_histogram"]) == own.num_rounds
    assert told["num_accepted_draft_tokens"] == own.num_accepted_tokens > 0
    assert sum(j * count for j, count in enumerate(told["acceptance_histogram"])) == own.num_accepted_tokens
    assert len(told["acceptance_histogram"]) == told["num_spec_tokens"] + 1
    assert told["mean_acceptance_length"] == pytest.approx(own.mean_acceptance_length)


def test_a_seed_gives_the_engine_s_samples_and_n_of_them_differ(server: Served):
    options = {"temperature": 0.9, "top_p": 0.95, "seed": 11}
    answer = server.client.chat.completions.create(model="bundled", messages=HELLO, max_tokens=24, n=3, **options)
    own = [expected(max_new_tokens=24, sample=sample, **options).text for sample in range(3)]
    assert [choice.message.content for choice in answer.choices] == own
    assert len(set(own)) == 3
    assert answer.metrics is None, "of several choices vLLM tells nothing"
    stream = server.client.chat.completions.create(
        model="bundled", messages=HELLO, max_tokens=24, n=3, stream=True, **options
    )
    texts = ["", "", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == own


def test_many_asynchronous_clients_get_their_own_answers(server: Served):
    async def ask(client, number):
        messages = [{"role": "user", "content": f"def number_{number}():"}]
        answer = await client.chat.completions.create(
            model="bundled", messages=messages, max_tokens=12, temperature=0, stream=number % 2 == 0
        )
        if number % 2:
            return answer.choices[0].message.content
        return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])

    async def ask_all():
        async with server.async_client() as client:
            return await asyncio.gather(*(ask(client, number) for number in range(8)))

    own = [
        expected([{"role": "user", "content": f"def number_{number}():"}], max_new_tokens=12).text
        for number in range(8)
    ]
    assert asyncio.run(ask_all()) == own


@pytest.mark.parametrize("role", ["system", "developer"])
def test_parts_of_text_and_other_roles_are_read_as_their_texts(server: Served, role):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": role, "content": "be brief"}, {"role": "user", "content": parts}]
    same = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one\ntwo"}]
    answer = server.client.chat.completions.create(model="bundled", messages=messages, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content == expected(same, max_new_tokens=8).text


def test_an_answer_can_be_sent_back_as_it_came(server: Served):
    client = server.client
    first = client.chat.completions.create(model="bundled", messages=HELLO, max_tokens=8, temperature=0)
    messages = [*HELLO, first.choices[0].message.model_dump(), {"role": "user", "content": "go on"}]
    again = client.chat.completions.create(model="bundled", messages=messages, max_tokens=8, temperature=0)
    same = [*HELLO, {"role": "assistant", "content": first.choices[0].message.content}, messages[-1]]
    assert again.choices[0].message.content == expected(same, max_new_tokens=8).text


def test_options_of_the_template_reach_it_and_others_are_refused(server: Served):
    client = server.client

    def ask(**options):
        return client.chat.completions.create(
            model="bundled", messages=HELLO, max_tokens=8, temperature=0, extra_body={"chat_template_kwargs": options}
        )

    plain, loud = (answer.usage.prompt_tokens for answer in (ask(), ask(loud=True)))
    assert loud > plain
    for name in ("enable_thinking", "tokenize", "chat_template"):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(**{name: "x"})
        assert refused.value.param == f"chat_template_kwargs.{name}"


def test_tools_reach_the_template_and_a_text_that_is_no_call_stays_text(server: Served):
    client = server.client
    answer = client.chat.completions.create(
        model="bundled", messages=HELLO, tools=TOOLS, tool_choice="auto", max_tokens=16, temperature=0
    )
    bare = client.chat.completions.create(
        model="bundled", messages=HELLO, tools=TOOLS, tool_choice="none", max_tokens=16, temperature=0
    )
    assert answer.usage.prompt_tokens > bare.usage.prompt_tokens == len(engine().chat_prompt(HELLO))
    assert answer.choices[0].message.tool_calls is None
    assert bare.choices[0].message.content == expected(max_new_tokens=16).text
    stream = client.chat.completions.create(
        model="bundled", messages=HELLO, tools=TOOLS, max_tokens=16, temperature=0, stream=True
    )
    assert collected(stream)[0] == answer.choices[0].message.content


def test_a_call_s_own_answer_is_read_as_an_object(server: Served):
    called = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": json.dumps({"city": "Ulm"})},
    }
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    http = server.http
    told = http.post("/tokenize", json={"messages": messages, "tools": TOOLS}).json()
    text = http.post("/detokenize", json={"tokens": told["tokens"]}).json()["prompt"]
    assert 'calls get_weather({"city": "Ulm"})' in text
    assert "# tool: sunny" in text
    assert '"description": "the weather of a city"' in text


def test_lengths_that_do_not_fit_are_refused_with_the_numbers(server: Served):
    with pytest.raises(openai.BadRequestError) as refused:
        server.client.chat.completions.create(model="bundled", messages=HELLO, max_tokens=5000)
    assert refused.value.code == "context_length_exceeded"
    prompt = len(engine().chat_prompt(HELLO))
    assert all(number in str(refused.value) for number in ("1024", "5000", str(prompt), str(prompt + 5000)))


def test_other_models_are_not_found(server: Served):
    with pytest.raises(openai.NotFoundError) as refused:
        server.client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert [model.id for model in server.client.models.list().data] == ["bundled"]
    assert server.client.models.retrieve("bundled").max_model_len == 1024
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("gpt-4")


def test_log_probabilities_of_a_chat_have_bytes_and_alternatives(server: Served):
    own = engine().generate(engine().chat_prompt(HELLO), max_new_tokens=10, top_logprobs=2)
    answer = server.client.chat.completions.create(
        model="bundled", messages=HELLO, max_tokens=10, temperature=0, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert [entry.logprob for entry in content] == pytest.approx(own.logprobs, abs=1e-5)
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == own.text
    assert all(len(entry.top_logprobs) == 2 for entry in content)
    assert content[0].top_logprobs[0].token == content[0].token, "greedy"
    stream = server.client.chat.completions.create(
        model="bundled", messages=HELLO, max_tokens=10, temperature=0, logprobs=True, top_logprobs=2, stream=True
    )
    streamed = [
        entry
        for chunk in stream
        for choice in chunk.choices
        for entry in (choice.logprobs.content if choice.logprobs else [])
    ]
    assert streamed == content


def test_the_chat_command_answers_as_the_engine_does(server: Served):
    words = ["chat", "--server", server.url, "--temperature", "0", "--max-new-tokens"]
    told = CliRunner().invoke(app, [*words, "12"], input="write a loop\n")
    own = engine().chat("write a loop", max_new_tokens=12)
    assert told.stdout == own.text + "\n"
    assert "12 tokens, " in told.stderr
    assert f"{own.stats.mean_acceptance_length:.2f} per round" in told.stderr
    long = CliRunner().invoke(app, [*words, "5000"], input="write a loop\n")
    assert (long.exit_code, "context window" in long.stderr) == (0, True)
