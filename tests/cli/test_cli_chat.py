"""draftgraph chat, here and against a server, and what Ctrl-C stops."""

from __future__ import annotations

import io
import sys

import pytest
from typer.testing import CliRunner

from draftgraph.cli import app
from draftgraph.cli.work.chat import Told, converse
from draftgraph.errors import DraftgraphError
from models import byte_tokenizer
from pairs import save_pair

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}me: {% endif %}"
)


def run(*words, text=""):
    return CliRunner().invoke(app, ["chat", *words], input=text)


class Parrot:
    """Says what it was told, in two pieces; may be interrupted, or fail, in between."""

    def __init__(self, trouble: BaseException | None = None) -> None:
        self.told, self.heard, self.trouble, self.closed = Told(7, 2.5), [], trouble, 0

    def answer(self, messages):
        self.heard.append([message["content"] for message in messages])
        try:
            yield "you said "
            trouble, self.trouble = self.trouble, None
            if trouble is not None:
                raise trouble
            yield messages[-1]["content"]
        finally:
            self.closed += 1


def said(speaker, text, monkeypatch, capsys, system=None):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    converse(speaker, system)
    return capsys.readouterr()


def test_answers_join_the_conversation_until_it_is_cleared(monkeypatch, capsys):
    parrot = Parrot()
    out = said(parrot, "one\n\ntwo\n/clear\nthree\n/quit\nnever\n", monkeypatch, capsys, "be brief").out
    assert out == "you said one\nyou said two\nyou said three\n"
    assert parrot.heard == [
        ["be brief", "one"],
        ["be brief", "one", "you said one", "two"],
        ["be brief", "three"],
    ]


def test_ctrl_c_stops_the_answer_and_not_the_program(monkeypatch, capsys):
    parrot = Parrot(KeyboardInterrupt())
    told = said(parrot, "one\ntwo\n", monkeypatch, capsys)
    assert told.out == "you said \nyou said two\n"
    assert told.err.startswith("(stopped; 7 tokens, ")
    assert parrot.heard[1] == ["one", "you said ", "two"], "what was said stays said"
    assert parrot.closed == 2


def test_an_answer_that_fails_is_told_and_forgotten(monkeypatch, capsys):
    parrot = Parrot(DraftgraphError("no luck"))
    told = said(parrot, "one\ntwo\n", monkeypatch, capsys)
    assert "error: no luck" in told.err
    assert parrot.heard[1] == ["two"]


def test_a_model_here_answers_as_its_engine_does(tmp_path, monkeypatch):
    target, drafter = save_pair(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(target)
    words = ("--model", str(target), "--draft-model", str(drafter), "--budget", "6", "--temperature", "0")
    told = run(*words, "--backend", "torch", "--max-new-tokens", "9", text="hello\n")
    assert told.exit_code == 0, told.output
    assert "9 tokens, " in told.stderr
    assert " per round of the target" in told.stderr


def test_a_model_that_cannot_chat_says_what_to_write(tmp_path):
    told = run("--backend", "torch", "--budget", "4", text="hello\n")
    assert told.exit_code == 2
    assert "no chat template" in told.stderr
    assert "draftgraph generate" in told.stderr


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://", "nonsense"])
def test_a_server_that_is_not_there_is_misuse(address):
    told = run("--server", address, text="hello\n")
    assert told.exit_code == 2
    assert "no server answers" in told.stderr
    assert run("--server", address, "--model", "x").exit_code == 2


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (Told(), "2.0 s"),
        (Told(10), "10 tokens, 5.0 per second"),
        (Told(10, 2.5), "10 tokens, 5.0 per second, 2.50 per round of the target"),
        (
            Told(11, 2.0, 1.0, 0.4),
            "11 tokens, 5.5 per second, 2.00 per round of the target; about 2.2 per second without drafts",
        ),
    ],
)
def test_an_answer_is_told_with_both_speeds(told, said):
    """Without drafts every token but the first, for which the prompt is read, takes what it took when it was timed."""
    assert told.said(2.0) == said
