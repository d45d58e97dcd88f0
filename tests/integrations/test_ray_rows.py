"""Offline jobs without a cluster: what a replica makes of rows, and what a job keeps when it is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.errors import OptionError
from draftgraph.integrations.ray import job
from draftgraph.integrations.ray.job import Journal, generate_rows
from draftgraph.integrations.ray.rows import NUMBER, Generate, seed_of

TARGET, DRAFTER = map(str, bundled_pair())
ENGINE = {"budget": 6, "backend": "torch"}
ROWS = [{"prompt": f"def f{number}(", "id": number} for number in range(7)]
MAKING: dict[str, Any] = {
    "target": TARGET, "draft_model": DRAFTER, "engine": ENGINE, "params": {"max_new_tokens": 6, "temperature": 1.0},
    "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def replica() -> Generate:
    return Generate(**MAKING)


def column(*values: Any) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def test_a_row_has_the_text_of_its_own_request(replica: Generate) -> None:
    found = replica({NUMBER: np.array([4, 9]), "prompt": column("def f(", "import ")})
    for row, (number, prompt) in enumerate([(4, "def f("), (9, "import ")]):
        alone = replica.engine.generate(prompt, max_new_tokens=6, temperature=1.0, seed=seed_of(3, number))
        assert found["text"][row] == alone.text
        assert found["token_ids"][row].tolist() == alone.token_ids
        assert found["seed"][row] == alone.seed
        assert found["lossless"][row] is True


def test_a_batch_without_rows_has_all_columns(replica: Generate) -> None:
    found = replica({NUMBER: np.arange(0), "prompt": column()})
    assert all(len(found[name]) == 0 for name in ("text", "token_ids", "error"))


@pytest.mark.parametrize(
    "options", [{"seed": "a"}, {"seed": None}, {"engine": {"draft_model": DRAFTER}}, {"engine": {"target": TARGET}}]
)
def test_options_of_a_replica_that_are_not_possible_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(dg.DraftgraphError, match=next(iter(options))):
        Generate(**(MAKING | options))


def test_a_row_that_fails_says_so_and_the_others_go_on(replica: Generate) -> None:
    found = replica({NUMBER: np.arange(3), "prompt": column("def f(", "", np.array([1, 2]))})
    assert found["error"][1].startswith("PromptError: the prompt is empty")
    assert (found["text"][1], found["finish_reason"][1]) == ("", "")
    assert found["error"][0] == found["error"][2] == ""
    assert len(found["token_ids"][2]) == 6


@pytest.mark.parametrize(
    ("changed", "batch", "complaint"),
    [
        ({}, {NUMBER: np.arange(1), "text": column("x")}, "no column 'prompt'"),
        ({}, {"prompt": column("x")}, "need a column 'number'"),
        ({"params": {"seed": 1}}, {}, "that of all rows"),
    ],
    ids=["no prompt", "no number", "one seed"],
)
def test_what_cannot_be_is_refused(
    replica: Generate, changed: dict[str, Any], batch: dict[str, np.ndarray], complaint: str
) -> None:
    with pytest.raises(dg.DraftgraphError, match=complaint):
        (Generate(**(MAKING | changed)) if changed else replica)(batch)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_new_token": 5}, "Did you mean 'max_new_tokens'"),
        ([1], r"params=\[1\] is not possible"),
        ({"num_beams": 3}, "num_beams"),
    ],
)
def test_params_that_are_not_possible_are_refused_before_models_are_read(params: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Generate("nowhere", params=params)


# A job, with the replica in this process.


@pytest.fixture
def local(replica: Generate, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches come from one replica here, the last ones first. What is yielded: the numbers that were decoded."""
    decoded: list[int] = []

    def batches(missing: list[Any], making: Any, *sizes: Any) -> Iterator[list[dict[str, Any]]]:
        for row in reversed(missing):
            found = replica({NUMBER: np.array([row[NUMBER]]), "prompt": column(row["prompt"])})
            decoded.append(row[NUMBER])
            yield [{name: job._plain(found[name][0]) for name in found if name != "prompt"}]

    monkeypatch.setattr(job, "_batches", batches)
    return decoded


def test_a_job_that_is_killed_goes_on_and_no_row_is_done_twice(local: list[int], tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        assert total == len(ROWS)
        if done in (2, 5):
            raise Killed

    out = tmp_path / "out.jsonl"
    for _ in range(2):
        with pytest.raises(Killed):
            generate_rows(ROWS, out, progress=kill, **MAKING)
        assert not out.exists()
    assert generate_rows(ROWS, out, **MAKING) == out
    assert sorted(local) == [row["id"] for row in ROWS]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in written] == [row["id"] for row in ROWS]
    whole = tmp_path / "whole.jsonl"
    assert generate_rows(ROWS, whole, **MAKING).read_text() == out.read_text()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out.jsonl", "whole.jsonl"]


def test_another_job_in_the_same_place_is_refused(local: list[int], tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_rows(ROWS, tmp_path / "out", progress=stop, **MAKING)
    for changed in ({"seed": 4}, {"params": {"max_new_tokens": 7}}):
        with pytest.raises(dg.DraftgraphError, match="another job"):
            generate_rows(ROWS, tmp_path / "out", **(MAKING | changed))
    with pytest.raises(dg.DraftgraphError, match="another job"):
        generate_rows(ROWS[1:], tmp_path / "out", **MAKING)


@pytest.mark.parametrize("options", [{"replicas": 0}, {"batch_size": 0}, {"column": "text"}, {"engine": {"x": {1}}}])
def test_options_that_are_not_possible_are_refused_before_a_file_is_made(
    options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(dg.DraftgraphError):
        generate_rows(ROWS, tmp_path / "out", **(MAKING | options))
    assert not list(tmp_path.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.lists(st.text(), max_size=3), max_size=3), st.integers(0, 400))
def test_a_journal_survives_a_kill_at_any_byte(tmp_path: Path, batches: list[list[str]], cut: int) -> None:
    file = tmp_path / "rows"
    file.unlink(missing_ok=True)
    journal, number, ends = Journal(file, "job"), 0, []
    assert journal.read() == {}
    for texts in batches:
        journal.add([{NUMBER: number + i, "text": text} for i, text in enumerate(texts)])
        number += len(texts)
    content = file.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")][1:]
    file.write_bytes(content[:cut])
    read = Journal(file, "job").read()
    assert sorted(read) == list(range(sum(end <= cut for end in ends)))
    Journal(file, "job").add([{NUMBER: 99, "text": "after"}])
    assert Journal(file, "job").read()[99]["text"] == "after"
