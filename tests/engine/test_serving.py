"""How many requests at once, and how much they may cache: few options, each with a default that is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import draftgraph as dg
from converted import lm
from draftgraph.engine.serving import SHARE_OF_FREE, cell_bytes, free_memory
from draftgraph.errors import OptionError
from ids import told
from models import perturbed, tiny_lm
from recurrent import recurrent


def test_options_come_by_name_or_as_an_object() -> None:
    named = dg.Engine.from_pretrained(tiny_lm(), budget=0, max_batch=3, queue=7, memory=10**6)
    whole = dg.Engine.from_pretrained(tiny_lm(), budget=0, serving=dg.Serving(5, 10**6, 7), max_batch=3)
    assert named.serving == whole.serving == dg.Serving(3, 10**6, 7)
    assert dg.Engine.from_pretrained(tiny_lm(), budget=0).serving == dg.Serving()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"max_batch": 0}, "max_batch=0 is not possible; write an integer >= 1"),
        ({"queue": -1}, "queue=-1 is not possible; write an integer >= 0"),
        ({"memory": 0}, "memory=0 is not possible; write a number of bytes, or 'auto'"),
        ({"memory": "2 GB"}, "memory='2 GB' is not possible"),
        ({"serving": 5}, "serving=5 is not possible; write a dg.Serving"),
        ({"max_bach": 5}, "unknown option 'max_bach'"),
    ],
    ids=told,
)
def test_wrong_values_are_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        dg.Engine.from_pretrained(tiny_lm(), budget=0, **asked)


@pytest.mark.parametrize("kind", ["torch", "openvino", "bfloat16"])
def test_bytes_of_a_cell_are_those_of_keys_and_values(kind: str) -> None:
    model = lm() if kind == "openvino" else tiny_lm()  # 2 layers, 2 heads of 8 numbers, keys and values
    dtype = torch.bfloat16 if kind == "bfloat16" else None
    options: dict[str, Any] = {"backend": "openvino" if kind == "openvino" else "torch", "budget": 0}
    engine = dg.Engine.from_pretrained(model if dtype is None else model.to(dtype), **options)
    assert cell_bytes(engine.target, engine.drafter) == 2 * 2 * 2 * 8 * (2 if dtype else 4)
    engine.generate([5], max_new_tokens=1)
    assert cell_bytes(engine.target, engine.drafter) == 2 * 2 * 2 * 8 * (2 if dtype else 4)


def test_a_drafter_counts_as_well_and_the_default_is_half_of_what_is_free() -> None:
    target = tiny_lm()
    pair = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05), budget=0)
    assert cell_bytes(pair.target, pair.drafter) == 512
    free = free_memory(torch.device("cpu"))
    assert free > 10**6
    assert pair.load.cells_limit == pytest.approx(SHARE_OF_FREE * free / 512, rel=0.5)
    assert dg.Engine.from_pretrained(target, budget=0, memory=25600).load.cells_limit == 100


def test_recurrent_models_have_a_limit_too() -> None:
    assert dg.Engine.from_pretrained(recurrent("mamba"), budget=0).load.cells_limit > 1000
