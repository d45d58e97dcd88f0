"""The figures of a pair."""

from __future__ import annotations

import pytest
from transformers import LlamaForCausalLM

from draftgraph.lab.train.corpus import Text
from draftgraph.lab.train.grow import model_config
from draftgraph.lab.train.measure import measure_pair
from tiny import TINY


def test_a_model_agrees_with_itself(text: Text) -> None:
    model = LlamaForCausalLM(model_config(TINY, 1)).eval()
    report = measure_pair(model, model, text.held_out, 2.0)
    assert report.greedy_agreement == 1.0
    assert report.overlap == pytest.approx(1.0)
    assert report.target_bits_per_byte == pytest.approx(report.target_nats_per_token / 2.0 / 0.6931472)
