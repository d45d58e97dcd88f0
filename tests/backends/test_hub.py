"""Names of models: found here, or on the hub, which is asked once and briefly, or refused in one sentence."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

from draftgraph.backends import hub
from draftgraph.backends.hub import Place, kept, locate
from draftgraph.errors import ModelError


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The hub is not switched off, its cache is empty, and nobody remembers earlier answers."""
    for name in hub._OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: None)
    monkeypatch.setattr(hub, "_ASKED", {})
    monkeypatch.setattr(hub, "BELIEVED_SECONDS", math.inf)
    hub._ask.cache_clear()
    yield
    hub._ask.cache_clear()


class Hub:
    """Answers as it was told, and counts."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, 0

    def __call__(self, url: str, timeout: float) -> None:
        self.asked += 1
        assert timeout <= 10.0
        if self.error is not None:
            raise self.error


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], Hub]:
    def make(error: Exception | None) -> Hub:
        monkeypatch.setattr(hub, "get_hf_file_metadata", made := Hub(error))
        return made

    return make


def test_a_folder_is_here_and_nobody_is_asked(tmp_path: Path, answer):
    asked = answer(None)
    assert locate(tmp_path) == locate(str(tmp_path)) == Place(str(tmp_path), local=True)
    assert asked.asked == 0


def test_a_name_is_asked_for_once(answer):
    asked = answer(None)
    assert {locate("some/model") for _ in range(4)} == {Place("some/model", local=False)}
    assert asked.asked == 1


def test_an_answer_is_believed_from_when_it_came(answer, monkeypatch: pytest.MonkeyPatch):
    now = [59.9]
    monkeypatch.setattr(hub, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(hub, "BELIEVED_SECONDS", 60.0)
    asked = answer(None)
    for seconds, times in ((0.0, 1), (0.2, 1), (59.7, 1), (0.2, 2), (59.0, 2)):
        now[0] += seconds
        locate("some/model")
        assert asked.asked == times, now


def said(kind: type[Exception]) -> Exception:
    """An error of the hub's, without the response that it wants."""
    error = kind.__new__(kind)
    error.args = ("404",)
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (said(RepositoryNotFoundError), "the hub knows no such model"),
        (said(GatedRepoError), "ask for access"),
        (said(EntryNotFoundError), "no config.json"),
        (OSError("Name or service not known"), "the hub cannot be reached (OSError: Name or service not known)"),
        (ValueError(""), "the hub cannot be reached (ValueError: no message)"),
    ],
)
def test_what_the_hub_says_is_said(error: Exception, words: str, answer):
    asked = answer(error)
    for _ in range(3):
        with pytest.raises(ModelError) as caught:
            locate("some/model")
        assert words in str(caught.value)
        assert "cannot load 'some/model': there is no such folder here" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert asked.asked == 1


def test_what_was_downloaded_before_needs_no_hub(answer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: f"/cache/{name}/{file}")
    answer(OSError("no route"))
    assert locate("some/model") == Place("some/model", local=True)
    answer(said(RepositoryNotFoundError))
    hub._ask.cache_clear()
    with pytest.raises(ModelError, match="knows no such model"):
        locate("some/model")


@pytest.mark.parametrize("variable", hub._OFFLINE)
def test_a_hub_that_is_switched_off_is_not_asked(variable: str, answer, monkeypatch: pytest.MonkeyPatch):
    asked = answer(None)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ModelError, match="switched off"):
        locate("some/model")
    assert asked.asked == 0


@pytest.mark.parametrize(
    "name", ["./absent", "/absent", "a/b/c", "", "n" * 5000, "zero\0byte", "caf\udce9", "-x", "a b"]
)
def test_what_cannot_be_a_name_is_not_asked_for(name: str, answer):
    asked = answer(None)
    with pytest.raises(ModelError, match="cannot be a hub name"):
        locate(name)
    assert asked.asked == 0


def test_what_is_no_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path / "file", tmp_path / "loop", Path("/dev/null")):
        with pytest.raises(ModelError, match="it is no folder"):
            locate(place)
    for other in (None, 3, ["a"]):
        with pytest.raises(ModelError, match="not "):
            locate(other)  # type: ignore[arg-type]


def test_a_hub_that_cannot_be_reached_takes_no_time(monkeypatch: pytest.MonkeyPatch):
    """The real client, behind a proxy where nobody listens; on its own it would wait and try for half a minute."""
    slept, here, sleep = list[float](), threading.get_ident(), time.sleep

    def watched(seconds: float) -> None:
        slept.append(seconds) if threading.get_ident() == here else sleep(seconds)

    monkeypatch.setattr(time, "sleep", watched)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(ModelError, match="cannot be reached"):
            locate("some/model")
    assert slept == []


def test_files_of_a_model_are_found(tmp_path: Path):
    (tmp_path / "config.json").touch()
    assert kept(str(tmp_path), "config.json") == tmp_path / "config.json"
    assert kept(str(tmp_path), "tokenizer.json") is None


def test_nobody_waits_for_a_pipe(tmp_path: Path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelError, match=r"'config.json' in it is a pipe"):
        locate(tmp_path)
