"""Files of unknown origin: read whole or refused with the cause, written whole or not at all; strict JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.files import BrokenFileError, decode, read_bytes, read_text, write_whole
from draftgraph.strictjson import build, parse
from hostile import SNIPPETS, spoiled


def make_pipe(place: Path) -> None:
    os.mkfifo(place)


def make_link_to_itself(place: Path) -> None:
    place.symlink_to(place)


def make_large(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (Path.mkdir, "a folder"),
        (make_pipe, "a pipe"),
        (make_link_to_itself, "symbolic links"),
        (make_large, "at most"),
        (lambda place: place.symlink_to("/dev/zero"), "a device"),
        (lambda place: place.symlink_to("/dev/absent"), "No such file"),
    ],
    ids=["folder", "pipe", "loop", "large", "device", "dangling"],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], cause: str):
    make(tmp_path / "a")
    with pytest.raises(OSError) as caught:
        read_bytes(tmp_path / "a")
    assert cause in str(caught.value.strerror)


@pytest.mark.parametrize("name", ["zero\0byte", "n" * 5000])
def test_names_that_cannot_be_are_refused(tmp_path: Path, name: str):
    with pytest.raises(OSError):
        read_bytes(tmp_path / name)
    with pytest.raises(OSError):
        write_whole(tmp_path / name, "text")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path):
    (tmp_path / "a").touch(mode=0o000)
    with pytest.raises(PermissionError):
        read_bytes(tmp_path / "a")


def test_text_loses_its_byte_order_mark_and_other_encodings_are_named(tmp_path: Path):
    (tmp_path / "a").write_text("caf\u00e9", encoding="utf-8-sig")
    assert read_text(tmp_path / "a") == "caf\u00e9"
    for encoding, cause in (("utf-16", "UTF-16"), ("latin-1", "not UTF-8")):
        with pytest.raises(BrokenFileError, match=cause):
            decode("caf\u00e9".encode(encoding))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_whole(tmp_path / "a", "first \udcff")
    assert (tmp_path / "a").read_bytes() == b"first \\udcff"

    def full(*anything: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in ("os.fsync", "pathlib.Path.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(step, full)
            with pytest.raises(OSError, match="No space"):
                write_whole(tmp_path / "a", "second")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"first \\udcff"


def test_nothing_but_files_is_replaced(tmp_path: Path):
    make_pipe(tmp_path / "pipe")
    make_link_to_itself(tmp_path / "loop")
    for place in (tmp_path, tmp_path / "pipe", tmp_path / "loop", Path("/dev/null")):
        with pytest.raises(OSError):
            write_whole(place, "text")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "not JSON"), ("{", "not JSON"), ("[1,]", "not JSON"), ("NaN", "not a number"), ("-Infinity", "not a number"),
        ("1e999", "beyond a double"), ("1" + "0" * 400, "401 digits"), ("9" * 5000, "5000 digits"),
        ("[" * 100_000, "too deeply"), ('{"a": 1, "b": 2, "a": 3}', "'a' is there twice"), ('["\\udead"]', "surrogate"),
        ('{"\\ud800": 1}', "surrogate"), ("\x00", "not JSON"), ('"\x1b"', "not JSON"),
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused_with_the_cause(text: str, cause: str):
    with pytest.raises(BrokenFileError, match=cause):
        parse(text)


def test_whole_pairs_of_surrogates_and_everything_usual_are_read():
    assert parse('["\\ud83d\\ude00", "\\u001b", 1, -2.5e-3, true, null, {"": []}]') == [
        "\U0001f600", "\x1b", 1, -2.5e-3, True, None, {"": []},
    ]  # fmt: skip


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_what_was_written_is_read(value: Any):
    assert parse(json.dumps(value)) == value


@dataclass(frozen=True)
class Inner:
    count: int
    share: float


@dataclass(frozen=True)
class Outer:
    """One field of every kind that is read somewhere."""

    name: str
    flag: bool
    inner: Inner
    many: list[Inner]
    pair: tuple[float, float]
    row: tuple[int, ...]
    words: dict[int, str]
    perhaps: Inner | None
    later: str = "default"


INNER = {"count": 1, "share": 0.5}
OUTER = {
    "name": "n", "flag": True, "inner": INNER, "many": [INNER, INNER], "pair": [1, 2.5], "row": [1, 2, 3], "words": {"7": "w"},
    "perhaps": None,
}  # fmt: skip


def test_values_become_what_was_declared():
    one = Inner(1, 0.5)
    whole = build(Outer, OUTER, "it")
    assert whole == Outer("n", True, one, [one, one], (1.0, 2.5), (1, 2, 3), {7: "w"}, None)
    assert type(whole.pair[0]) is float


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"name": 1}, "it: name is '1', not str"),
        ({"flag": 1}, "it: flag is '1', not bool"),
        ({"inner": [1]}, "it: inner is a list, not an object"),
        ({"inner": {"count": True, "share": 0}}, "count is 'True'"),
        ({"inner": {"count": 1}}, "'share'"),
        ({"many": {"0": INNER}}, "it: many is an object"),
        ({"pair": [1]}, "1 entries, not 2"),
        ({"row": [1, 2.0]}, "row, number 1 is '2.0'"),
        ({"words": {"\u0663": "w"}}, "not a whole number"),
        ({"words": {"1": "w", "01": "w"}}, "key twice"),
        ({"surprise": 1}, "'surprise'"),
    ],
)
def test_values_of_another_kind_are_refused_with_their_place(change: dict[str, Any], cause: str):
    with pytest.raises(BrokenFileError) as caught:
        build(Outer, OUTER | change, "it")
    assert cause in str(caught.value)


@given(spoiled(OUTER))
def test_spoiled_files_are_read_or_refused_and_nothing_else(content: bytes):
    whole = told = None
    try:
        whole = build(Outer, parse(decode(content)), "it")
    except BrokenFileError as error:
        told = str(error)
    assert isinstance(whole, Outer) or (told and len(told) < 300), "a message is no place for a file"


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_every_hostile_value_alone_is_read_or_refused(snippet: str):
    with contextlib.suppress(BrokenFileError):
        assert json.dumps(parse(snippet), allow_nan=False).encode()
