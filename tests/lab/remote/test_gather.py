"""Many requests at a time: errors, Ctrl-C, and files from which an audit goes on."""

from __future__ import annotations

import json
import threading

import pytest

from draftgraph.errors import OptionError
from draftgraph.lab.remote.answers import Answer
from draftgraph.lab.remote.client import ServerError
from draftgraph.lab.remote.gather import gather, kept_answers
from draftgraph.lab.remote.plan import Plan, Task, Way

PLAN = Plan((Way("http://a"), Way("http://a", body={"b": 0})), ("x", "y"), samples=3, tokens=2)


def answered(task: Task) -> Answer:
    return Answer(
        str(task), False, ("a", "\ud83d".encode("utf-8", "replace").decode()), (-0.5, -1.0), ((("a", -0.5),), ()), 3
    )


def test_every_task_is_answered_once_by_as_many_threads_as_asked():
    running, most = [], []
    lock, meeting = threading.Lock(), threading.Barrier(3)

    def ask(task: Task) -> Answer:
        with lock:
            running.append(task)
            most.append(len(running))
        meeting.wait(60)
        with lock:
            running.remove(task)
        return answered(task)

    told = []
    found = gather(PLAN, ask, 3, None, lambda done, total: told.append((done, total)), lambda: None)
    assert found.answers == {task: answered(task) for task in PLAN.tasks}
    assert told[-1] == (12, 12)
    assert max(most) == 3


def test_the_first_error_stops_the_others_and_nothing_is_lost(tmp_path):
    file, stopped = tmp_path / "answers", []

    def ask(task: Task) -> Answer:
        if task == PLAN.tasks[7]:
            raise ServerError("gone")
        return answered(task)

    with pytest.raises(ServerError, match="gone"):
        gather(PLAN, ask, 1, file, lambda done, total: None, lambda: stopped.append(True))
    assert stopped == [True]
    assert list(kept_answers(file, PLAN)) == PLAN.tasks[:7]
    asked = []
    found = gather(PLAN, lambda task: asked.append(task) or answered(task), 2, file, lambda *told: None, lambda: None)
    assert sorted(map(str, asked)) == sorted(map(str, PLAN.tasks[7:])), "what is there is not asked again"
    assert found.answers == {task: answered(task) for task in PLAN.tasks} == kept_answers(file, PLAN)


def test_ctrl_c_keeps_what_was_measured(tmp_path):
    stopped = []

    def told(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    found = gather(PLAN, answered, 1, tmp_path / "answers", told, lambda: stopped.append(True))
    assert found.interrupted
    assert len(found.answers) == len(kept_answers(tmp_path / "answers", PLAN)) == 5
    assert stopped == [True]


def test_a_line_that_was_not_written_to_its_end_is_asked_again(tmp_path):
    file = tmp_path / "answers"
    gather(PLAN, answered, 1, file, lambda *told: None, lambda: None)
    text = file.read_text()
    file.write_text(text[: len(text) - 20])
    assert len(kept_answers(file, PLAN)) == 11


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}\n",
        json.dumps(PLAN.to_dict() | {"seed": 1}) + "\n",
        json.dumps(PLAN.to_dict()) + '\n{"task": 1}\n{}\n',
        "\xff",
    ],
    ids=["empty", "nothing", "another seed", "no answer", "no JSON"],
)
def test_a_file_of_another_audit_is_refused(tmp_path, content):
    file = tmp_path / "answers"
    file.write_text(content)
    with pytest.raises(OptionError, match=r"--keep|another audit"):
        gather(PLAN, answered, 1, file, lambda *told: None, lambda: None)
    assert file.read_text() == content


def test_seeds_differ_between_ways_prompts_and_texts_and_repeat_with_the_plan():
    seeds = {PLAN.seed_of(task) for task in PLAN.tasks}
    assert len(seeds) == 12
    assert seeds == {PLAN.seed_of(task) for task in PLAN.tasks}
    assert {task.way for task in PLAN.tasks[:6]} == {0, 1}, "both ways are asked at all times"
