"""Checkpoints that do not fit: one line of ours, and no page of transformers'."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from draftgraph.backends.load import load_model
from draftgraph.errors import ModelError


def test_a_folder_without_a_head_is_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, is_decoder=True
    )
    BertModel(config).save_pretrained(tmp_path)
    logger = logging.getLogger("transformers.modeling_utils")
    caplog.set_level(logging.WARNING, logger.name)  # whatever commands that ran before have set
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(ModelError, match=r"lacks weights \(cls.predictions.bias.*they would be random"):
            load_model(tmp_path, None, "cpu")
        assert not [record for record in caplog.records if "REPORT" in record.getMessage()]
        logger.warning("another line")
        assert [record.getMessage() for record in caplog.records][-1] == "another line"
    finally:
        logger.removeHandler(caplog.handler)
