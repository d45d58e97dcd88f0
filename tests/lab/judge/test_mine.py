"""Mining against a slow restatement of it, and going on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import draftgraph as dg
from draftgraph.errors import OptionError
from draftgraph.lab.judge import mine as mining
from draftgraph.lab.judge.journal import Progress
from draftgraph.lab.judge.mine import Miner, drafter_of
from draftgraph.lab.judge.project import TARGET, MineSettings, mine
from draftgraph.lab.judge.questions import Question, find_check, last_number, read_questions
from draftgraph.lab.train.errors import TrainingError
from models import byte_tokenizer, perturbed, plain, tiny_lm

MOST, TAP, END = 12, "hidden:2", 10
QUESTIONS = [Question(tuple((13 * i + 7 * j) % 256 for j in range(3 + i % 3))) for i in range(4)]


@cache
def pair() -> tuple[Any, Any]:
    target = tiny_lm(vocab=256, eos=END)
    return target, perturbed(target, 0.15)


@cache
def engine() -> dg.Engine:
    target, drafter = pair()
    return dg.Engine.from_pretrained(
        target, draft_model=drafter, tokenizer=byte_tokenizer(), structure="chain", budget=4
    )


def same_sum(reference: str, answer: str) -> bool:
    """Right for a third of all texts, and for the text itself."""
    return sum(map(ord, reference)) % 3 == sum(map(ord, answer)) % 3


def restated(question: Question, check: Callable[[str, str], bool]) -> tuple[list[tuple[int, int, bool]], list[int]]:
    """(place, token, important) of every mismatch, and the last answer, by whole passes of transformers."""
    target, drafter = pair()
    words, prompt = byte_tokenizer(), list(question.prompt)

    def text(ids: Sequence[int]) -> str:
        return str(words.decode(list(ids), skip_special_tokens=True))

    own = answer = plain(target, prompt, MOST)
    found: list[tuple[int, int, bool]] = []
    border = 0
    while True:
        with torch.inference_mode():
            rows = drafter(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].argmax(dim=1).tolist()
        place = next((i for i in range(border, len(answer)) if rows[i] != answer[i]), None)
        if place is None:
            return found, answer
        begun = [*answer[:place], rows[place]]
        ended = rows[place] == END or len(begun) == MOST
        changed = begun if ended else begun + plain(target, prompt + begun, MOST - len(begun))
        right = check(text(own), text(changed))
        found.append((place, rows[place], not right))
        answer, border = (changed if right else answer), place + 1


def told(known: Any) -> list[tuple[int, int, bool]]:
    return [(mismatch.place, mismatch.token, mismatch.important) for mismatch in known.mismatches]


@cache
def right() -> list[tuple[list[tuple[int, int, bool]], list[int]]]:
    return [restated(question, same_sum) for question in QUESTIONS]


def miner(folder: Path, check: Callable[[str, str], bool] = same_sum, batch: int = 3) -> Miner:
    return Miner(engine(), TAP, QUESTIONS, check, folder, MOST, batch)


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    """A folder of findings, of a run that noted every event."""
    folder = tmp_path_factory.mktemp("mined")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mining, "NOTED_SECONDS", 0.0)
        return folder, miner(folder).run()


def test_mismatches_are_those_of_a_slow_restatement(mined: tuple[Path, list[Progress]]) -> None:
    _, found = mined
    assert [(told(known), known.answer) for known in found] == right()
    kinds = [important for mismatches, _ in right() for _, _, important in mismatches]
    assert 5 < sum(kinds) < len(kinds) - 5


def test_hidden_states_are_those_of_whole_passes(mined: tuple[Path, list[Progress]]) -> None:
    folder, found = mined
    for number, known in enumerate(found):
        states = safetensors.torch.load_file(folder / "states" / f"{number:06}.safetensors")
        assert states["important"].tolist() == [mismatch.important for mismatch in known.mismatches]
        for row, mismatch in enumerate(known.mismatches):
            ids = [*QUESTIONS[number].prompt, *known.answer[: mismatch.place], mismatch.token]
            with torch.inference_mode():
                own = pair()[0](torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
            torch.testing.assert_close(states["before"][row], own[-2], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(states["behind"][row], own[-1], atol=1e-4, rtol=1e-4)


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    calls = {"first": 0, "second": 0}

    def failing(reference: str, answer: str) -> bool:
        calls["first"] += 1
        if calls["first"] > 12:
            raise RuntimeError("killed")
        return same_sum(reference, answer)

    def counting(reference: str, answer: str) -> bool:
        calls["second"] += 1
        return same_sum(reference, answer)

    with pytest.raises(TrainingError, match=r"the checker failed on question \d .RuntimeError: killed."):
        miner(tmp_path, failing).run()
    journal = tmp_path / "journal.jsonl"
    with journal.open("ab") as out:
        out.write(b'{"q":2,"partial":[' + b"1," * 30000)  # what a kill leaves
    found = miner(tmp_path, counting).run()
    assert [(told(known), known.answer) for known in found] == right()
    checks = sum(1 + len(mismatches) for mismatches, _ in right())
    assert calls["second"] == checks - 12
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_an_answer_that_was_under_way_goes_on_where_it_was(
    mined: tuple[Path, list[Progress]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = mined
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    first = next(n for n, line in enumerate(lines) if "partial" in line and len(line["partial"]) > 4)
    (tmp_path / "half").mkdir()
    kept = "".join(f"{json.dumps(line)}\n" for line in lines[: first + 1])
    (tmp_path / "half" / "journal.jsonl").write_text(kept)
    asked: list[list[int]] = []
    astream = dg.Engine.astream

    def spy(self: dg.Engine, prompt: Any, **options: Any) -> Any:
        asked.append(list(prompt))
        return astream(self, prompt, **options)

    monkeypatch.setattr(dg.Engine, "astream", spy)
    found = miner(tmp_path / "half").run()
    assert [(told(known), known.answer) for known in found] == [(told(known), known.answer) for known in whole]
    assert [*QUESTIONS[lines[first]["q"]].prompt, *lines[first]["partial"]] in asked


def test_answers_that_are_wrong_from_the_start_say_nothing(tmp_path: Path) -> None:
    questions = [Question(QUESTIONS[0].prompt, "no such answer"), QUESTIONS[1]]
    settings = MineSettings("tiny", 2, "t", "d", "q", "c", MOST)
    found = mine(engine(), settings, questions, lambda reference, answer: reference == answer, tmp_path, 2)
    assert (found["questions"], found["answered_right"]) == (2, 1)
    assert (tmp_path / TARGET).exists()
    assert not (tmp_path / "states" / "000000.safetensors").exists()
    with pytest.raises(TrainingError, match="was begun with other models, questions or settings"):
        mine(engine(), MineSettings("tiny", 2, "t", "d", "q", "c", MOST + 1), questions, same_sum, tmp_path, 2)


def test_a_journal_that_was_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"q": 0, "answer": [1], "right": true}\n{"q": 99, "done": true}\n')
    with pytest.raises(TrainingError, match=r"line 2, is broken .IndexError"):
        miner(tmp_path)


def test_drafters_that_have_no_text_of_their_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="needs a model that reads text alone"):
        drafter_of(dg.Engine.from_pretrained(pair()[0], budget=4))


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [
        ("#### 1,072", "so it is 1072.", True),
        ("72", "7 and 2", False),
        ("#### 3.50", "it costs $3.5", True),
        ("-4", "the rest is -4", True),
        ("5", "no number", False),
        ("none", "none", False),
        ("12", "12 of 13", False),
    ],
)
def test_answers_are_compared_by_their_last_number(reference: str, answer: str, same: bool) -> None:
    assert last_number(reference, answer) is same


def test_checkers_are_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_check.py").write_text("number = 3\ndef check(reference, answer):\n    return True\n")
    assert find_check("own_check:check")("a", "b")
    assert find_check("last-number") is last_number
    for name, message in (
        ("first-number", "write last-number, or module:function"),
        ("own_check:other", "cannot import the checker"),
        ("absent_module:check", "cannot import the checker"),
        ("own_check:number", "is not a function but 3"),
    ):
        with pytest.raises(OptionError, match=message):
            find_check(name)


def test_questions_come_with_answers_or_without(tmp_path: Path) -> None:
    words = byte_tokenizer()
    (tmp_path / "q.jsonl").write_text('{"prompt": "ab", "answer": "3"}\n\n{"question": "c"}\n')
    (tmp_path / "q.txt").write_text("one\ntwo\n")
    found = read_questions(tmp_path / "q.jsonl", words)
    assert [(words.decode(list(question.prompt)), question.reference) for question in found] == [
        ("ab", "3"),
        ("c", None),
    ]
    assert len(read_questions(tmp_path / "q.txt", words)) == 2
    for name, content, message in (
        ("a.jsonl", '{"text": "ab"}', "holds no questions .KeyError"),
        ("b.jsonl", '{"prompt": 3}', "prompt and answer are texts"),
        ("c.jsonl", "{", "holds no questions"),
        ("d.txt", "\n", "holds no questions; give a file"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(TrainingError, match=message):
            read_questions(tmp_path / name, words)
    with pytest.raises(TrainingError, match="cannot read"):
        read_questions(tmp_path / "absent.txt", words)
