"""Embeddings and head of a target on disk: the very weights of the loaded model, without the layers between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.backends import ends
from draftgraph.backends.end_weights import read_ends
from draftgraph.backends.ends import ends_of
from draftgraph.backends.load import load_model
from feature_drafters import write_drafter
from gguf_files import write_gguf
from models import byte_tokenizer, tiny_lm


def saved(folder: Path, kind: str) -> Path:
    """A model on disk, whose embeddings and head lie there as `kind` says."""
    if kind.startswith("gguf"):
        return write_gguf(tiny_lm(vocab=300), folder / "tiny.gguf", packed=kind == "gguf, packed")
    family = kind if kind in ("gpt2", "gemma3_text", "opt") else "llama"
    tied = {"tie_word_embeddings": True, "num_key_value_heads": 2} if kind == "tied" else {}
    model = tiny_lm(family, **tied)
    if kind == "bfloat16":
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if kind == "parts" else {}))
    return folder


@pytest.mark.parametrize(
    ("kind", "lean"),
    [
        ("plain", True), ("tied", True), ("parts", True), ("bfloat16", True), ("gguf", True), ("gguf, packed", True),
        ("gpt2", True), ("opt", True),
        ("gemma3_text", False),  # its embeddings are scaled
    ],
)  # fmt: skip
def test_they_are_those_of_the_loaded_model(
    kind: str, lean: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.startswith("gguf"):
        pytest.importorskip("gguf")
    source = saved(tmp_path, kind)
    loaded: PreTrainedModel = load_model(source, torch.float32, "cpu")
    if lean:
        monkeypatch.setattr(ends, "_model_of", lambda source: pytest.fail("the whole model was loaded"))
    found = ends_of(source)
    tokens = torch.arange(loaded.config.vocab_size)
    assert torch.equal(found.get_input_embeddings()(tokens), loaded.get_input_embeddings()(tokens))
    rows = torch.randn(3, loaded.config.hidden_size, generator=torch.Generator().manual_seed(0))
    head = loaded.get_output_embeddings()
    assert isinstance(head, nn.Module)
    assert torch.equal(found.get_output_embeddings()(rows), head(rows))
    assert (found.embeddings.weight is found.head.weight) == (loaded.get_input_embeddings().weight is head.weight)
    assert found.dtype == torch.float32


def renamed(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): weight for name, weight in weights.items()}, folder / "model.safetensors")


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:900])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def tied_in_words(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 1.0}, file, {"format": "pt"})
    said = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(said))


@pytest.mark.parametrize("spoil", [renamed, cut, pickled, tied_in_words])
def test_what_lies_there_otherwise_is_left_to_whoever_loads_the_model(spoil: Any, tmp_path: Path) -> None:
    tiny_lm().save_pretrained(tmp_path)
    assert read_ends(tmp_path) is not None
    spoil(tmp_path)
    assert read_ends(tmp_path) is None


def test_a_drafter_beside_openvino_loads_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    over, asked = tiny_lm(layers=4, vocab=300), {"max_new_tokens": 20, "temperature": 0.0}
    over.save_pretrained(tmp_path / "target")
    byte_tokenizer().save_pretrained(tmp_path / "target")
    write_drafter(tmp_path / "drafter", over)
    monkeypatch.setattr(ends, "_model_of", lambda source: pytest.fail("the whole model was loaded"))
    drafted = dg.Engine.from_pretrained(
        tmp_path / "target", draft_model=tmp_path / "drafter", backend="openvino", budget=5
    )
    plain = dg.Engine.from_pretrained(tmp_path / "target", backend="openvino", budget=0)
    result = drafted.generate([5, 6, 7], **asked)
    assert result.token_ids == plain.generate([5, 6, 7], **asked).token_ids
    assert result.stats.num_drafter_passes > 0
