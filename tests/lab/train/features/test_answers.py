"""Answers on disk, and what is held out."""

from __future__ import annotations

import errno
import gzip
from pathlib import Path

import numpy as np
import pytest

from draftgraph.lab.train import whole_files
from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.features.answers import Answer, frequent_tokens, read_answers, split, write_answers


def answer(prompt: list[int], tokens: list[int], temperature: float = 0.0) -> Answer:
    return Answer(np.array([*prompt, *tokens], dtype=np.int32), len(prompt), temperature)


def test_what_is_written_is_read_file_behind_file(tmp_path: Path) -> None:
    written = [answer([1, 2], [3]), answer([4], [5, 6, 7], 0.6)]
    for number, each in enumerate(written):
        write_answers(tmp_path / f"{number}.jsonl.gz", [each])
    joined = tmp_path / "joined.jsonl.gz"
    joined.write_bytes(b"".join((tmp_path / f"{n}.jsonl.gz").read_bytes() for n in (0, 1)))
    for found, expected in zip(read_answers([joined]), written, strict=True):
        assert found.ids.tolist() == expected.ids.tolist()
        assert (found.prompt, found.temperature) == (expected.prompt, expected.temperature)


BROKEN = {
    "no gzip": b"not gzip",
    "an empty answer": gzip.compress(b"{}\n"),
    "a list": gzip.compress(b"[1]\n"),
    "cut off": gzip.compress(b'{"p":[1],"a":[2],"t":0}\n' * 99)[:-9],
    "no token id": gzip.compress(b'{"p":[1e99],"a":[2],"t":0}\n'),
    "no UTF-8": gzip.compress(b"\xff\xfe\n"),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)  # the bytes of gzip tell the time
def test_a_file_without_answers_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl.gz"
    file.write_bytes(content)
    with pytest.raises(TrainingError, match=r"answers\.jsonl\.gz holds no answers"):
        read_answers([file])
    with pytest.raises(TrainingError, match=r"none\.gz holds no answers"):
        read_answers([tmp_path / "none.gz"])


def test_a_full_disk_says_so_and_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state"
    whole_files.write_bytes(file, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(TrainingError, match="No space left on device; what was written before is whole"):
        whole_files.write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_all_answers_to_a_prompt_are_on_one_side() -> None:
    answers = [answer([i, 2], [t], t / 10) for i in range(300) for t in range(3)]
    parts = split(answers, percent=20)
    prompts = [{int(each.ids[0]) for each in part} for part in (parts.train, parts.new_prompts)]
    assert not prompts[0] & prompts[1]
    assert 30 < len(prompts[1]) < 90
    assert not parts.new_kinds


def test_kinds_of_prompts_are_held_out_whole() -> None:
    answers = [answer([1, kind, i], [5]) for kind in range(4) for i in range(50)]
    parts = split(answers, kinds=[[1, 3], [1, 2, 7]], percent=10)
    assert {(int(a.ids[1]), int(a.ids[2])) for a in parts.new_kinds} == {(2, 7)} | {(3, i) for i in range(50)}
    assert all(a.ids[1] != 3 for a in (*parts.train, *parts.new_prompts))


def test_the_head_has_the_most_frequent_answer_tokens() -> None:
    answers = [answer([9, 9, 9], [4, 4, 5]), answer([9], [5, 4, 6], 1.0)]
    tokens, covered = frequent_tokens(answers, 10, 2)
    assert tokens == [4, 5]
    assert covered == {"greedy": 1.0, "sampled": pytest.approx(2 / 3)}
