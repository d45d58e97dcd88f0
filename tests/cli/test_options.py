"""What is made of the texts of options."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.cli.options import Chosen, Drafting, as_budget, as_prediction, sources, unescaped
from draftgraph.data import bundled_pair
from draftgraph.errors import OptionError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"\n", "\n"), (r"\n\n", "\n\n"), (r"a\tb\r", "a\tb\r"), (r"\\n", r"\n"), (r"\\\n", "\\\n"), (r"\d+\.", r"\d+\."),
        ("\\", "\\"), (r"\x41\u00e9\U0001F600", "Aé😀"), (r"\x4", r"\x4"), (r"\U00110000", r"\U00110000"), ("\n", "\n"),
    ],
    ids=ascii,
)  # fmt: skip
def test_escapes_stand_for_characters(written, meant):
    assert unescaped(written) == meant


@given(st.text())
def test_any_text_can_be_written(text):
    assert unescaped(text.replace("\\", "\\\\")) == text


@pytest.mark.parametrize(
    ("text", "meant"),
    [("8", 8), ("-3", -3), ("auto", "auto"), ("--5", "--5"), ("1.5", "1.5"), ("9" * 5000, "9" * 5000)],
)
def test_a_budget_is_a_number_if_it_is_one(text, meant):
    assert as_budget(text) == meant


def test_a_prediction_is_a_text_or_a_file(tmp_path: Path):
    assert as_prediction(None) is None
    assert as_prediction("as it is") == "as it is"
    assert as_prediction("@@home") == "@home"
    (tmp_path / "text").write_text("from a file\n", encoding="utf-8-sig")
    assert as_prediction(f"@{tmp_path / 'text'}") == "from a file\n"
    (tmp_path / "wide").write_bytes("wide".encode("utf-16"))
    for name, cause in (("absent", "No such file"), ("wide", "UTF-16"), (".", "a folder")):
        with pytest.raises(OptionError, match=cause):
            as_prediction(f"@{tmp_path / name}")


def test_models_are_arguments_or_options():
    assert sources("a", "b") == sources(None, None, "a", "b") == sources("a", None, None, "b") == ("a", "b")
    assert sources(None, None) == bundled_pair()
    assert Chosen(bundled_pair(), None, None, None, False).title == "the bundled pair"
    assert Chosen(("a", "b"), None, None, None, False).named == ["a", "b"]
    with pytest.raises(OptionError, match="given twice"):
        sources("a", None, "b")
    with pytest.raises(OptionError, match="needs the target"):
        sources(None, "b")


def test_only_what_was_written_counts():
    assert Drafting().written == {}
    assert Drafting(budget="4", prediction="x").written == {"budget": "4", "prediction": "x"}
