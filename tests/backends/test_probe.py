"""The probe is as bad as use: what goes wrong in any round goes wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from draftgraph.backends import probe as probes
from draftgraph.backends.probe import honours_masks, probe, text_length
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import ModelError
from models import tiny_lm

Inputs = dict[str, Any]
HIDDEN = torch.finfo(torch.float32).min


def _hides_by_row(given: Inputs) -> Inputs:
    """A causal buffer: a row sees no cell above its own place among the last ones."""
    mask = given["attention_mask"]
    rows, cells = mask.shape[2:]
    above = torch.arange(cells)[None] > torch.arange(cells - rows, cells)[:, None]
    return given | {"attention_mask": mask.masked_fill(above, HIDDEN)}


def _window_that_nobody_names(given: Inputs) -> Inputs:
    """Keys more than 200 positions away are left out, in plain forwards."""
    n = given["input_ids"].shape[1]
    distance = torch.arange(n)[:, None] - torch.arange(n)[None]
    mask = torch.zeros(1, 1, n, n).masked_fill((distance < 0) | (distance > 200), HIDDEN)
    return given | {"attention_mask": mask}


def _shallow_positions(given: Inputs) -> Inputs:
    """Nodes far below the first row are taken for nearer ones."""
    positions = given["position_ids"]
    return given | {
        "position_ids": positions.clamp(max=int(positions[0, 0]) + 2) if positions.shape[1] < 8 else positions
    }


def _shows_the_first_cell(given: Inputs) -> Inputs:
    """Every row sees the first cell of the pool, whoever owns it."""
    mask = given["attention_mask"].clone()
    mask[..., 0] = 0.0
    return given | {"attention_mask": mask}


def _forgets_earlier_passes(given: Inputs) -> Inputs:
    """Rows of a draft see what their own pass has written, and the text, but no nodes of earlier passes."""
    mask = given["attention_mask"].clone()
    if mask.shape[2] == 3:
        mask[0, 0, :, -8:-3] = HIDDEN
    return given | {"attention_mask": mask}


WRONG: dict[str, tuple[Callable[[Inputs], Inputs], bool]] = {
    "a causal buffer": (_hides_by_row, True),
    "a long window": (_window_that_nobody_names, False),
    "deep nodes": (_shallow_positions, True),
    "a cell of others": (_shows_the_first_cell, True),
    "nodes of earlier passes": (_forgets_earlier_passes, True),
}
"""What a model does wrong, and whether it does so in passes with a cache, or in plain forwards."""


@pytest.mark.parametrize("what", WRONG)
def test_what_goes_wrong_in_rounds_is_noticed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TorchModel(tiny_lm(window=512))
    probe(model)
    forward, (change, cached) = model.model.model.forward, WRONG[what]

    def wrong(**given: Any) -> Any:
        return forward(**(change(given) if bool(given.get("use_cache")) is cached else given))

    monkeypatch.setattr(model.model.model, "forward", wrong)
    with pytest.raises(ModelError, match="LlamaForCausalLM does not honour explicit masks and positions"):
        probe(model)
    assert not model.cache._used


def test_a_short_text_does_not_show_a_long_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: without late positions nothing is noticed."""
    model = TorchModel(tiny_lm(window=512))
    forward = model.model.model.forward
    wrong = lambda **given: forward(**(given if given.get("use_cache") else _window_that_nobody_names(given)))  # noqa: E731
    monkeypatch.setattr(model.model.model, "forward", wrong)
    monkeypatch.setattr(probes, "text_length", lambda model: 16)
    probe(model)


def test_another_backend_is_checked_against_plain_forwards_of_the_model() -> None:
    model, same, other = (TorchModel(tiny_lm(seed=seed)) for seed in (0, 0, 1))
    probe(model, same)
    assert honours_masks(model, other).failed


def test_a_model_in_training_mode_is_checked_as_it_will_run_and_left_as_it_was() -> None:
    model = TorchModel(tiny_lm())
    model.model.train()
    probe(model)
    assert model.model.training


@pytest.mark.parametrize(
    ("family", "options", "length"),
    [
        ("llama", {"window": 512}, 256 + 16),
        ("llama", {"window": 64}, 64 - 8),
        ("llama", {"window": 9}, 1),
        ("mistral", {"window": 512, "sliding_window": 300}, 300 + 16),
        ("mistral", {"window": 310, "sliding_window": 300}, 256 + 16),
        ("llama4_text", {"window": 512, "attention_chunk_size": 100, "num_local_experts": 2, "head_dim": 8}, 198),
    ],
)  # fmt: skip
def test_the_text_reaches_beyond_every_landmark_that_it_can(family: str, options: dict[str, Any], length: int) -> None:
    model = TorchModel(tiny_lm(family, num_key_value_heads=2, **options))
    assert text_length(model) == length
    probe(model)


def test_large_models_are_asked_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TorchModel(tiny_lm(window=512))
    size = sum(weight.numel() for weight in model.model.parameters())
    monkeypatch.setitem(probes.AFFORDABLE, "cpu", 40 * size)
    assert text_length(model) == 40
