"""What all commands share: options, one line for every error, exit codes, silence of other libraries."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import draftgraph as dg
from draftgraph.backends import hub
from draftgraph.cli import app
from draftgraph.cli.program import TRACEBACK
from draftgraph.engine.course import Course
from draftgraph.errors import OptionError
from pairs import save_pair

PROMPT = "def f(x):"
RULES = """
from draftgraph.verification.layer import LayerRule
class Mine(LayerRule):
    name = "mine"
class Nameless(LayerRule):
    pass
raise_later = None
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[str]:
    return [str(folder) for folder in save_pair(tmp_path_factory.mktemp("pair"))]


@pytest.fixture
def models(pair) -> list[str]:
    return ["--model", pair[0], "--draft-model", pair[1], "--max-new-tokens", "8"]


@pytest.fixture
def own_rules(tmp_path, monkeypatch) -> None:
    (tmp_path / "shared_rules.py").write_text(RULES)
    (tmp_path / "broken_rules.py").write_text("raise SystemExit('\\x1b[2Jno')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "shared_rules", raising=False)


def run(*arguments: str, **options) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"}, **options)


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.rstrip("\n").isprintable()
    for word in words:
        assert word in result.stderr


# --- shared options ---------------------------------------------------------------------------------------------------


def test_a_rule_of_the_users_verifies(models, own_rules):
    result = run("generate", PROMPT, *models, "--rule", "shared_rules:Mine", "--budget", "4", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["stats"]["rule"] == "mine"
    refused(run("generate", PROMPT, *models, "--rule", "shared_rules:absent"), 2, "shared_rules:absent")
    refused(
        run("generate", PROMPT, *models, "--rule", "broken_rules:Rule"),
        2,
        "broken_rules:Rule",
        "SystemExit",
        "\\x1b[2J",
    )


def test_type_and_device_reach_the_models(models):
    result = run("generate", PROMPT, *models, "--dtype", "float64", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    for arguments, word in ((["--dtype", "int4"], "one of float32"), (["--device", "toaster"], "not possible here")):
        for command in (["generate", PROMPT, *models[:4]], ["prove", *models[:4], "--prompt", "x"], ["pair-check", *models[:4]],
                        ["doctor", *models[:4]], ["predict", *models[:4]], ["bench", *models[:4]]):  # fmt: skip
            refused(run(*command, *arguments), 2, word)


def test_a_predicted_text_drafts(pair, tmp_path):
    plain = json.loads(run("generate", PROMPT, "--model", pair[0], "--max-new-tokens", "16", "--json").stdout)
    (tmp_path / "said.txt").write_text(plain["text"])
    for prediction in (plain["text"], f"@{tmp_path / 'said.txt'}"):
        found = json.loads(
            run(
                "generate", PROMPT, "--model", pair[0], "--max-new-tokens", "16", "--prediction", prediction, "--json"
            ).stdout
        )
        assert found["token_ids"] == plain["token_ids"]
    refused(run("generate", PROMPT, *["--model", pair[0]], "--prediction", "@absent"), 2, "@@")
    refused(
        run("generate", PROMPT, "--model", pair[0], "--draft-model", pair[1], "--prediction", "x"), 2, "drafter='text'"
    )


def test_stops_are_written_with_escapes(models, monkeypatch):
    def tell(self, prompt, params):
        raise OptionError(f"stops are {params.stop}")

    monkeypatch.setattr(dg.Engine, "stream", tell)
    result = run("generate", PROMPT, *models, "--stop", r"\n\n", "--stop", r"\\n", "--stop", r"\d")
    refused(result, 2, repr(("\n\n", "\\n", "\\d")))


def test_a_chat_is_laid_out_by_the_engine(models, monkeypatch):
    heard = []

    def chat_prompt(self, messages):
        heard.append(messages)
        return self.tokenizer("U: hello A:")["input_ids"]

    monkeypatch.setattr(dg.Engine, "chat_prompt", chat_prompt, raising=False)
    plain = run("generate", "U: hello A:", *models, "--json")
    chat = run("generate", "hello", *models, "--json", "--chat", "--system", "Be brief.")
    assert heard == [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]]
    assert json.loads(chat.stdout)["token_ids"] == json.loads(plain.stdout)["token_ids"]
    shown = run("generate", "hello", *models, "--chat", "--show")
    assert "U: hello A:" in shown.stdout
    refused(run("generate", "hello", *models, "--system", "x"), 2, "--chat")


def test_a_model_that_has_no_chat_template_is_refused_in_words_of_the_command_line(models):
    refused(run("generate", "hello", *models, "--chat"), 2, "leave --chat and --system out")


def test_a_chat_is_traced_with_the_ids_that_were_read(models, monkeypatch, tmp_path):
    monkeypatch.setattr(dg.Engine, "chat_prompt", lambda self, messages: [72, 105, 32], raising=False)
    assert run("generate", "hello", *models, "--chat", "--trace", str(tmp_path / "a.json")).exit_code == 0
    assert json.loads((tmp_path / "a.json").read_text())["prompt_ids"] == [72, 105, 32]
    assert run("view", str(tmp_path / "a.json")).exit_code == 0


def test_models_are_arguments_or_options_everywhere(pair):
    as_options = ["--model", pair[0], "--draft-model", pair[1]]
    for arguments in (pair, as_options):
        result = run("pair-check", *arguments, "--json")
        assert json.loads(result.stdout)["drafter"] == pair[1]
    refused(run("pair-check", pair[0], "--model", pair[0]), 2, "given twice")
    for command in ("pair-check", "doctor", "predict", "bench"):
        refused(run(command, "--draft-model", pair[1]), 2, "--model")


def test_own_ways_are_measured_beside_the_others(pair, tmp_path):
    (tmp_path / "prompts.json").write_text(json.dumps([{"turns": ["Why?"]}, "How?"]))
    given = [*pair, "--limit", "1", "--temperature", "0", "--rule", "block", "--structure", "chain", "--budget", "2"]
    result = run("doctor", *given, "--text", str(tmp_path / "prompts.json"), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["prompts"] == {"count": 2, "source": f"of '{tmp_path / 'prompts.json'}'", "chat": False}
    ways = {way["name"]: way["options"] for way in found["temperatures"][0]["tried"]}
    assert ways["as asked"] == {"rule": "block", "structure": "chain", "budget": 2}
    quick = [
        "--prompts",
        str(tmp_path / "prompts.json"),
        "--temperature",
        "0",
        "--repeats",
        "1",
        "--max-new-tokens",
        "4",
    ]
    result = run("bench", *pair, *quick, "--budget", "2", "--prediction", "Because", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert "draftgraph budget=2,drafter=text" in {row["contender"] for row in found["rows"]}
    assert "--budget 2 --prediction Because" in found["command"]


def test_reports_fit_a_hundred_columns_and_name_their_prompts(pair):
    result = run("doctor", *pair, "--limit", "1", "--temperature", "0")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert (
        "measured on 6 prompts: bundled with draftgraph (stories, code, lists, answers, letters); continued as they are"
        in " ".join(result.stdout.split())
    )


def test_predict_reads_what_bench_reads(pair, tmp_path):
    text = "def add(a, b): return a + b  " * 3
    rows = [
        {"question_id": 1, "category": "qa", "turns": [text, text]},
        {"prompt": text, "task_id": "T/1"},
        {"no": "text"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = run("predict", *pair, "--prompts", str(tmp_path / "rows.jsonl"), "--no-speed", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["profile"]["texts"] == 2
    assert result.stderr.count("warning: ") == 1
    assert "rows.jsonl:3" in result.stderr


def test_a_proof_begins_with_its_verdict(own_rules):
    result = run("prove", "--rule", "shared_rules:Mine", "--vocab", "2", "--depth", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("rule 'mine' is lossless")


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["genrate", "x"], ["unknown command 'genrate'", "Did you mean 'generate'"]),
        (
            ["generate", "x", "--modle", "y"],
            ["no such option --modle. Did you mean --model?", "draftgraph generate --help"],
        ),
        (["generate"], []),  # in which words depends on typer's version
        (["generate", "x", "--top-k", "many"], ["--top-k", "draftgraph generate --help"]),
        (["bench", "a", "b", "c"], ["draftgraph bench --help"]),
        (["generate", "x", "--threads", "1000000000"], ["--threads"]),
        (["\x1b[2J"], ["unknown command '\\x1b[2J'"]),
        (["generate", "x", "--\x1b]8;;http://evil\x1b\\"], ["\\x1b]8;;"]),
        (["view", "absent\x1b[31m\n.json"], ["absent\\x1b[31m\\n.json"]),
        (["generate", "x", "--trace", "no\u202esuch/place"], ["no\\u202esuch"]),
    ],
)
def test_misuse_is_one_line_and_suggests(arguments, words):
    refused(run(*arguments, prog_name="draftgraph"), 2, *words)


def test_without_arguments_there_is_help():
    result = run()
    assert result.exit_code == 2
    assert "generate" in result.stdout


def test_what_nobody_foresaw_is_one_line(models, monkeypatch):
    def broken(self, *anything):
        raise ZeroDivisionError("in the\nmiddle \x1b[2J")

    monkeypatch.setattr(Course, "alone", broken)
    refused(run("generate", PROMPT, *models), 1, "unexpected ZeroDivisionError: in the; set DRAFTGRAPH_TRACEBACK=1")
    monkeypatch.setenv(TRACEBACK, "1")
    result = run("generate", PROMPT, *models)
    assert isinstance(result.exception, ZeroDivisionError)


def test_ctrl_c_while_models_load(models, monkeypatch):
    def interrupted(*anything, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(dg.Engine, "from_pretrained", interrupted)
    result = run("generate", PROMPT, *models)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_errors_with_hostile_words_are_one_line(models, monkeypatch):
    def hostile(self, *anything):
        raise OptionError("first\nsecond \x1b]8;;http://evil\x07 \u202e \udcff")

    monkeypatch.setattr(Course, "alone", hostile)
    refused(run("generate", PROMPT, *models), 2, "first\\nsecond \\x1b]8;;http://evil\\x07 \\u202e \\udcff")


@pytest.mark.parametrize("command", ["generate", "pair-check", "doctor", "predict", "bench"])
def test_a_hub_that_cannot_be_reached_is_asked_once(command, monkeypatch):
    asked = []

    def nobody(url, timeout):
        asked.append(url)
        raise OSError("Name or service not known")

    monkeypatch.setattr(hub, "get_hf_file_metadata", nobody)
    monkeypatch.setattr(hub, "_switched_off", lambda: "")
    monkeypatch.setattr(hub, "BELIEVED_SECONDS", math.inf)
    hub._ask.cache_clear()
    name = "no-such/model-anywhere"
    result = run(*(["generate", "x", "--model", name] if command == "generate" else [command, name, name]))
    hub._ask.cache_clear()
    assert result.exit_code == 1
    assert len(asked) == 1
    assert "Retrying" not in result.output
    assert name in result.output
    if command not in ("pair-check", "doctor"):
        refused(result, 1, "the hub cannot be reached")


# --- other libraries --------------------------------------------------------------------------------------------------


def test_other_libraries_are_silent_and_draftgraph_is_not(models, monkeypatch):
    whole = Course.alone

    def talkative(self):
        warnings.warn("a foreign warning", FutureWarning, stacklevel=1)
        for name in ("transformers.modeling_utils", "huggingface_hub.utils._http", "httpx", "torch", "some.library"):
            logging.getLogger(name).error("Retrying in 1s [Retry 1/5].")
        logging.getLogger("draftgraph.budget").warning("costs are not kept\x1b[2J")
        yield from whole(self)

    monkeypatch.setattr(Course, "alone", talkative)
    result = run("generate", PROMPT, *models, "--json")
    assert result.exit_code == 0
    assert result.stderr == "warning: costs are not kept\\x1b[2J\n"
    assert json.loads(result.stdout)["token_ids"]


def test_code_of_a_model_is_neither_run_nor_asked_about(pair, tmp_path):
    """In a process of its own, with a terminal's answers on standard input."""
    import shutil

    folder, marker = Path(shutil.copytree(pair[0], tmp_path / "model")), tmp_path / "it ran"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\nfrom transformers import LlamaConfig as Own")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
    )
    command = [sys.executable, "-m", "draftgraph.cli", "generate", "x", "--model", str(folder), "--threads", "1"]
    done = subprocess.run(command, input=b"y\ny\n", capture_output=True, check=False, timeout=600)
    told = done.stderr.decode()
    assert (done.returncode, done.stdout, len(told.splitlines())) == (1, b"", 1)
    assert "trust_remote_code=True" in told
    assert not marker.exists()


def test_a_closed_pipe_is_silent(tmp_path):
    from draftgraph.view import tracefile
    from traces import random_trace

    tracefile.save(random_trace(400, 12), tmp_path / "long.json")
    command = f"{sys.executable} -m draftgraph.cli view {tmp_path / 'long.json'} | head -1"
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, env=environment, timeout=600)
    assert done.stdout.decode().startswith("legend")
    assert done.stderr == b""


def test_threads_stay_as_they_were_where_nothing_is_written(models):
    before = torch.get_num_threads()
    assert run("generate", PROMPT, *models).exit_code == 0
    assert torch.get_num_threads() == before
