"""Growing adds layers and changes nothing else."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from draftgraph.lab.train.errors import PairTrainingError
from draftgraph.lab.train.grow import grow, model_config
from tiny import TINY


def test_growing_leaves_the_function_unchanged() -> None:
    torch.manual_seed(0)
    small = LlamaForCausalLM(model_config(TINY, 1))
    deeper = grow(small, TINY, 4)
    ids = torch.randint(TINY.vocab, (2, 20))
    assert deeper.config.num_hidden_layers == 4
    torch.testing.assert_close(deeper(ids).logits, small(ids).logits, rtol=0.0, atol=1e-5)


def test_growing_never_removes_layers() -> None:
    with pytest.raises(PairTrainingError, match="ask for 3 or more"):
        grow(LlamaForCausalLM(model_config(TINY, 3)), TINY, 1)
