"""The benchmark counts, compares and reports correctly, on tiny random models."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bench.contenders import PLAIN, Ours, Task, Transformers, field
from bench.drafts import one_round

import draftgraph as dg
from bench import acceptance, clock, pairs, report, run
from draftgraph.request.stats import PARTS
from models import byte_tokenizer, perturbed, plain, tiny_lm

TOKENS = 8


@pytest.fixture(scope="module")
def pair() -> pairs.Pair:
    target = tiny_lm(vocab=256, eos=3)
    prompts = [pairs.Prompt(f"p{i}", "own", [5 + i, 6, 7, 8]) for i in range(2)]
    drafter = pairs.endless(perturbed(target, 0.05))
    return pairs.Pair("bundled", "tiny", pairs.endless(target), drafter, byte_tokenizer(), prompts)


@pytest.fixture(scope="module")
def finished(pair) -> run.Report:
    """A benchmark of two prompts, greedy and sampled."""
    settings = {"arguments": "--quick", "max_new_tokens": TOKENS, "repeats": 1, "tuning_prompts": 1}
    done = run.Report(settings, run.environment())
    done.enter(pair)
    for temperature in (0.0, 1.0):
        run.measure_pair(pair, Task(temperature, TOKENS), 1, done)
    return done


def test_everybody_generates_the_same_number_of_tokens(finished):
    assert {one.tokens for one in finished.runs} == {TOKENS}


def test_everybody_greedy_is_identical(finished):
    rows = [row for row in report.summarise(finished.runs) if row.temperature == 0.0]
    assert len(rows) == 14
    assert all(row.same == row.prompts == 2 for row in rows)


def test_sampled_texts_are_not_compared(finished):
    rows = [row for row in report.summarise(finished.runs) if row.temperature == 1.0]
    assert len(rows) == 15
    assert all(row.same is None for row in rows)


def test_rows_are_well_formed(finished):
    for row in report.summarise(finished.runs):
        middle, low, high = row.speedup
        assert 0 < low <= middle <= high
        assert 1.0 <= row.acceptance <= TOKENS
        assert (row.parts is None) == row.contender.startswith("transformers")
        if row.parts is not None:
            assert list(row.parts) == list(PARTS)
            assert 0 < row.outside < 1
        if row.contender in (PLAIN, "plain (budget 0)"):
            assert (row.acceptance, row.nodes) == (1.0, 0.0)


def test_a_report_is_written_with_every_run(finished, tmp_path):
    finished.skipped.append("a pair is not here")
    finished.write(tmp_path, "first")
    text = (tmp_path / "first.md").read_text()
    for row in report.summarise(finished.runs):
        assert f"| {row.contender} | {row.ms_per_token:.2f} |" in text
    assert "make bench" in text
    assert "Skipped: a pair is not here." in text
    written = json.loads((tmp_path / "first.json").read_text())
    assert len(written["runs"]) == len(finished.runs)
    assert all(len(one) == len(written["run_fields"]) for one in written["runs"])
    assert (tmp_path / "first.png").is_file() == (importlib.util.find_spec("matplotlib") is not None)


def test_speed_up_is_paired_within_a_turn():
    def one(contender: str, prompt: str, seconds: float) -> clock.Run:
        return clock.Run("bundled", 0.0, contender, prompt, 0, 0, seconds, 10, 5, 5, True, None)

    # The machine is ten times slower during the second turn; that must not show.
    runs = [one(PLAIN, "a", 1.0), one("x", "a", 0.5), one(PLAIN, "b", 10.0), one("x", "b", 5.0)]
    x = report.summarise(runs)[1]
    assert x.speedup == (2.0, 2.0, 2.0)
    assert x.ms_per_token == pytest.approx(statistics.median([50.0, 500.0]))


def test_orders_rotate_and_turn_around(pair):
    names = [one.name for one in field(pair, Task(0.0, TOKENS), [])]
    orders = [[one.name for one in clock.order(field(pair, Task(0.0, TOKENS), []), turn)] for turn in range(3)]
    assert orders[0] == names
    assert orders[1] == names[::-1]
    assert orders[2] == [*names[1:], names[0]]


def test_transformers_is_counted_like_we_count(pair):
    """A greedy chain of four emits the same in both, so rounds and nodes agree."""
    constant = {"num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.0}
    assistant = pairs.endless(pair.drafter, num_assistant_tokens=4, **constant)
    theirs = Transformers("theirs", pair.target, Task(0.0, 32), assistant)
    ours = Ours("ours", pair, Task(0.0, 32), structure="chain", budget=4, num_speculative_tokens=4)
    for prompt in pair.prompts:
        a, b = theirs.answer(prompt.ids, 0), ours.answer(prompt.ids, 0)
        assert a.ids == b.ids == plain(pair.target, prompt.ids, 32)
        assert (a.rounds, a.nodes) == (b.rounds, b.nodes)


def test_endless_shares_the_weights_and_leaves_the_model_alone():
    model = tiny_lm(eos=3)
    other = pairs.endless(model, num_assistant_tokens=5)
    assert next(other.parameters()) is next(model.parameters())
    assert (model.generation_config.eos_token_id, other.generation_config.eos_token_id) == (3, None)
    assert other.generation_config.num_assistant_tokens == 5


def test_a_missing_pair_is_reported_by_name(tmp_path):
    with pytest.raises(pairs.MissingPairError, match="story pair"):
        pairs.load_pair("story", tmp_path, 2)


def test_the_prompts_are_short_and_many(pair):
    prompts = pairs.python_prompts(pair.tokenizer)
    assert 12 <= len(prompts) <= 16
    assert len({prompt.name for prompt in prompts}) == len(prompts)


def test_what_was_changed_can_be_typed_again():
    assert run.changed(run.parse([])) == ""
    typed = ["--pair", "story", "--temperature", "0", "1", "--out", "elsewhere"]
    assert run.changed(run.parse(typed)) == "--pair story --temperature 0 1"


@pytest.mark.parametrize("rule", ["block", "token", "layer", "agree"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_expected_length_of_a_round_lies_within_its_draft(pair, rule, temperature):
    engine = dg.Engine.from_pretrained(
        pair.target, draft_model=pair.drafter, structure="chain", budget=3, num_speculative_tokens=3, rule=rule
    )
    one = one_round(engine, [5, 6, 7, 8], temperature, 1)
    assert 1.0 <= one.length <= 1.0 + one.nodes
    assert (one.nodes, one.passes) == (3, 3)
    assert engine.target.cache.high == 0, "the round leaves slots behind"


def test_a_perfect_drafter_is_expected_to_be_accepted_whole(pair):
    for rule in ("block", "token", "layer"):
        engine = dg.Engine.from_pretrained(
            pair.target, draft_model=pair.target, structure="chain", budget=3, num_speculative_tokens=3, rule=rule
        )
        assert one_round(engine, [5, 6, 7, 8], 1.0, 1).length == pytest.approx(4.0, abs=1e-3)


def test_expected_and_generated_lengths_tell_the_same(pair):
    """At temperature 0 the expected length of a round is what its verdict accepts."""
    engine = dg.Engine.from_pretrained(pair.target, draft_model=pair.drafter, structure="tree", budget=6)
    result = engine.generate([5, 6, 7, 8], dg.SamplingParams(max_new_tokens=64, ignore_eos=True))
    assert one_round(engine, [5, 6, 7, 8], 0.0, 1).length == pytest.approx(1 + len(result.rounds[0].path))


def test_acceptance_rows_and_report(pair):
    texts = [torch.arange(5 + i, 125 + i).tolist() for i in range(2)]
    rows = [
        acceptance.measure((pair.target, pair.drafter), setup, part, texts, temperature)
        for temperature in (1.0, 0.0)
        for setup in list(acceptance.setups(temperature, (8,)))[::4]
        for part in ("cuts",)
    ]
    engine = dg.Engine.from_pretrained(pair.target, draft_model=pair.drafter, structure="tree", budget=8)
    rows.append(acceptance.over_texts(engine, "tree 8, layer", texts, 1.0, new_tokens=TOKENS))
    assert all(row.stories == 2 and row.length >= 1.0 for row in rows)
    text = acceptance.markdown({"environment": run.environment()}, rows)
    assert "| chain 4, block |" in text
    assert "## Whole generations" in text


def test_a_benchmark_started_by_its_path_finds_its_modules(tmp_path):
    """`make bench` starts it so; without test material it says what is missing."""
    script = Path(acceptance.__file__)
    done = subprocess.run(
        [sys.executable, script, "--data", tmp_path, "--out", tmp_path], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(dg.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "nothing to measure: the story pair (stories260K and its 124k drafter) is not in the data folder"
    )
