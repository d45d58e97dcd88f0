"""Prepared blocks compute what those of transformers do; blocks of another make are left as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from draftgraph.backends import prepared
from draftgraph.backends.base import Feed
from draftgraph.backends.feature_model import FeatureHandle, FeatureModel
from draftgraph.backends.trained import find_trained
from draftgraph.types import ROOT
from eagle3_folders import write_eagle3
from feature_drafters import tiny_net
from models import tiny_lm

TEXT = [5, 9, 3, 40, 7, 2, 11, 30, 8, 21]
OPTIONS = {"llama": {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True}}


def feature_model(family: str) -> FeatureModel:
    target = tiny_lm(family, layers=4, **OPTIONS.get(family, {}))
    return FeatureModel(*tiny_net(target), target.get_input_embeddings())


def rows_of(model: FeatureModel) -> torch.Tensor:
    """Logits of a text that is read in pieces, of a tree below it, and of the text that goes on."""
    text = model.open(0)
    assert isinstance(text, FeatureHandle)
    text.learn(torch.randn(len(TEXT), model.net.shape.features, generator=torch.Generator().manual_seed(3)))
    start = len(text)
    found = [model.forward([Feed(text, TEXT[start:7])])[0].logits, model.forward([Feed(text, TEXT[7:])])[0].logits]
    found.append(model.forward([Feed(text, (), [17, 4], [ROOT, ROOT])])[0].logits)
    found.append(model.forward([Feed(text, (), [33, 33, 9], [0, 1, 1])])[0].logits)
    model.keep(text, [1, 3])
    found.append(model.forward([Feed(text, [4, 33])])[0].logits)
    model.close(text)
    return torch.cat(found)[:, model.tokens]


@torch.inference_mode()
def compared(model: FeatureModel) -> None:
    assert model._prepared is not None
    ours = rows_of(model)
    model._prepared = None
    torch.testing.assert_close(ours, rows_of(model), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_logits_are_those_of_transformers(family: str) -> None:
    compared(feature_model(family))


@pytest.mark.parametrize("layers", [1, 2])
def test_logits_of_imported_drafters_are_those_of_transformers(layers: int, tmp_path: Path) -> None:
    folder = write_eagle3(tmp_path, tiny_lm(layers=4), "speculators", layers=layers, norm_before_residual=True)
    found = find_trained(folder)
    assert found is not None
    compared(found.read(tiny_lm(layers=4)))


@torch.inference_mode()
def test_requests_share_a_pass_and_positions_beyond_the_first_table() -> None:
    model = feature_model("llama")
    both = [model.open(0), model.open(0)]
    for text in both:
        assert isinstance(text, FeatureHandle)
        text.learn(torch.randn(300, model.net.shape.features, generator=torch.Generator().manual_seed(4)))
    long = TEXT * 30
    apart = [scored.logits for scored in model.forward([Feed(text, long) for text in both])]
    torch.testing.assert_close(apart[0], apart[1])
    model._prepared = None
    alone = model.open(0)
    assert isinstance(alone, FeatureHandle)
    alone.learn(torch.randn(300, model.net.shape.features, generator=torch.Generator().manual_seed(4)))
    torch.testing.assert_close(apart[0], model.forward([Feed(alone, long)])[0].logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gemma", "phi", "gptj"])
@torch.inference_mode()
def test_blocks_of_another_make_are_left_as_they_are(family: str) -> None:
    model = feature_model(family)
    assert model._prepared is None
    assert rows_of(model).isfinite().all()


def test_what_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    before = prepared.turned
    monkeypatch.setattr(prepared, "turned", lambda heads, turns: before(heads, (turns[0], -turns[1])))
    assert prepared.prepare(tiny_lm("llama")) is None


def test_windows_and_long_ropes_are_left_to_transformers() -> None:
    assert prepared.prepare(tiny_lm("llama")) is not None
    assert prepared.prepare(tiny_lm("mistral", num_key_value_heads=2, sliding_window=4)) is None
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert prepared.prepare(tiny_lm("llama", rope_parameters=rope)) is None
