"""draftgraph generate with a grammar: from a file, or as an expression."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from draftgraph.cli import app

pytest.importorskip("llguidance")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def run(*arguments: str) -> tuple[int, str, str]:
    plain = ("generate", "Once", "--backend", "torch", "--max-new-tokens", "40", "--seed", "1", "--json")
    result = CliRunner().invoke(app, [*plain, *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = {"schema": json.dumps(SCHEMA), "lark": 'start: "so" "!" ~ 2', "broken": "{"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return {name: str(tmp_path / name) for name in texts}


def test_the_text_follows_the_file_or_the_expression(files: dict[str, str]) -> None:
    cases = (["--json-schema", files["schema"]], ["--grammar", files["lark"]], ["--regex", "(ab|ba){2}"])
    texts = []
    for arguments in cases:
        code, shown, _ = run(*arguments)
        result = json.loads(shown)
        assert (code, result["finish_reason"]) == (0, "stop")
        texts.append(result["text"])
    assert isinstance(json.loads(texts[0])["a"], int)
    assert texts[1] == "so!!"
    assert texts[2] in {"abab", "abba", "baab", "baba"}


def test_what_is_no_grammar_is_misuse(files: dict[str, str], tmp_path: Path) -> None:
    cases = {
        ("--json-schema", str(tmp_path / "absent")): "--json-schema cannot read",
        ("--json-schema", files["broken"]): "the schema is no JSON",
        ("--grammar", str(tmp_path)): "it is a folder, not a file",
        ("--grammar", files["broken"]): "the Lark grammar cannot be followed",
        ("--regex", "("): "the regular expression cannot be followed",
        ("--regex", "a", "--grammar", files["lark"]): "--regex and --grammar are two grammars",
    }
    for arguments, message in cases.items():
        code, shown, said = run(*arguments)
        assert (code, shown) == (2, "")
        assert message in said
