"""A session on a tiny random pair: who takes part, what is compared, and what is left if it ends early."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import draftgraph as dg
from draftgraph.errors import ModelError, OptionError
from draftgraph.lab.bench.contenders import AGAIN, PLAIN, Ours, Task, Transformers, endless
from draftgraph.lab.bench.encode import Prompt
from draftgraph.lab.bench.field import line_up, parse_spec
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.record import refuse_unwritable, to_json
from draftgraph.lab.bench.session import Measured, Settings, measure
from draftgraph.lab.turns import Answer
from models import plain, tiny_lm
from pairs import save_pair

TOKENS = 8
PROMPTS = [Prompt(f"p{i}", "t", 1, [60 + i, 61, 62]) for i in range(2)]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    return Models.load(*save_pair(tmp_path_factory.mktemp("pair")))


def settings(*specs: str, temperatures=(0.0,), repeats: int = 1) -> Settings:
    return Settings(TOKENS, temperatures, repeats, 0, [parse_spec(spec) for spec in specs], (2, 4))


class Planted:
    """A peer whose contenders are given."""

    def __init__(self, *makers) -> None:
        self.makers = makers

    def contenders(self, task):
        return [make(task) for make in self.makers]


class Wrong(Ours):
    """An engine that gets its third token wrong."""

    def answer(self, prompt, seed):
        answer = super().answer(prompt, seed)
        return Answer([*answer.ids[:2], (answer.ids[2] + 1) % 256, *answer.ids[3:]], answer.rounds, answer.nodes)


class Failing:
    name = "failing"

    def __init__(self, error: BaseException, after: int = 0, name: str = "failing") -> None:
        self.error, self.left, self.name = error, after, name

    def answer(self, prompt, seed):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return Answer([1] * TOKENS, TOKENS, 0)


def test_everybody_does_the_same_work(models):
    done = Measured()
    heard: list[tuple[int, int]] = []
    asked = settings("structure=chain,budget=4,rule=block", "drafter=lookup", temperatures=(0.5, 1.0), repeats=2)
    measure(models, PROMPTS, asked, [], done, lambda now, total: heard.append((now, total)))
    assert done.complete
    assert done.ran == [
        PLAIN, AGAIN, "transformers assisted (as shipped)", "transformers assisted (constant 2)",
        "transformers assisted (constant 4)", "transformers prompt lookup (10)", "draftgraph plain", "draftgraph",
        "draftgraph structure=chain,budget=4,rule=block", "draftgraph drafter=lookup",
    ]  # fmt: skip
    assert len(done.runs) == 2 * 2 * 2 * len(done.ran)
    assert {run.tokens for run in done.runs} == {TOKENS}
    assert {run.same for run in done.runs} == {None}
    assert heard == [(i, len(heard)) for i in range(1, len(heard) + 1)]
    assert (done.differences, done.absent, done.wrong(True)) == ([], [], [])


def test_greedy_texts_are_those_of_the_target(models):
    done = Measured()
    measure(models, PROMPTS, settings("structure=tree,budget=6", "branching=2x2x1"), [], done)
    assert all(run.same for run in done.runs)
    assert done.wrong(True) == []


def test_a_mistake_of_ours_is_seen_and_told_from_one_of_others(models):
    def theirs(task):
        wrong = Wrong("theirs", models, task)
        return type("Theirs", (), {"name": "theirs", "answer": lambda self, prompt, seed: wrong.answer(prompt, seed)})()

    done = Measured()
    peer = Planted(lambda task: Wrong("planted", models, task), theirs)
    measure(models, PROMPTS, settings(repeats=2), [peer], done)
    assert [(one.contender, one.prompt, one.ours) for one in done.differences] == [
        ("planted", 0, True), ("theirs", 0, False), ("planted", 1, True), ("theirs", 1, False),
    ]  # fmt: skip
    for one in done.differences:
        expected = plain(models.target, PROMPTS[one.prompt].ids, TOKENS)
        found = one.departure
        assert (found.position, found.expected, found.got) == (2, expected[2], (expected[2] + 1) % 256)
        assert found.gap > 0
        assert not found.near_tie
    assert done.wrong(True) == ["planted: 2 greedy texts are not those of the target, beyond near ties"]
    assert done.wrong(False) == []
    assert not any(run.same for run in done.runs if run.contender in ("planted", "theirs"))


def test_who_fails_is_named_and_the_rest_is_measured(models):
    class Broken(Ours):
        def answer(self, prompt, seed):
            raise RuntimeError("no such kernel\nmore")

    done = Measured()
    peer = Planted(
        lambda task: Failing(ValueError("out of memory"), 2),
        lambda task: Broken("broken", models, task),
        lambda task: type("Mute", (), {"name": "mute", "answer": lambda self, prompt, seed: Answer([], 1, 0)})(),
    )
    measure(models, PROMPTS, settings(), [peer], done)
    said = {one.name: one.reason for one in done.absent}
    assert said["failing"] == "failed at temperature 0: ValueError: out of memory"
    assert said["broken"] == "failed at temperature 0: RuntimeError: no such kernel"
    assert said["mute"].startswith("generated nothing for p")
    assert done.wrong(True) == ["broken failed at temperature 0: RuntimeError: no such kernel"]
    assert sum(run.contender == "failing" for run in done.runs) == 1
    assert sum(run.contender == "draftgraph" for run in done.runs) == 2


def test_without_the_measure_of_all_there_is_no_session(models):
    done = Measured()
    peer = Planted(lambda task: Failing(RuntimeError("gone"), 2, PLAIN))
    with pytest.raises(ModelError, match=r"transformers plain fails, .*RuntimeError: gone"):
        measure(models, PROMPTS, settings(), [peer], done)


def test_ctrl_c_leaves_whole_turns(models):
    done = Measured()
    with pytest.raises(KeyboardInterrupt):
        measure(models, PROMPTS, settings(), [Planted(lambda task: Failing(KeyboardInterrupt(), 2))], done)
    assert not done.complete
    assert {run.prompt for run in done.runs} == {0}
    assert len(done.runs) == len(done.ran)


def test_a_target_alone_is_measured_by_lookup(models, tmp_path):
    alone = Models.load(models.source, None)
    done = Measured()
    measure(alone, PROMPTS, settings(), [], done)
    assert [one.name for one in done.absent] == ["transformers assisted"]
    assert all(run.same for run in done.runs)
    assert "transformers prompt lookup (10)" in done.ran


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("budget", "write --ours structure=chain"),
        ("budgt=4", "Did you mean 'budget'"),
        ("rule=blok", "Did you mean 'block'"),
        ("budget=many", "an integer >= 0"),
        ("branching=3,2", "write --ours"),
        ("branching=3-2", "write branching=3x2x1"),
        ("rule=block,structure=graph", "structure="),
    ],
)
def test_specs_that_are_none(spec, words):
    with pytest.raises(OptionError) as caught:
        parse_spec(spec)
    assert words in str(caught.value)


def test_specs_become_options():
    assert parse_spec("structure=tree, branching=3x2x1").options == {"structure": dg.structures.Tree((3, 2, 1))}
    assert parse_spec("read_ahead=4").options == {"structure": dg.structures.Graph(read_ahead=4)}
    assert parse_spec("budget=auto,num_speculative_tokens=4").options == {"budget": "auto", "num_speculative_tokens": 4}


def test_a_spec_whose_rule_cannot_run_at_a_temperature_is_refused(models):
    with pytest.raises(OptionError, match="temperature 0"):
        measure(models, PROMPTS, settings("rule=multipath,structure=paths"), [], Measured())


def test_what_a_checkpoint_says_of_sampling_reaches_nobody():
    """Penalties of a generation_config.json would otherwise bend transformers' texts and not ours."""
    model = tiny_lm(eos=3)
    expected = plain(model, [5, 6, 7], TOKENS, eos_token_id=None)
    model.generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=1, num_assistant_tokens=7)
    task = type("Task", (), {"temperature": 0.0, "tokens": TOKENS})()
    assert Transformers("x", endless(model), task).answer([5, 6, 7], 0).ids == expected
    assert endless(model).generation_config.num_assistant_tokens == 7
    assert model.generation_config.repetition_penalty == 5.0


def test_line_up_of_sampled_turns_shares_the_weights(models):
    task, specs = type("Task", (), {"temperature": 1.0, "tokens": 4})(), [parse_spec("backend=torch,budget=2")]
    contenders, absent = line_up(models, task, specs, [], (2,))
    assert absent == []
    assert next(contenders[0].target.parameters()) is next(models.target.parameters())
    assert contenders[-1].engine.target.model is models.target


def test_folders_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    refuse_unwritable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="cannot write into"):
        refuse_unwritable(tmp_path / "file")

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OptionError, match="No space left"):
        refuse_unwritable(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_json_has_a_run_per_line():
    said = {"version": 1, "runs": [[1, "a"], [2, "b"]]}
    text = to_json(said)
    assert json.loads(text) == said
    assert '[1, "a"],\n[2, "b"]' in text
    assert json.loads(to_json({"version": 1, "runs": []}))["runs"] == []


def test_draftgraph_is_measured_on_the_backend_and_weights_that_were_asked_for(models):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    chosen = replace(models, weights="int8")
    task = Task(0.0, TOKENS)
    quantised, stored = Ours("quantised", chosen, task), Ours("stored", chosen, task, weights=None, backend="torch")
    assert "int8" in quantised.engine.target.fingerprint
    assert stored.engine.target.name == "torch"
    assert (quantised.lossless, stored.lossless) == (False, True)  # the one has another model's text
    assert parse_spec("weights=int8,budget=2").options == {"weights": "int8", "budget": 2}
    assert parse_spec("draft_weights=int8").options == {"draft_weights": "int8"}
    with pytest.raises(OptionError, match="weights='int7' is not possible"):
        parse_spec("weights=int7")
    with pytest.raises(OptionError, match="backend='fast' is not possible"):
        Models.load(models.source, None, backend="fast")
