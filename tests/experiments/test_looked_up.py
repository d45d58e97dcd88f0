"""Looked-up drafts beside those of others: ratios of one turn, and files that others read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from experiments.peer_files import for_llama

from draftgraph.backends.load import load_model
from draftgraph.lab.turns import Answer, Timed, Turn
from experiments import looked_up
from models import byte_tokenizer, tiny_lm


def test_ratios_are_those_of_the_same_turn() -> None:
    def timed(seconds: float, ids: list[int]) -> Timed:
        return Timed(0, seconds, seconds, Answer(ids, 2, 4))

    def turn(prompt: int, plain: float, ours: float, other: float) -> Turn:
        named = {looked_up.PLAIN: plain, looked_up.US: ours, "other": other}
        return Turn(prompt, 0, {name: timed(s, [1, 2 + (name == "other" and prompt)]) for name, s in named.items()}, {})

    turns = [turn(0, 4.0, 2.0, 3.0), turn(1, 4.0, 1.0, 3.0)]
    found = {(row.kind, row.name): row for row in looked_up.rows(["summary", "edit"], [*turns[0].timed], turns)}
    assert found["all", "other"].over_us[0] == pytest.approx(2.25)
    assert found["all", "other"].over_plain == pytest.approx((0.75, 0.75, 0.75))
    assert found["edit", looked_up.PLAIN].over_us == pytest.approx((4.0, 4.0, 4.0))
    assert (found["all", "other"].same, found["summary", "other"].same) == (1, 1)
    assert found["all", looked_up.US].ms == pytest.approx(750.0)


def test_a_file_for_llama_cpp_is_the_same_model(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    model, tokenizer = tiny_lm(vocab=256), byte_tokenizer(vocab=256)
    tokenizer.add_special_tokens({"eos_token": "Ā"})
    with torch.inference_mode():
        for_llama(model, tokenizer, tmp_path / "q8_0.gguf")
        read = load_model(tmp_path / "q8_0.gguf", None, "cpu")
        ids = torch.tensor([[1, 5, 9, 200]])
        apart = (read(ids).logits - model(ids).logits).abs().max() / model(ids).logits.abs().max()
    assert 0.0 < apart < 0.05
