"""The command line: what it prints, on which stream, with which exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils import logging as hf_logging
from typer.testing import CliRunner, Result

from draftgraph import __version__, rules
from draftgraph.cli import app
from draftgraph.data import bundled_pair
from draftgraph.engine.course import Course
from draftgraph.errors import LogitsError, ModelError
from models import byte_tokenizer, plain, tiny_lm
from pairs import save_pair

PROMPT = "def f(x):"


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def models(pair) -> list[str]:
    return ["--model", str(pair[0]), "--draft-model", str(pair[1]), "--max-new-tokens", "12"]


def run(*arguments: str, **options) -> Result:
    return CliRunner().invoke(app, list(arguments), **options)


def generate_json(*arguments: str) -> dict:
    result = run("generate", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def assert_error(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr


# generate: what is printed


def test_json_is_one_object_with_the_plain_greedy_tokens(models):
    found = generate_json(PROMPT, *models)
    assert list(found) == ["text", "token_ids", "finish_reason", "stats", "seed", "choice", "budget"]
    assert found["finish_reason"] == "length"
    prompt = byte_tokenizer()(PROMPT)["input_ids"]
    assert found["token_ids"] == plain(tiny_lm(vocab=256, window=256), prompt, 12)
    assert found["stats"]["num_output_tokens"] == 12
    assert found["stats"]["num_accepted_tokens"] > 0


def test_logprobs_are_part_of_the_object_if_asked_for(models):
    found = generate_json(PROMPT, *models, "--logprobs")
    assert len(found["logprobs"]) == len(found["token_ids"])
    assert all(number <= 0 for number in found["logprobs"])


def test_text_arrives_unchanged_in_a_pipe(models):
    result = run("generate", PROMPT, *models)
    assert result.exit_code == 0
    assert result.stdout == generate_json(PROMPT, *models)["text"] + "\n"


def test_a_seed_repeats_and_options_reach_the_engine(models):
    options = [
        "--temperature",
        "0.9",
        "--top-k",
        "20",
        "--top-p",
        "0.95",
        "--min-p",
        "0.01",
        "--repetition-penalty",
        "1.1",
    ]
    drafting = ["--rule", "block", "--structure", "chain", "--budget", "3", "--num-speculative-tokens", "3"]
    first = generate_json(PROMPT, *models, *options, *drafting, "--seed", "5")
    again = generate_json(PROMPT, *models, *options, *drafting, "--seed", "5")
    assert first["seed"] == 5
    assert first["token_ids"] == again["token_ids"]
    assert (first["stats"]["rule"], first["stats"]["structure"]) == ("block", "chain")
    assert len(first["stats"]["acceptance_histogram"]) <= 4


def test_the_drawn_seed_is_told_and_repeats_the_text(models):
    first = generate_json(PROMPT, *models, "--temperature", "1")
    assert generate_json(PROMPT, *models, "--temperature", "1", "--seed", str(first["seed"]))["text"] == first["text"]


def test_stop_strings_end_the_text(models):
    whole = generate_json(PROMPT, *models)["text"]
    stop = next(c for c in whole[2:] if c != "\ufffd" and c not in whole[:2])
    found = generate_json(PROMPT, *models, "--stop", stop, "--stop", "never")
    assert found["text"] == whole[: whole.index(stop)]
    assert found["finish_reason"] == "stop"


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_show_draws_rounds_text_and_summary(models, temperature):
    result = run("generate", PROMPT, *models, "--show", "--temperature", temperature, "--seed", "1")
    assert result.exit_code == 0
    for word in (
        "legend",
        "round 1",
        "bonus",
        "mean acceptance length",
        "tokens/s",
        "seconds: target",
        "seed 1",
        PROMPT,
    ):
        assert word in result.stdout


def test_budget_zero_is_plain_decoding(models):
    found = generate_json(PROMPT, *models, "--budget", "0")
    assert found["stats"]["num_rounds"] == found["stats"]["num_output_tokens"] == 12


def test_the_drafter_may_draft_on_while_the_target_verifies(models):
    asked = ("--schedule", "parallel", "--num-speculative-tokens", "3", "--backend", "torch")
    found = generate_json(PROMPT, *models, *asked)
    assert found["token_ids"] == generate_json(PROMPT, *models, "--budget", "0", "--backend", "torch")["token_ids"]
    assert "drafts on while the target verifies" in found["choice"]["reason"]
    shown = run("generate", PROMPT, *models, *asked, "--show")
    assert "drafted meanwhile: " in shown.stdout


def test_a_model_alone_drafts_by_looking_up(pair):
    found = generate_json("abcabcabcabc", "--model", str(pair[0]), "--max-new-tokens", "30")
    assert found["stats"]["num_drafter_passes"] == 0
    assert found["stats"]["num_draft_tokens"] > 0


def test_a_dash_reads_standard_input_as_it_is(models):
    result = run("generate", "-", *models, "--json", input=PROMPT + "\n")
    assert json.loads(result.stdout)["token_ids"] == generate_json(PROMPT + "\n", *models)["token_ids"]


# generate: misuse (2), failure (1), Ctrl-C (130)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "-1"], ["temperature", ">= 0"]),
        (["--max-new-tokens", "0"], ["max_new_tokens"]),
        (["--top-p", "0"], ["top_p"]),
        (["--stop", ""], ["stop"]),
        (["--rule", "lyer"], ["'lyer'", "Did you mean 'layer'"]),
        (["--structure", "forest"], ["'forest'", "graph"]),
        (["--rule", "block", "--structure", "tree"], ["chain"]),
        (["--budget", "many"], ["budget", "'auto'"]),
        (["--budget", "-3"], ["budget"]),
        (["--num-speculative-tokens", "0"], ["num_speculative_tokens"]),
        (["--drafter", "crystal ball"], ["drafter", "lookup"]),
        (["--drafter", "lookup"], ["draft_model"]),
        (["--edges", "own,tabel"], ["tabel", "merge", "table"]),
        (["--edges", "own", "--structure", "tree"], ["own", "graph"]),
        (["--json", "--show"], ["--json", "--show"]),
        (["--logprobs"], ["--json"]),
    ],
)
def test_misuse_is_refused_in_one_line(models, arguments, words):
    assert_error(run("generate", PROMPT, *models, *arguments), 2, *words)


def test_an_empty_prompt_is_refused(models):
    assert_error(run("generate", "", *models), 2, "prompt is empty")
    assert_error(run("generate", "-", *models, input=""), 2, "prompt is empty")
    assert_error(run("generate", "-", *models, input=b"\xff\xfe"), 2, "UTF-8")
    assert_error(run("generate", "caf\udce9", *models), 2, "UTF-8")


def test_a_prompt_beyond_the_window_is_refused(models):
    assert_error(run("generate", "x" * 300, *models), 2, "300 tokens", "256")


def test_a_drafter_without_its_target_is_refused(pair):
    assert_error(run("generate", PROMPT, "--draft-model", str(pair[1])), 2, "--model")


def test_a_drafter_of_another_kind_is_refused(pair, tmp_path):
    shutil.copytree(pair[1], tmp_path, dirs_exist_ok=True)
    byte_tokenizer(tuple(f"word{i}" for i in range(99)), vocab=355).save_pretrained(tmp_path)
    assert_error(run("generate", PROMPT, "--model", str(pair[0]), "--draft-model", str(tmp_path)), 2, "token ids")


def test_what_is_missing_on_the_command_line_is_misuse():
    assert run("generate").exit_code == 2
    assert run("generate", PROMPT, "--no-such-option").exit_code == 2
    assert run("generate", PROMPT, "--threads", "0").exit_code == 2
    assert run("no-such-command").exit_code == 2


def test_a_model_that_is_not_there_is_a_failure(tmp_path):
    assert_error(run("generate", PROMPT, "--model", str(tmp_path)), 1, str(tmp_path))


def interrupted(monkeypatch, error: BaseException) -> None:
    """Make every request end with `error` after its first round."""
    whole = Course.alone

    def run(self):
        yield next(whole(self))
        raise error

    monkeypatch.setattr(Course, "alone", run)


def test_ctrl_c_prints_what_there_is(models, monkeypatch):
    whole = generate_json(PROMPT, *models)
    interrupted(monkeypatch, KeyboardInterrupt())
    result = run("generate", PROMPT, *models, "--json")
    assert result.exit_code == 130
    found = json.loads(result.stdout)
    assert found["finish_reason"] is None
    assert found["token_ids"]
    assert found["token_ids"] == whole["token_ids"][: len(found["token_ids"])]
    shown = run("generate", PROMPT, *models, "--show")
    assert shown.exit_code == 130
    assert "an interruption" in shown.stdout
    assert run("generate", PROMPT, *models).stdout == found["text"] + "\n"


def test_a_failure_on_the_way_keeps_what_there_is(models, monkeypatch):
    interrupted(monkeypatch, LogitsError("the model returned NaN"))
    result = run("generate", PROMPT, *models, "--json")
    assert json.loads(result.stdout)["token_ids"]
    assert_error(result, 1, "NaN")


# A process of its own


def test_a_process_is_quiet_and_survives_a_poor_terminal(models):
    """No progress bars or log lines on stderr; characters that stdout cannot encode do not stop the text."""
    command = [
        sys.executable,
        "-m",
        "draftgraph.cli",
        "generate",
        "-",
        *models,
        "--budget",
        "8",
        "--threads",
        "1",
        "--show",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        command, input=PROMPT.encode(), capture_output=True, check=False, env=environment, timeout=600
    )
    told = [line for line in done.stderr.decode().splitlines() if not line.startswith("warning: timing these models")]
    assert (done.returncode, told) == (0, [])
    assert b"legend" in done.stdout


def test_loading_leaves_the_settings_of_transformers_alone(models):
    before = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    generate_json(PROMPT, *models)
    assert (hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()) == before


# The bundled pair


def bundled() -> bool:
    try:
        return bool(bundled_pair())
    except ModelError:
        return False


@pytest.mark.skipif(not bundled(), reason="the bundled pair is not in this checkout")
def test_the_bundled_pair_needs_no_options():
    found = generate_json(PROMPT, "--max-new-tokens", "16")
    assert len(found["token_ids"]) == 16 or found["finish_reason"] == "stop"
    shown = run("generate", PROMPT, "--max-new-tokens", "8", "--show")
    assert shown.exit_code == 0
    assert "legend" in shown.stdout
    assert generate_json(PROMPT, "--max-new-tokens", "4", "--drafter", "lookup")["stats"]["num_drafter_passes"] == 0


def test_a_missing_pair_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("draftgraph.data.resources.files", lambda package: tmp_path)
    assert_error(run("generate", PROMPT), 1, str(tmp_path), "--model")


# prove, rules, --version

OWN_RULES = """
from draftgraph import Outcome
from draftgraph.verification.layer import LayerRule

class Mine(LayerRule):
    name = "mine"

class Greedy(LayerRule):
    name = "greedy"

    def outcome(self, tree, p):
        return Outcome([0.0] * len(tree) + [1.0], lambda row: p[row])

class Labelled(Greedy):
    lossless = False

instance = Mine()
number = 3
"""


@pytest.fixture
def own_rules(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_rules.py").write_text(OWN_RULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "own_rules", raising=False)


SMALL = ["--vocab", "2", "--depth", "1"]


def test_prove_a_rule():
    result = run("prove", "--rule", "block", *SMALL)
    assert result.exit_code == 0, result.output
    for word in ("chain", "controls", "un-warped bonus", "Not proven", "'block' is lossless"):
        assert word in result.stdout


def test_prove_all_as_one_object(monkeypatch):
    monkeypatch.setattr("draftgraph.cli.work.prove.rules", lambda: {name: rules()[name] for name in ("block", "token")})
    result = run("prove", *SMALL, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["holds"]
    assert {proof["rule"] for proof in found["proofs"]} == {"block", "token"}


def test_prove_all_compares_the_rules(monkeypatch, tmp_path):
    monkeypatch.setattr("draftgraph.cli.work.prove.rules", lambda: {name: rules()[name] for name in ("block", "walk")})
    result = run("prove", *SMALL, "--markdown", str(tmp_path / "proof.md"))
    assert result.exit_code == 0, result.output
    for word in ("verdict", "refused", "2 rules: 2 proven"):
        assert word in result.stdout
    assert "un-warped bonus" not in result.stdout
    report = (tmp_path / "proof.md").read_text()
    assert report.startswith("# draftgraph prove")
    assert "| rule | verdict |" in report
    verbose = run("prove", *SMALL, "--verbose")
    assert "un-warped bonus" in verbose.stdout


def test_bounds_are_computed_if_their_solver_is_installed(monkeypatch):
    pytest.importorskip("scipy")
    cases = json.loads(run("prove", "--rule", "block", *SMALL, "--json").stdout)["cases"]
    assert cases[0]["gap"] == pytest.approx(0, abs=1e-9)
    monkeypatch.setattr("draftgraph.lab.prove.bounds.find_spec", lambda name: None)
    without = run("prove", "--rule", "block", *SMALL)
    assert without.exit_code == 0
    assert "Bounds were not computed" in without.stdout


def test_prove_a_rule_of_the_users(own_rules):
    result = run("prove", "--rule", "own_rules:instance", *SMALL, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rule"] == "mine"


def test_a_biased_rule_is_exit_code_1(own_rules):
    result = run("prove", "--rule", "own_rules:Greedy", *SMALL)
    assert result.exit_code == 1
    assert "NOT lossless" in result.stdout
    labelled = run("prove", "--rule", "own_rules:Labelled", *SMALL, "--json")
    assert labelled.exit_code == 0
    found = json.loads(labelled.stdout)
    assert (found["status"], found["max_tv"] > 1e-3) == ("lossy, as labelled", True)


def test_prove_refuses_what_is_not_a_rule(own_rules):
    assert_error(run("prove", "--rule", "blok"), 2, "Did you mean 'block'")
    assert_error(run("prove", "--rule", "own_rules:number"), 2, "not a rule")
    assert_error(run("prove", "--rule", "own_rules:absent"), 2, "own_rules:absent")
    assert_error(run("prove", "--rule", "no_such_module:Rule"), 2, "no_such_module")
    assert_error(run("prove", "--rule", "block", "--vocab", "1"), 2, "vocab")
    assert_error(run("prove", "--rule", "block", "--markdown", "no/such/folder/file"), 2, "--markdown")


def test_rules_are_listed():
    result = run("rules")
    assert result.exit_code == 0
    for name in ("layer", "agree", "block", "token"):
        assert name in result.stdout


def test_version():
    assert run("--version").stdout == f"draftgraph {__version__}\n"
