"""draftgraph bench: what it prints and writes, what it refuses, and its exit codes."""

from __future__ import annotations

import errno
import importlib.util
import json
import shlex
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from draftgraph.cli import app
from draftgraph.cli.work import bench
from draftgraph.data import bundled_pair
from draftgraph.errors import OptionError
from draftgraph.lab.bench import peers, session
from draftgraph.lab.bench.contenders import PLAIN, Ours
from draftgraph.lab.bench.machine import peer_versions
from draftgraph.lab.bench.summary import Run
from draftgraph.lab.turns import Answer
from models import tiny_lm
from pairs import save_pair

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[str]:
    return [str(folder) for folder in save_pair(tmp_path_factory.mktemp("pair"))]


@pytest.fixture
def prompts(tmp_path) -> Path:
    """Two tasks, and a line that is broken."""
    rows = [
        {"question_id": 1, "category": "qa", "turns": ["Why?", "And then?"]},
        {"question_id": 2, "category": "qa", "turns": ["How?"]},
        {"task_id": "HumanEval/3", "prompt": "def f():"},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "{broken"]))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "200"})


def small(pair: list[str], prompts: Path, *more: object) -> tuple[object, ...]:
    return (*pair, "--prompts", prompts, "--max-new-tokens", "6", "--repeats", "1", *more)


def words(text: str) -> str:
    return " ".join(text.split())


def test_json_is_one_object_with_everything(pair, prompts):
    result = run(*small(pair, prompts, "--ours", "structure=chain,budget=3", "--json"))
    assert result.exit_code == 0, result.output
    assert words(result.stderr).startswith(f"warning: {prompts}:4: not JSON")
    found = json.loads(result.stdout)
    assert (found["format"], found["version"], found["complete"]) == ("draftgraph bench", 1, True)
    assert found["settings"]["temperatures"] == [0.0, 1.0]
    assert found["models"]["target"] == pair[0]
    (file,) = found["prompts"]["files"]
    assert (file["prompts"], file["used"], [one["line"] for one in file["broken"]]) == (3, 3, [4])
    assert [one["task"] for one in found["prompts"]["used"]] == ["qa", "qa", "HumanEval"]
    assert "1 later turns were left out" in found["prompts"]["conversations"]
    names = [one["name"] for one in found["contenders"]]
    assert "draftgraph structure=chain,budget=3" in names
    assert found["run_fields"] == [field.name for field in fields(Run)]
    assert len(found["runs"]) == 2 * 3 * len(names)
    assert len(found["rows"]) == 2 * 3 * len(names)  # all, qa, HumanEval
    for row in found["rows"]:
        ratio = row["ratio"]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert row["verdict"] == "unsure", "three prompts are too few"
        assert row["acceptance"] >= 1.0
        assert row["same"] == (row["prompts"] if row["temperature"] == 0 else None)
        if row["contender"] == PLAIN:
            assert (ratio["median"], row["acceptance"], row["nodes"]) == (1.0, 1.0, 0)
            assert row["tokens"] == row["target_calls"] == 6 * row["runs"]
    assert (found["differences"], found["wrong"]) == ([], [])
    assert found["environment"]["peers"] == peer_versions()


def test_the_command_in_the_report_measures_the_same(pair, prompts):
    first = json.loads(run(*small(pair, prompts, "--temperature", "0", "--limit", "1", "--json")).stdout)
    command = shlex.split(first["command"])
    assert command[:2] == ["draftgraph", "bench"]
    again = json.loads(run(*command[2:], "--json").stdout)
    for name in ("command", "settings", "models", "contenders", "prompts"):
        assert again[name] == first[name]
    counts = [(row["contender"], row["task"], row["target_calls"], row["nodes"]) for row in first["rows"]]
    assert counts == [(row["contender"], row["task"], row["target_calls"], row["nodes"]) for row in again["rows"]]


def test_a_report_is_told_and_written(pair, prompts, tmp_path):
    out = tmp_path / "new" / "report"
    result = run(*small(pair, prompts, "--out", out))
    assert result.exit_code == 0, result.output
    told = words(result.stdout)
    for said in (
        "temperature 0", "temperature 1", "times as fast, by task", "transformers plain, again", "draftgraph plain",
        "every text of everybody is token by token that of transformers plain", "95 % bootstrap interval",
        "1 broken lines, left out", "no chat template", "again: draftgraph bench", "load average", "written: ",
    ):  # fmt: skip
        assert said in told, said
    found = json.loads((out / "bench.json").read_text())
    text = (out / "bench.md").read_text()
    for row in found["rows"]:
        assert f"| {row['contender']} | " in text
        assert f" | {row['target_calls']} | " in text
    assert "**temperature 0, HumanEval**" in text
    assert "ignores end-of-sequence tokens" in text
    assert (out / "bench.png").is_file() == HAS_MATPLOTLIB
    assert {path.name for path in out.iterdir()} == {"bench.json", "bench.md", *(["bench.png"] * HAS_MATPLOTLIB)}


def test_without_matplotlib_the_report_says_how_to_get_it(pair, prompts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(*small(pair, prompts, "--out", tmp_path, "--temperature", "0"))
    assert result.exit_code == 0, result.output
    assert "pip install matplotlib" in words(result.stdout)
    assert "pip install matplotlib" in (tmp_path / "bench.md").read_text()
    assert not (tmp_path / "bench.png").exists()


def test_a_peer_that_is_missing_has_a_row(pair, prompts, monkeypatch):
    kinds = {name: replace(kind, module="no_such_module") for name, kind in peers.KINDS.items()}
    monkeypatch.setattr(peers, "KINDS", kinds)
    arguments = small(pair, prompts, "--temperature", "0", "--peer", "openvino", "--peer", "vllm")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "warning: openvino: not installed; pip install openvino-genai" in result.stderr
    assert "│ openvino" in result.stdout
    assert "│ absent │" in result.stdout
    found = json.loads(run(*arguments, "--json").stdout)
    absent = {one["name"]: one["note"] for one in found["contenders"] if one["status"] == "absent"}
    assert list(absent) == ["openvino", "vllm"]


def test_a_target_alone(pair, prompts):
    found = json.loads(run(*small(pair[:1], prompts, "--temperature", "0", "--json")).stdout)
    assert found["models"]["drafter"] is None
    assert {"name": "transformers assisted", "status": "absent", "note": "no drafter was given"} in found["contenders"]


def test_bundled_prompts_and_pair_are_there_without_arguments():
    arguments = ("--limit", "1", "--max-new-tokens", "4", "--repeats", "1", "--temperature", "0", "--json")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["models"]["target"] == str(bundled_pair()[0])
    assert len(found["prompts"]["used"]) == 1
    assert found["wrong"] == []


def test_other_targets_continue_bundled_texts(pair):
    arguments = (*pair, "--limit", "2", "--max-new-tokens", "4", "--repeats", "1", "--temperature", "0", "--json")
    assert [one["task"] for one in json.loads(run(*arguments).stdout)["prompts"]["used"]] == ["mixed"] * 2


def test_a_wrong_greedy_text_of_ours_fails(pair, prompts, monkeypatch):
    real = Ours.answer

    def wrong(self, prompt, seed):
        answer = real(self, prompt, seed)
        return answer if self.name == "draftgraph" else Answer([*answer.ids[:-1], (answer.ids[-1] + 1) % 256], 1, 0)

    monkeypatch.setattr(Ours, "answer", wrong)
    result = run(*small(pair, prompts, "--temperature", "0"))
    assert result.exit_code == 1
    told = words(result.stdout)
    assert "draftgraph plain: 3 greedy texts are not those of the target, beyond near ties" in told
    assert "greedy texts that differ from transformers plain" in told
    assert "│ 0/3 │" in told
    coarse = run(*small(pair, prompts, "--temperature", "0", "--dtype", "bfloat16"))
    assert coarse.exit_code == 0, "in coarse types differences are told, and no failure"
    assert "bfloat16 rounds coarsely" in words(coarse.stdout)


def test_ctrl_c_leaves_what_was_measured(pair, prompts, tmp_path, monkeypatch):
    real, calls = session.Ours.answer, []

    def interrupted(self, prompt, seed):
        calls.append(self.name)
        if len(calls) > 5:  # two engines, a warm-up and a turn each, and then one more
            raise KeyboardInterrupt
        return real(self, prompt, seed)

    monkeypatch.setattr(Ours, "answer", interrupted)
    result = run(*small(pair, prompts, "--json", "--out", tmp_path / "out"))
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    found = json.loads(result.stdout)
    assert found["complete"] is False
    assert {run[found["run_fields"].index("prompt")] for run in found["runs"]} == {0}
    assert {row["runs"] for row in found["rows"]} == {1}
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert (written["complete"], written["runs"], written["rows"]) == (False, found["runs"], found["rows"])
    assert "INCOMPLETE" in (tmp_path / "out" / "bench.md").read_text()


def test_ctrl_c_before_the_first_turn_leaves_an_empty_report(pair, prompts, tmp_path, monkeypatch):
    def interrupted(self, prompt, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ours, "answer", interrupted)
    result = run(*small(pair, prompts, "--out", tmp_path))
    assert result.exit_code == 130
    assert "INCOMPLETE" in result.stdout
    assert json.loads((tmp_path / "bench.json").read_text())["rows"] == []


def test_a_disk_that_fills_up_meanwhile_leaves_the_report_on_stdout(pair, prompts, tmp_path, monkeypatch):
    def full(file, text):
        raise OptionError(f"cannot write {str(file)!r}: No space left on device")

    monkeypatch.setattr(bench, "write_report", full)
    result = run(*small(pair, prompts, "--temperature", "0", "--out", tmp_path, "--json"))
    assert (result.exit_code, "No space left" in result.stderr) == (2, True)
    assert json.loads(result.stdout)["complete"] is True


def test_a_pipe_that_is_closed_meanwhile_leaves_the_files(pair, prompts, tmp_path, monkeypatch):
    def closed(*parts):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(bench, "print_report", closed)
    assert run(*small(pair, prompts, "--temperature", "0", "--out", tmp_path)).exit_code != 0
    assert json.loads((tmp_path / "bench.json").read_text())["complete"] is True
    assert (tmp_path / "bench.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peer", "onnx"], "unknown peer 'onnx'"),
        (["--ours", "budget=-1"], "budget='-1' is not possible"),
        (["--temperature", "-1"], "temperature=-1.0 is not possible"),
        (["--max-new-tokens", "0"], "max_new_tokens=0 is not possible"),
        (["--max-new-tokens", "300"], "no prompt is left"),
        (["--num-assistant-tokens", "0"], "num_assistant_tokens=0"),
        (["--dtype", "int4"], "one of float32"),
        (["--device", "toaster"], "not possible here"),
        (["--repeats", "0"], ""),
        (["--limit", "0"], ""),
    ],
)
def test_misuse(pair, prompts, arguments, said):
    result = run(*pair, "--prompts", prompts, *arguments)
    assert result.exit_code == 2, result.output
    assert said in words(result.stderr)
    assert "Traceback" not in result.stderr


def test_files_that_cannot_be_used_are_refused_before_anything_is_loaded(tmp_path, prompts):
    (tmp_path / "empty.jsonl").touch()
    for path, said in (("empty.jsonl", "is empty"), ("none.jsonl", "No such file")):
        result = run("no such model", "--prompts", tmp_path / path)
        assert (result.exit_code, said in words(result.stderr)) == (2, True)
    result = run("no such model", "--prompts", prompts, "--out", prompts)
    assert (result.exit_code, "cannot write into" in words(result.stderr)) == (2, True)


def test_models_that_cannot_run_fail(tmp_path, prompts, pair):
    missing = run(tmp_path / "nothing", "--prompts", prompts)
    assert (missing.exit_code, "cannot load" in words(missing.stderr)) == (1, True)
    tiny_lm(vocab=512).save_pretrained(tmp_path / "other")
    other = run(pair[0], tmp_path / "other", "--prompts", prompts)
    assert other.exit_code == 2
    assert "vocabulary size" in words(other.stderr)


def test_threads_are_set(pair, prompts):
    before = torch.get_num_threads()
    try:
        found = json.loads(run(*small(pair, prompts, "--temperature", "0", "--threads", "2", "--json")).stdout)
        assert found["settings"]["threads"] == found["environment"]["threads"] == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_windows_and_limits_are_told(pair, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(["x" * 255, "short", "also short"]))
    result = run(*small(pair, path, "--temperature", "0", "--limit", "1", "--json"))
    assert "warning: texts:1: 255 + 6 tokens exceed the context window of 256; left out" in words(result.stderr)
    found = json.loads(result.stdout)
    assert [one["name"] for one in found["prompts"]["used"]] == ["texts:2"]
    assert [one["name"] for one in found["prompts"]["skipped"]] == ["texts:1"]
