"""Which backend runs the models."""

from __future__ import annotations

import pytest

import draftgraph as dg
from models import tiny_lm


def test_a_backend_that_nobody_knows_is_refused() -> None:
    with pytest.raises(dg.DraftgraphError, match=r"backend='cudagraph' .*'auto', 'torch', 'openvino' or 'cuda_graphs'"):
        dg.Engine.from_pretrained(tiny_lm(), backend="cudagraph")


def test_graphs_need_a_gpu() -> None:
    with pytest.raises(dg.DraftgraphError, match=r"is on 'cpu'; write device='cuda', or backend='torch'"):
        dg.Engine.from_pretrained(tiny_lm(), backend="cuda_graphs")


def test_torch_can_be_asked_for() -> None:
    target = tiny_lm()
    engine = dg.Engine.from_pretrained(target, draft_model=target, backend="torch")
    assert engine.target.name == "torch"
    assert engine.drafter.model is not None
    assert engine.drafter.model.name == "torch"
