"""Layers with arithmetic of their own: a row's result may not depend on the rows beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.backends.arithmetic import own_arithmetic, rounding, rows_alone
from draftgraph.errors import ModelError
from models import perturbed, plain, tiny_lm

PROMPT, TOKENS = [5, 9, 5], 30
CPU = torch.device("cpu")


class Own(torch.nn.Module):
    """A linear layer with a forward of its own. change  what becomes of its rows f[..., width] before they are multiplied."""

    def __init__(self, layer: torch.nn.Linear, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.in_features, self.change = layer.in_features, change
        self.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(self.change(rows), self.weight)


def in_bits(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (rows / scale * 127).round() * scale / 127


def one_scale(rows: torch.Tensor) -> torch.Tensor:
    """Eight bits, with the largest number of all rows."""
    return in_bits(rows, rows.abs().max())


def outliers(rows: torch.Tensor) -> torch.Tensor:
    """Eight bits, but for columns in which any row is large."""
    large = rows.abs().amax(dim=tuple(range(rows.ndim - 1)), keepdim=True) > 6.0
    return torch.where(large, rows, in_bits(rows, torch.where(large, 0.0, rows).abs().amax(-1, keepdim=True)))


def scale_each(rows: torch.Tensor) -> torch.Tensor:
    """Eight bits, with the largest number of the row."""
    return in_bits(rows, rows.abs().amax(-1, keepdim=True))


def with_layers(change: Callable[[torch.Tensor], torch.Tensor]) -> PreTrainedModel:
    model = copy.deepcopy(tiny_lm())
    for layer in model.model.layers:
        layer.mlp.up_proj = Own(layer.mlp.up_proj, change).eval()
        layer.self_attn.q_proj = Own(layer.self_attn.q_proj, change).eval()
    return model


@pytest.mark.parametrize("role", ["target", "drafter"])
@pytest.mark.parametrize("change", [one_scale, outliers])
def test_rows_that_depend_on_their_companions_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], role: str
) -> None:
    pair = (with_layers(change), None) if role == "target" else (tiny_lm(), with_layers(change))
    with pytest.raises(
        ModelError,
        match=r"the layer model\.layers\.0\.self_attn\.q_proj \(.*Own\) gives a row another result beside other rows.*"
        r"quantise the weights alone",
    ):
        dg.Engine.from_pretrained(pair[0], draft_model=pair[1])


def test_layers_that_round_each_row_run_and_say_so() -> None:
    model = with_layers(lambda rows: rows.bfloat16().float())
    engine = dg.Engine.from_pretrained(model, draft_model=perturbed(tiny_lm(), 0.05), budget=8)
    assert "near ties" in engine.target.numerics
    assert engine.generate(PROMPT, max_new_tokens=TOKENS).token_ids == plain(model, PROMPT, TOKENS)


def test_layers_that_round_too_much_are_named() -> None:
    model = with_layers(lambda rows: rows + (1e6 * rows).sin())
    with pytest.raises(
        ModelError, match=r"self_attn\.q_proj \(.*Own\) rounds what it reads.*quantise the weights alone"
    ):
        dg.Engine.from_pretrained(model)


@pytest.mark.parametrize(
    ("change", "rounds"),
    [(scale_each, True), (lambda rows: rows.bfloat16().float(), True), (lambda rows: 2.0 * rows, False)],
    ids=["eight bits", "bfloat16", "exact"],
)
def test_rounding_is_seen(change: Callable[[torch.Tensor], torch.Tensor], rounds: bool) -> None:
    model = with_layers(change)
    assert not rows_alone(model, torch.float32, CPU).failed
    assert (rounding(model, torch.float32, CPU) is not None) is rounds


def test_plain_models_have_no_arithmetic_of_their_own() -> None:
    assert not list(own_arithmetic(tiny_lm()))
    assert not list(own_arithmetic(tiny_lm("gpt2")))
    assert [own.path for own in own_arithmetic(with_layers(scale_each))] == ["model.layers.0.self_attn.q_proj"]


def test_layers_that_cannot_be_asked_are_refused() -> None:
    def fail(rows: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    with pytest.raises(ModelError, match=r"cannot run alone \(RuntimeError: no such kernel\)"):
        dg.Engine.from_pretrained(with_layers(fail))
