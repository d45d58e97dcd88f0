"""Folders of models that read more than text are used for text, and that is said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    PreTrainedModel,
)

import draftgraph as dg
from models import perturbed, plain, reshape, tiny_lm

PROMPT, TOKENS = [5, 9, 5], 30


def seeing() -> PreTrainedModel:
    """A Llava: a Llama that also reads pictures."""
    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    eyes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**eyes, patch_size=4, projection_dim=16),
        text_config=LlamaConfig(**text, eos_token_id=None, bos_token_id=None),
        image_token_index=63,
    )
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config).eval()
    reshape(model, 1.5, 3.0)
    return model


def test_a_folder_of_a_model_that_sees_is_used_for_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = seeing()
    model.save_pretrained(tmp_path / "target")
    perturbed(model, 0.05).save_pretrained(tmp_path / "drafter")
    with caplog.at_level(logging.WARNING):
        engine = dg.Engine.from_pretrained(
            tmp_path / "target", draft_model=tmp_path / "drafter", budget=8, generation_config=GenerationConfig()
        )
    said = [message for message in caplog.messages if "more than text" in message]
    assert said == [
        f"{tmp_path / name} is a model of more than text (llava); draftgraph reads and writes text alone"
        for name in ("target", "drafter")
    ]
    result = engine.generate(PROMPT, max_new_tokens=TOKENS)
    assert result.token_ids == plain(model, PROMPT, TOKENS)
    assert result.stats.num_accepted_tokens > 0


def test_nothing_is_said_of_models_of_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_lm().save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        dg.Engine.from_pretrained(tmp_path, backend="torch")
    assert not caplog.messages


def test_folders_without_a_language_model_are_refused(tmp_path: Path) -> None:
    CLIPVisionConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(dg.errors.ModelError, match="cannot load a causal language model"):
        dg.Engine.from_pretrained(tmp_path)
