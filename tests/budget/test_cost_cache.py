"""The cost cache among hostile files and in containers: measured again and said, or kept in the process and said once."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from cost_tables import costs
from draftgraph.budget import cost_cache
from draftgraph.budget.cost_cache import costs_of, folder
from draftgraph.budget.costs import Costs
from draftgraph.files import BrokenFileError
from hostile import SNIPPETS, places, planted, spoiled

CPU = torch.device("cpu")
TABLE = json.loads(json.dumps(costs().to_dict()))


def measured() -> Costs:
    return costs(note="")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cost_cache, "_UNSAVED", {})
    monkeypatch.setattr(cost_cache, "_TOLD", set())
    monkeypatch.setattr(cost_cache, "_MEASURED", set())
    monkeypatch.setenv(cost_cache.FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(cache: Path) -> Path:
    costs_of(["a pair"], CPU, measured)
    [path] = cache.iterdir()
    return path


WRITTEN = {"version": cost_cache.VERSION, "machine": cost_cache.machine(CPU), "costs": TABLE}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(spoiled(WRITTEN))
def test_a_spoiled_table_is_measured_again_or_still_a_table(file: Path, content: bytes):
    file.write_bytes(content)
    found = costs_of(["a pair"], CPU, measured)
    assert found.note.startswith(("read from", "measured again: "))
    assert found.round(4, [1.0, 2.0]) > 0.0
    assert isinstance(found.busy, bool)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_no_value_at_any_place_of_a_table_raises_anything_else(snippet: str):
    for place in places(TABLE):
        try:
            table = Costs.from_dict(cost_cache.parse(planted(TABLE, place, snippet)), "made up")
        except BrokenFileError:
            continue
        assert table.round(4, [1.0, 2.0]) >= 0.0
        assert isinstance(table.at(0.0).busy, bool)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (Path.mkdir, "a folder"),
        (os.mkfifo, "a pipe"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.write_bytes(b" " * (cost_cache.MOST_BYTES + 1)), "at most"),
    ],
    ids=["folder", "pipe", "loop", "device", "large"],
)
def test_what_is_no_file_is_measured_again(file: Path, make: Callable[[Path], None], cause: str):
    file.unlink()
    make(file)
    note = costs_of(["a pair"], CPU, measured).note
    assert note.startswith("measured again: the cache cannot be read")
    assert cause in note


def test_a_full_disk_is_no_error_and_said_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(*anything: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with caplog.at_level(logging.WARNING):
        for pair in ("one", "another", "one"):
            assert "No space left on device" in costs_of([pair], CPU, measured).note
    assert [record.getMessage() for record in caplog.records if record.name != cost_cache.NOTES] == [
        f"the costs cannot be kept: {str(cache)!r} cannot be written (No space left on device); "
        "they are measured again in every process"
    ]
    assert list(cache.iterdir()) == []


def test_no_home_is_no_error_and_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    for name in (cost_cache.FOLDER, "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert folder() is None
    times = []
    for _ in range(2):
        found = costs_of(["a pair"], CPU, lambda: times.append(1) or measured())
        assert "no home folder; set DRAFTGRAPH_CACHE" in found.note
    assert len(times) == 1
    assert [record.name for record in caplog.records] == [cost_cache.NOTES, cost_cache.__name__]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DRAFTGRAPH_CACHE": "~/own"}, "/home/someone/own"),
        ({"DRAFTGRAPH_CACHE": "~"}, "/home/someone"),
        ({"DRAFTGRAPH_CACHE": "~no-such-user/own"}, None),
        ({"DRAFTGRAPH_CACHE": ""}, "/home/someone/.cache/draftgraph"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/someone/.cache/draftgraph"),
        ({"XDG_CACHE_HOME": "/elsewhere"}, "/elsewhere/draftgraph"),
        ({"XDG_CACHE_HOME": ""}, "/home/someone/.cache/draftgraph"),
    ],
)
def test_where_the_folder_is(variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.platform", "linux")
    for name in (cost_cache.FOLDER, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/someone"} | variables).items():
        monkeypatch.setenv(name, value)
    assert folder() == (None if expected is None else Path(expected))


NOBODY = """
import pwd
def nobody(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")
pwd.getpwuid = pwd.getpwnam = nobody
import draftgraph as dg
from draftgraph.budget import cost_cache
from models import tiny_lm
assert cost_cache.folder() is None
engine = dg.Engine.from_pretrained(tiny_lm())
assert len(engine.generate([1, 2, 3], dg.SamplingParams(max_new_tokens=4)).token_ids) == 4
assert "no home folder" in engine.costs.note
"""


def test_a_process_without_variables_and_user_entry_generates():
    """As in a container that runs under a number."""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", NOBODY], env={"PYTHONPATH": path}, capture_output=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().count("cannot be kept") == 1
