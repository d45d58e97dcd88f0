"""Tokenizers are those that transformers chooses by the model's own configuration, which is not read for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from draftgraph.backends.hub import locate
from draftgraph.backends.load import read_tokenizer
from draftgraph.backends.tokenizer_choice import chosen_by
from models import byte_tokenizer

TEXT = "Ten  cats' mats, é 2026"


def write(folder: Path, model: object, **tokenizer: object) -> Path:
    """A folder with a config.json, and a tokenizer that says more than it usually does; None takes a word away."""
    byte_tokenizer().save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text(encoding="utf-8")) | tokenizer
    file.write_text(json.dumps({name: value for name, value in said.items() if value is not None}), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(model), encoding="utf-8")
    return folder


def outcome(read: object, folder: Path) -> object:
    """The class of the tokenizer and what it makes of a text, or the kind of error."""
    try:
        tokenizer = read(str(folder))  # type: ignore[operator]
    except Exception as error:
        return type(error.__cause__ or error)
    return type(tokenizer), tokenizer(TEXT)["input_ids"], tokenizer.name_or_path


@pytest.mark.parametrize(
    "named", ["TokenizersBackend", "PreTrainedTokenizerFast", "LlamaTokenizer", "GPT2TokenizerFast", "Nobody"]
)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "mistral", "phi3", "deepseek_v3"])
def test_the_choice_is_that_of_transformers(kind: str, named: str, tmp_path: Path) -> None:
    folder = write(tmp_path, {"model_type": kind}, tokenizer_class=named)
    assert (kind == "mistral") == (chosen_by(locate(folder)) == {})
    assert outcome(read_tokenizer, folder) == outcome(AutoTokenizer.from_pretrained, folder)


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [
        pytest.param({"model_type": "llama"}, {"tokenizer_class": None}, id="no class is named"),
        pytest.param({"model_type": "llama"}, {"tokenizer_class": 5}, id="the class is a number"),
        pytest.param(
            {"model_type": "llama"}, {"auto_map": {"AutoTokenizer": ["a.B", None]}}, id="code of the tokenizer"
        ),
        pytest.param({"model_type": "llama", "auto_map": {"AutoConfig": "a.B"}}, {}, id="code of the model"),
        pytest.param({"model_type": "nobody's"}, {}, id="a model type that nobody knows"),
        pytest.param({"model_type": 5}, {}, id="a model type that is none"),
        pytest.param({}, {}, id="no model type"),
        pytest.param([], {}, id="a configuration that is no object"),
    ],
)
def test_what_is_not_certain_is_left_to_transformers(
    model: object, tokenizer: dict[str, object], tmp_path: Path
) -> None:
    assert chosen_by(locate(write(tmp_path, model, **tokenizer))) == {}


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe", b"[" * 100_000], ids=["absent", "cut", "no text", "deep"])
def test_files_that_are_missing_or_broken_are_left_to_transformers(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    folder = write(tmp_path, {"model_type": "llama"})
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    assert chosen_by(locate(folder)) == {}
