"""Prompts from files and folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.features import prompts
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.project import Project, Settings
from draftgraph.lab.train.features.prompts import PASSAGE, prompts_from


class Letters:
    """A tokenizer whose tokens are characters."""

    chat_template = None

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


def texts(*sources: Path, seed: int = 0) -> list[str]:
    return ["".join(map(chr, ids)) for ids in prompts_from(sources, Letters(), seed)]


def test_lines_and_objects_are_prompts_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\none\n")
    lines = [{"prompt": "three"}, {"turns": ["four", "five"]}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = texts(tmp_path / "a.txt", tmp_path / "b.jsonl")
    assert sorted(found) == ["four", "one", "three", "two"]
    assert found == texts(tmp_path / "a.txt", tmp_path / "b.jsonl")


def test_something_is_asked_of_the_passages_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "LONGEST", 2000)  # characters, here
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "book.txt").write_text("\n\n".join(f"Paragraph {i}. {'word ' * 30}" for i in range(9)))
    (tmp_path / "in" / "short.md").write_text("too short")
    (tmp_path / "in" / "image.png").write_bytes(b"\xff\xff")
    found = texts(tmp_path / "in")
    assert all("Paragraph" in text and len(text) < PASSAGE + 100 for text in found)
    assert sum(text.count("Paragraph") for text in found) == 9


@pytest.mark.parametrize("content", [b"{", b'{"text": "a"}', b'{"turns": []}', b"\xff\xfe"])
def test_a_file_without_prompts_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(TrainingError, match=r"p.jsonl holds no prompts"):
        texts(tmp_path / "p.jsonl")


def test_no_prompts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("x" * 1100)
    with pytest.raises(TrainingError, match="no prompts of at most 1024 tokens"):
        texts(tmp_path / "p.txt")
    with pytest.raises(TrainingError, match="cannot read"):
        texts(tmp_path / "none.txt")


def test_of_few_prompts_with_many_answers_some_are_held_out(tmp_path: Path) -> None:
    answers = [Answer(np.array([number, 1, 2], dtype=np.int32), 1, 0.0) for number in range(40) for _ in range(25)]
    held = Project(tmp_path / "drafter", Settings()).held_out(answers)
    assert 4 <= len(held) <= 20
