"""Folders of DFlash and DSpark drafters: what the layouts mean, and what does not fit is refused by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import PreTrainedModel

from dflash_folders import LAYOUTS, SIZE, write_dflash
from draftgraph.backends.base import Feed
from draftgraph.backends.block_model import BlockModel
from draftgraph.backends.trained import find_trained
from draftgraph.errors import DraftgraphError, ModelError, PairError
from models import tiny_lm

LAYERS = 6


def over(**options: Any) -> PreTrainedModel:
    return tiny_lm(**({"layers": LAYERS} | options))


def read(folder: Path, target: PreTrainedModel | None = None) -> BlockModel:
    found = find_trained(folder)
    assert found is not None
    model = found.read(over() if target is None else target)
    assert hasattr(model, "net")
    return model  # type: ignore[return-value]


def edited(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    said = json.loads((folder / "config.json").read_text())
    edit(said)
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_original_numbers_layers_and_speculators_states(layout: str, tmp_path: Path) -> None:
    found = find_trained(write_dflash(tmp_path, over(), layout, ids=(1, 4)))
    assert found is not None
    assert found.layout.name == "DFlash"
    assert found.taps(LAYERS) == ("hidden:1", "hidden:4")


def test_states_that_are_not_named_are_those_of_the_package(tmp_path: Path) -> None:
    folder = edited(write_dflash(tmp_path, over()), lambda said: said["dflash_config"].pop("target_layer_ids"))
    found = find_trained(folder)
    assert found is not None
    assert found.taps(LAYERS) == ("hidden:2", "hidden:4")


@pytest.mark.parametrize(("layout", "depths"), [("original", SIZE - 1), ("dflash", SIZE - 1), ("dspark", SIZE)])
def test_a_block_speaks_of_the_tokens_behind_the_last_one(layout: str, depths: int, tmp_path: Path) -> None:
    assert read(write_dflash(tmp_path, over(), layout)).depths == depths


def test_head_and_embeddings_are_the_targets(tmp_path: Path) -> None:
    target = over()
    model = read(write_dflash(tmp_path, target), target)
    assert torch.equal(model.net.head.weight, target.get_output_embeddings().weight)
    assert model.embeddings.data_ptr() == target.get_input_embeddings().weight.data_ptr()


def test_the_confidence_head_is_left_aside(tmp_path: Path) -> None:
    folder = write_dflash(tmp_path, over(), "dspark", entries=40)
    assert read(changed(folder, lambda w: w.update({"confidence_head.proj.weight": torch.ones(1, 32)}))).depths == SIZE


@torch.inference_mode()
def test_a_node_below_the_block_is_refused(tmp_path: Path) -> None:
    model = read(write_dflash(tmp_path, over(), size=3))
    text = model.open(0)
    model.forward([Feed(text, [5, 9])])
    model.forward([Feed(text, (), [7], [-1])])
    with pytest.raises(ModelError, match="speaks of 2 tokens, and a node 2 deep was fed"):
        model.forward([Feed(text, (), [8], [0])])


@torch.inference_mode()
def test_requests_do_not_see_each_other(tmp_path: Path) -> None:
    model = read(write_dflash(tmp_path, over(), "dspark", entries=40))
    noise = torch.Generator().manual_seed(2)
    features = [torch.randn(count, model.net.shape.features, generator=noise) for count in (4, 6)]
    texts = [[5, 9, 3, 40, 7], [2, 11, 30, 8, 21, 6, 1]]

    def opened(number: int) -> Any:
        text = model.open(0)
        text.learn(features[number])
        return text

    both = model.forward([Feed(opened(number), texts[number][1:]) for number in (0, 1)])
    for number in (0, 1):
        alone = model.forward([Feed(opened(number), texts[number][1:])])[0].logits
        torch.testing.assert_close(both[number].logits, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"hidden_size": 64}, "reads 2 hidden states of size 32, and the target's hidden_size is 64"),
        ({"layers": 5}, "its num_target_layers is 6, and the target has 5 layers"),
        ({"vocab": 70}, "its vocab_size is 64, the target's 70"),
    ],
    ids=["width", "layers", "vocabulary"],
)
def test_another_target_is_refused(other: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PairError, match=message):
        read(write_dflash(tmp_path, over()), over(**other))


@pytest.mark.parametrize(
    ("layout", "edit", "error", "message"),
    [
        ("original", lambda c: c["dflash_config"].pop("mask_token_id"), ModelError, "mask_token_id is None"),
        ("original", lambda c: c["dflash_config"].update(mask_token_id=64), PairError, "mask_token_id=64, and the target em"),
        ("original", lambda c: c.update(dflash_config=4), ModelError, "dflash_config is no object"),
        ("original", lambda c: c.update(block_size=1), ModelError, "block_size=1 speaks of 0 tokens; two are the least"),
        ("original", lambda c: c.update(block_size="x"), ModelError, "block_size is 'x'"),
        ("original", lambda c: c.update(architectures=["DFlash2DraftModel"]), ModelError, "is of DFlash 2"),
        ("original", lambda c: c.update(layer_types=["sliding_attention"] * 2), ModelError, "layer_types with windows"),
        ("original", lambda c: c["dflash_config"].update(target_layer_ids=[1, 5]), PairError, "reads the hidden states 2, 6"),
        ("original", lambda c: c["dflash_config"].update(target_layer_ids=[1]), PairError, "reads 1 hidden states of size 64"),
        ("original", lambda c: c.update(final_logit_softcapping="x"), ModelError, "final_logit_softcapping is 'x'"),
        ("dspark", lambda c: c.update(markov_head_type="rnn"), ModelError, "markov_head_type='rnn'; only 'vanilla' is read"),
        ("dspark", lambda c: c.update(markov_rank=9), ModelError, "'markov_w1' has shape"),
        ("dflash", lambda c: c.update(draft_vocab_size=30), ModelError, "'d2t' has shape"),
        ("dflash", lambda c: c.update(transformer_layer_config=3), ModelError, "transformer_layer_config is no object"),
        ("dflash", lambda c: c.pop("aux_hidden_state_layer_ids"), ModelError, "does not say which hidden states are read"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused(
    layout: str, edit: Callable[[Any], Any], error: type[DraftgraphError], message: str, tmp_path: Path
) -> None:
    entries = None if layout == "original" else 40
    with pytest.raises(error, match=message):
        read(edited(write_dflash(tmp_path, over(), layout, entries=entries), edit))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["fc.weight"].__setitem__((0, 0), torch.nan), "'fc.weight' holds NaN or infinite"),
        (lambda w: w.pop("hidden_norm.weight"), "lacks the weight 'hidden_norm.weight'"),
        (lambda w: w.update(more=torch.ones(1)), "has unknown the weight 'more'"),
        (lambda w: w.pop("layers.1.self_attn.q_norm.weight"), "lacks the weight 'layers.1.self_attn.q_norm.weight'"),
        (lambda w: w.update({"markov_head.markov_w2.weight": torch.ones(9, 6)}), "'markov_w2' has shape"),
        (lambda w: w.pop("markov_head.markov_w1.weight"), "lacks the weight 'markov_w1'"),
        (lambda w: w.pop("d2t"), "lacks the map 'd2t'"),
    ],
)
def test_broken_weights_are_refused(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        read(changed(write_dflash(tmp_path, over(), "dspark", entries=40), change))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folder = write_dflash(tmp_path, over())
    os.truncate(folder / "model.safetensors", 3000)
    with pytest.raises(ModelError, match="is truncated or broken"):
        read(folder)
