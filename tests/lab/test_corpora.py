"""Texts to count: folders in order, .jsonl files value by value, pieces that are the text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.errors import OptionError
from draftgraph.lab import corpora
from draftgraph.lab.corpora import files_of, pieces, texts_of


@given(st.text(alphabet="a\n é", max_size=80), st.integers(1, 9))
def test_pieces_are_the_text_and_end_where_lines_do(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "PIECE", size)
        found = list(pieces(text))
    assert "".join(found) == text
    assert all(0 < len(piece) <= size for piece in found)
    assert all(piece.endswith("\n") or len(piece) == size or "\n" not in piece for piece in found[:-1])


def test_folders_are_read_in_order_without_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b/two.txt", "a.md", ".git/config", "b/.hidden", "b/one.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("xyz", encoding="utf-8")
    found = files_of([tmp_path, tmp_path / "a.md"])
    assert [str(file.relative_to(tmp_path)) for file, _, _ in found] == ["a.md", "b/one.py", "b/two.txt"]
    assert [size for _, size, _ in found] == [3, 3, 3]
    assert [named for _, _, named in files_of([tmp_path / "a.md", tmp_path / "b"])] == [True, False, False]


def test_every_text_of_a_jsonl_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"q": "one", "n": 3, "turns": ["two", {"c": "three"}]}\n\n"four"\n[5]\n', encoding="utf-8")
    assert list(texts_of(file)) == ["one", "two", "three", "four"]
    (tmp_path / "a.txt").write_text("{}\n", encoding="utf-8")
    assert list(texts_of(tmp_path / "a.txt")) == ["{}\n"]


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    broken, latin = tmp_path / "broken.jsonl", tmp_path / "latin.txt"
    broken.write_text('{"a": "b"}\n{"a": \n', encoding="utf-8")
    latin.write_bytes(b"caf\xe9")
    with pytest.raises(OptionError, match=r"broken\.jsonl', line 2"):
        list(texts_of(broken))
    with pytest.raises(OptionError, match="not UTF-8"):
        list(texts_of(latin))
    with pytest.raises(OptionError, match="there is no"):
        files_of([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="hold no files"):
        files_of([tmp_path / "empty"])
