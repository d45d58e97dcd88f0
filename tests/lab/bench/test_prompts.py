"""Prompt files: every format by its fields, broken lines by their number, limits per task."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from draftgraph.errors import OptionError
from draftgraph.lab.bench.prompts import BUNDLED, Entry, limited, read_prompts, spread
from hostile import spoiled


def write(folder: Path, name: str, *lines: object) -> Path:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_conversations_by_category(tmp_path):
    """Spec-Bench and MT-bench."""
    first = {"question_id": 81, "category": "writing", "turns": ["Compose.", "Rewrite."]}
    file = read_prompts(write(tmp_path, "mt.jsonl", first, {"question_id": 9, "turns": ["Why?"], "reference": ["x"]}))
    assert file.form == "conversations"
    assert file.entries == [
        Entry("mt:81", "writing", ("Compose.", "Rewrite."), True),
        Entry("mt:9", "mt", ("Why?",), True),
    ]


def test_human_eval(tmp_path):
    file = read_prompts(
        write(tmp_path, "he.jsonl", {"task_id": "HumanEval/69", "prompt": "def f():\n", "entry_point": "f"})
    )
    assert file.form == "HumanEval"
    assert file.entries == [Entry("HumanEval/69", "HumanEval", ("def f():\n",), False)]


def test_beginnings_keep_their_white_space(tmp_path):
    rows = {"text": "  a\n\n", "name": "one"}, {"prompt": "b", "category": "c"}, {"text": "d"}
    file = read_prompts(write(tmp_path, "own.jsonl", *rows))
    assert file.form == 'beginnings in "text", beginnings in "prompt"'
    assert [entry.name for entry in file.entries] == ["own:one", "own:2", "own:3"]
    assert [entry.task for entry in file.entries] == ["own", "c", "own"]
    assert file.entries[0].turns == ("  a\n\n",)


@pytest.mark.parametrize(
    ("lines", "texts"),
    [(("one", "two"), ["one", "two"]), (("one", "still one", "", "two"), ["one\nstill one", "two"])],
)
def test_plain_text(tmp_path, lines, texts):
    file = read_prompts(write(tmp_path, "own.txt", *lines))
    assert (file.form, [entry.turns[0] for entry in file.entries]) == ("plain text", texts)
    assert [entry.name for entry in file.entries] == ["own:1", "own:2"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("lines.txt", "one\r\ntwo\r\n\r\n", ["one", "two"]),
        ("blocks.txt", "one\r\nmore\r\n\r\ntwo\n", ["one\nmore", "two\n"]),
        ("marked.txt", "\ufeffone\ntwo \u2028 and a half", ["one", "two \u2028 and a half"]),
        ("rows.jsonl", '\ufeff{"text": "one"}\n\n{"text": "t w o", "n": 1}\n', ["one", "t w o"]),
        ("talks.jsonl", '{"turns": ["Why?", "And then?"]}', ["Why?\n\nAnd then?"]),
        ("list.json", '[{"text": "one"},\n {"turns": ["two"]},\n "three"]', ["one", "two", "three"]),
        ("one.json", '{\n "prompt": "one"\n}', ["one"]),
        ("list.txt", '["one",\n "two"]', ["one", "two"]),
        ("brackets.txt", "[one]\n[two]", ["[one]", "[two]"]),
    ],
)
def test_texts_of_every_format(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content.encode())
    file = read_prompts(tmp_path / name)
    assert (file.texts, list(file.broken)) == (expected, [])


def test_json_lines_are_recognised_whatever_the_file_is_called(tmp_path):
    assert read_prompts(write(tmp_path, "own.txt", {"text": "a"}, {"text": "b"})).form == 'beginnings in "text"'
    assert read_prompts(write(tmp_path, "braces.txt", "{ is a brace", "and } another")).form == "plain text"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "cut', "not JSON"),
        ('["text"]', "not a JSON object"),
        ('{"txt": "a"}', 'none of the fields "turns", "prompt" and "text"'),
        ('{"text": 3}', '"text" is no text'),
        ('{"prompt": "  "}', '"prompt" is no text'),
        ('{"turns": []}', '"turns" is no list of texts'),
        ('{"turns": ["a", 1]}', '"turns" is no list of texts'),
        ('{"text": "\\ud800"}', "a text holds half of a surrogate pair"),
        (b'{"text": "\xff"}', "it is not UTF-8"),
        ('{"text": "a", "text": "b"}', "the key 'text' is there twice"),
        ('{"text": "a", "n": NaN}', "NaN is not a number"),
        ('{"text": "a", "n": 1e999}', "1e999 is beyond a double"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_a_broken_line_is_named_and_the_rest_is_read(tmp_path, line, reason):
    path = tmp_path / "own.jsonl"
    raw = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"text": "a"}\n\n' + raw + b'\r\n{"text": "b"}')
    file = read_prompts(path)
    assert [entry.turns[0] for entry in file.entries] == ["a", "b"]
    (broken,) = file.broken
    assert str(broken).startswith(f"{path}:3: {reason}")


def test_files_without_prompts_are_refused(tmp_path):
    with pytest.raises(OptionError, match="No such file"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(OptionError, match="cannot read prompts"):
        read_prompts(tmp_path)
    with pytest.raises(OptionError, match="is empty"):
        read_prompts(write(tmp_path, "empty.jsonl", "", "  "))
    with pytest.raises(OptionError, match=r"no line .* is a prompt \(.*broken\.jsonl:1: not JSON"):
        read_prompts(write(tmp_path, "broken.jsonl", "a", "b"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(OptionError, match="UTF-8"):
        read_prompts(tmp_path / "latin.txt")
    for name, content, cause in (
        ("cut.json", b'[{"text": "a"}', "not JSON"),
        ("number.json", b"3", "not a list of prompts"),
        ("none.json", b"[]", "no line"),
        ("binary.txt", b"a\0b", "zero bytes"),
        ("wide.txt", "a".encode("utf-16"), "UTF-16"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OptionError, match=cause):
            read_prompts(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(OptionError, match="a pipe"):
        read_prompts(tmp_path / "pipe.txt")


ROWS = [{"question_id": 1, "category": "qa", "turns": ["a", "b"]}, {"prompt": "c", "task_id": "T/1"}, {"text": "d"}]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(content=spoiled(ROWS), name=st.sampled_from(["own.json", "own.jsonl", "own.txt"]))
def test_a_spoiled_file_is_read_in_part_or_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with contextlib.suppress(OptionError):
        assert all(text.strip() and text.encode() for text in read_prompts(tmp_path / name).texts)


def test_the_bundled_prompts_are_short_and_many():
    file = read_prompts(BUNDLED)
    assert 12 <= len(file.entries) <= 16
    assert not file.broken
    assert len({entry.name for entry in file.entries}) == len(file.entries)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 12))
def test_a_limit_holds_per_task_and_keeps_the_order(tasks, limit):
    entries = [Entry(str(i), task, ("x",), False) for i, task in enumerate(tasks)]
    kept = limited(entries, limit)
    assert [int(entry.name) for entry in kept] == sorted(int(entry.name) for entry in kept)
    for task in set(tasks):
        assert sum(entry.task == task for entry in kept) == min(limit, tasks.count(task))
    assert limited(entries, None) == entries


@given(st.integers(0, 50), st.integers(1, 50))
def test_spread_takes_different_items_from_end_to_end(length, count):
    kept = spread(range(length), count)
    assert len(set(kept)) == len(kept) == min(length, count)
    assert kept[:1] == [0][:length]
