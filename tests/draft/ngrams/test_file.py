"""Tables on disk: what is read is what was written; everything else is refused by name, and a full disk takes nothing."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from draftgraph.backends.fingerprint import tokenizer_fingerprint
from draftgraph.draft.ngrams import file as files
from draftgraph.draft.ngrams.counts import Counter, Counts
from draftgraph.draft.ngrams.file import read_table, write_table
from draftgraph.errors import TableError
from models import byte_tokenizer


def counted() -> Counts:
    counter = Counter(9)
    counter.add([1, 2, 3, 1, 2, 4, 8])
    counter.add([2, 3])
    return counter.counts()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "a.table"
    write_table(file, counted(), "mine")
    return file


def rewritten(file: Path, said: dict[str, Any] | None = None, **arrays: Any) -> None:
    """Write the same file with other metadata or arrays, and a digest that fits, as one who means harm would."""
    content = file.read_bytes()
    metadata = files._metadata(content) | (said or {})
    held = dict(safetensors.numpy.load(content)) | {name.replace("_", "."): value for name, value in arrays.items()}
    if "digest" not in (said or {}):
        metadata["digest"] = files._digest({k: v for k, v in metadata.items() if k != "digest"}, held)
    file.write_bytes(safetensors.numpy.save(held, metadata))


def test_what_is_read_is_what_was_written(table: Path) -> None:
    stored, counts = read_table(table), counted()
    assert (stored.tokenizer, stored.counts.vocab, stored.counts.num_tokens) == ("mine", 9, 9)
    for length in (1, 2):
        ours, theirs = counts.behind(length), stored.counts.behind(length)
        for name in files.DTYPES:
            assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()


def test_the_same_counts_have_the_same_digest(table: Path, tmp_path: Path) -> None:
    assert write_table(tmp_path / "b.table", counted(), "mine").digest == read_table(table).digest
    assert write_table(tmp_path / "c.table", counted(), "yours").digest != read_table(table).digest


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda f: f.write_bytes(b""), "truncated"),
    "a text": (lambda f: f.write_bytes(b"to be or not to be, that is the question"), "no table"),
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-8]), "damaged"),
    "its first half": (lambda f: f.write_bytes(f.read_bytes()[:200]), "truncated"),
    "other weights": (lambda f: f.write_bytes(safetensors.numpy.save({"w": np.zeros(3)})), "another kind"),
    "a newer version": (lambda f: rewritten(f, {"version": "2"}), "version '2'.*reads version 1"),
    "one changed count": (
        lambda f: rewritten(f, {"digest": files._metadata(f.read_bytes())["digest"]}, single_counts=np.full(6, 7)),
        "digest",
    ),
    "a missing array": (lambda f: rewritten(f, more=np.zeros(1)), "more"),
    "a token beyond": (lambda f: rewritten(f, {"vocab": "5"}), "contradict"),
    "no vocabulary": (lambda f: rewritten(f, {"vocab": "none"}), "damaged"),
    "a vocabulary of nothing": (lambda f: rewritten(f, {"vocab": "0"}), "vocabulary of 0"),
    "starts beyond": (lambda f: rewritten(f, single_starts=np.array([0, 1, 2, 3, 99])), "contradict"),
    "starts of another type": (lambda f: rewritten(f, single_starts=np.zeros(5, dtype=np.int32)), "contradict"),
    "keys that fall": (lambda f: rewritten(f, single_keys=np.array([4, 3, 2, 1])), "contradict"),
    "no successors": (lambda f: rewritten(f, single_starts=np.zeros(5, dtype=np.int64)), "contradict"),
    "counts of nothing": (lambda f: rewritten(f, single_counts=np.zeros(6, dtype=np.int64)), "contradict"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_refused_by_name(name: str, table: Path) -> None:
    spoil, why = BROKEN[name]
    spoil(table)
    with pytest.raises(TableError, match=why) as error:
        read_table(table)
    assert str(table) in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unseen(table: Path, place: int, bit: int) -> None:
    content = bytearray(table.read_bytes())
    content[place % len(content)] ^= 1 << bit
    other = table.with_name("flipped")
    other.write_bytes(content)
    try:
        found = read_table(other)
    except TableError:
        return
    assert found.digest == read_table(table).digest  # a space of the header, which says nothing


@pytest.mark.parametrize(("name", "why"), [("absent", "No such file"), (".", "a folder")])
def test_what_is_no_file_is_refused(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=why):
        read_table(tmp_path / name)


def test_a_full_disk_says_so_and_leaves_the_older_file(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = table.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("draftgraph.files.os.fsync", full)
    with pytest.raises(TableError, match=r"No space left.*what was there before is whole"):
        write_table(table, Counter(4).counts(), "other")
    assert table.read_bytes() == before
    assert [each.name for each in table.parent.iterdir()] == [table.name]


def test_tables_of_other_tokenizers_and_of_larger_vocabularies_are_refused(tmp_path: Path) -> None:
    ours, theirs = byte_tokenizer(), byte_tokenizer(("word",), vocab=300)
    stored = write_table(tmp_path / "a", counted(), tokenizer_fingerprint(ours))
    stored.refuse_foreign(256, ours)
    stored.refuse_foreign(9, None)
    with pytest.raises(TableError, match="another tokenizer"):
        stored.refuse_foreign(300, theirs)
    with pytest.raises(TableError, match="token id 8, and the target has 8"):
        stored.refuse_foreign(8, None)


def test_the_header_is_the_one_that_is_documented(table: Path) -> None:
    content = table.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert set(header["__metadata__"]) == {"format", "version", "vocab", "tokenizer", "num_tokens", "digest"}
    for name in header["__metadata__"]:
        assert name in str(files.__doc__)
