"""Folders of EAGLE-3 drafters: what the layouts mean, and what does not fit is refused by name."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.backends.feature_model import FeatureModel
from draftgraph.backends.trained import find_trained
from draftgraph.errors import DraftgraphError, ModelError, PairError
from eagle3_folders import LAYOUTS, write_eagle3
from models import tiny_lm

LAYERS = 6
TEXT = [5, 9, 3, 40]
IDS = "eagle_aux_hidden_state_layer_ids"


def over(**options: Any) -> PreTrainedModel:
    return tiny_lm(**({"layers": LAYERS} | options))


def read(folder: Path, target: PreTrainedModel | None = None) -> FeatureModel:
    found = find_trained(folder)
    assert found is not None
    return found.read(over() if target is None else target)


def taps(folder: Path) -> tuple[str, ...]:
    found = find_trained(folder)
    assert found is not None
    return found.taps(LAYERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_eagle3(tmp_path / "drafter", over())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_by_default_an_early_a_middle_and_a_late_state_are_read(layout: str, tmp_path: Path) -> None:
    assert taps(write_eagle3(tmp_path, over(), layout)) == ("hidden:2", "hidden:3", "hidden:3")


def test_explicit_numbers_are_states_for_speculators_and_layers_for_sglang(tmp_path: Path) -> None:
    for layout in ("speculators", "sglang"):
        folder = write_eagle3(tmp_path / layout, over(), layout, ids=[1, 3, 5])
        assert taps(folder) == ("hidden:1", "hidden:3", "hidden:5")
    said = json.loads((tmp_path / "sglang" / "config.json").read_text())
    assert said["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [0, 2, 4]


def test_layers_are_counted_by_the_tensors(folder: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 7
    assert read(folder).model.config.num_hidden_layers == 1


def test_entries_of_the_head_are_named_by_offsets(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    tokens = read(folder).tokens
    assert torch.equal(tokens, torch.arange(45) + weights["d2t"])
    assert torch.equal(tokens, weights["t2d"].nonzero()[:, 0])


@torch.inference_mode()
def test_tokens_outside_of_the_head_have_no_mass(folder: Path) -> None:
    model = read(folder)
    text = model.open(0)
    logits = model.forward([Feed(text, TEXT[1:])])[0].logits[0]
    outside = torch.ones(64, dtype=torch.bool)
    outside[model.tokens] = False
    assert outside.sum() == 19
    assert (logits[outside] == -torch.inf).all()
    assert logits[~outside].isfinite().all()


def test_rope_is_the_drafts(folder: Path, tmp_path: Path) -> None:
    edited(folder, lambda said: said.pop("rope_theta"))
    assert read(folder).model.config.rope_parameters["rope_theta"] == 10000.0
    other = write_eagle3(tmp_path / "other", over())
    assert read(other).model.config.rope_parameters["rope_theta"] == 500.0


def test_embeddings_are_the_targets_or_its_own(folder: Path, tmp_path: Path) -> None:
    target = over()
    assert read(folder, target).embeddings is target.get_input_embeddings()
    own = torch.randn(64, 32)
    other = write_eagle3(tmp_path / "other", target, own={"embed_tokens.weight": own})
    assert torch.equal(read(other).embeddings.weight, own)


def test_a_head_that_is_absent_is_the_targets(folder: Path) -> None:
    changed(lambda weights: weights.pop("lm_head.weight"))(folder)
    target = over()
    model = read(folder, target)
    assert torch.equal(model.net.head.weight, target.get_output_embeddings().weight[model.tokens])


def test_pickles_of_tensors_are_read_and_others_are_refused(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    expected = read(folder).net.fc.weight
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(read(folder).net.fc.weight, expected)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Path("code")))
    with pytest.raises(ModelError, match=r"holds more than tensors|truncated or broken"):
        read(folder)
    torch.save({"fc.weight": Path("x")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds more than tensors, which could run code"):
        read(folder)


def test_files_in_parts_are_read(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    expected = read(folder).net.fc.weight
    names = sorted(weights)
    parts = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for part in set(parts.values()):
        safetensors.torch.save_file({n: weights[n] for n in names if parts[n] == part}, folder / part)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    assert torch.equal(read(folder).net.fc.weight, expected)
    index.write_text(json.dumps({"weight_map": {"fc.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(ModelError, match="which does not lie beside it"):
        read(folder)


def edited(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    said = json.loads((folder / "config.json").read_text())
    edit(said)
    (folder / "config.json").write_text(json.dumps(said))


def changed(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        change(weights)
        safetensors.torch.save_file(weights, folder / "model.safetensors")

    return spoil


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"hidden_size": 64}, "reads 3 hidden states of size 32, and the target's hidden_size is 64"),
        ({"layers": 2}, "reads the hidden states 2, 1, -1, and of a target with 2 layers those from 0 to 1"),
        ({"vocab": 65}, "its vocab_size is 64, the target's 65"),
    ],
    ids=["width", "layers", "vocabulary"],
)
def test_another_target_is_refused(folder: Path, other: dict[str, Any], message: str) -> None:
    with pytest.raises(PairError, match=message):
        read(folder, over(**other))


def test_a_target_of_another_class_is_refused_where_the_folder_names_it(tmp_path: Path) -> None:
    folder = write_eagle3(tmp_path, over(), "speculators")
    edited(folder, lambda said: said["speculators_config"]["verifier"].update(architectures=["Qwen3ForCausalLM"]))
    target = over()
    target.config.architectures = ["LlamaForCausalLM"]
    with pytest.raises(
        PairError, match="trained for another target, 'made-up' of class Qwen3ForCausalLM; the target is a Ll"
    ):
        read(folder, target)


def test_a_state_that_the_target_does_not_have_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    folder = write_eagle3(tmp_path, over(), "sglang", ids=[1, 3, 6])
    with pytest.raises(
        PairError, match="reads the hidden states 1, 3, 6, and of a target with 6 layers those from 0 to 5"
    ):
        taps(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(draft_vocab_size=0), "draft_vocab_size is 0"),
        (lambda c: c.update(draft_vocab_size="many"), "draft_vocab_size is 'many'"),
        (lambda c: c.update(draft_vocab_size=64), "'lm_head.weight' has shape"),
        (lambda c: c.update(draft_vocab_size=9), r"'d2t' has shape \[45\], and config.json asks for \[9\]"),
        (lambda c: c.update(model_type="gpt2"), "blocks of model_type='gpt2' are not read"),
        (lambda c: c.update(fc_norm=True), r"lacks the weight 'fc_norm.0.weight'"),
        (lambda c: c.update(fc_norm=True, norm_before_fc=True), "norm_before_fc and fc_norm exclude each other"),
        (lambda c: c.update(norm_output="yes"), "norm_output is 'yes', not true or false"),
        (lambda c: c.update(head_dim=16), "has shape"),
        (lambda c: c.update(intermediate_size=10**12), "has shape"),
        (lambda c: c.update(hidden_size="wide"), "cannot read"),
        (lambda c: c.update(eagle_config={"use_aux_hidden_state": False}), "read the last hidden state alone"),
        (lambda c: c.update(eagle_config=3), "eagle_config is no object"),
        (lambda c: c.update(eagle_aux_hidden_state_layer_ids=[1, "x", 3]), "not numbers of layers"),
        (
            lambda c: c.update({IDS: [1, 2, 3], "eagle_config": {IDS: [1, 2, 3]}}),
            r"twice, and means \[1, 2, 3\] and \[2, 3, 4\]",
        ),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused(folder: Path, edit: Callable[[Any], Any], message: str) -> None:
    edited(folder, edit)
    with pytest.raises(ModelError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (changed(lambda w: w["fc.weight"].__setitem__((0, 0), torch.nan)), ModelError, "'fc.weight' holds NaN or infinite"),
        (changed(lambda w: w["norm.weight"].fill_(torch.inf)), ModelError, "'norm.weight' holds NaN or infinite"),
        (changed(lambda w: w.pop("fc.weight")), ModelError, "lacks the weight 'fc.weight'"),
        (changed(lambda w: w.pop("midlayer.hidden_norm.weight")), ModelError, "lacks the weight 'layers.0.hidden_norm.weight'"),
        (changed(lambda w: w.update(more=torch.ones(1))), ModelError, "has unknown the weight 'more'"),
        (changed(lambda w: w.update({"layers.2.more": torch.ones(1)})), ModelError, r"holds blocks \[0, 2\]"),
        (changed(lambda w: w.update({"lm_head.weight": torch.ones(40, 32)})), ModelError, r"'lm_head.weight' has shape"),
        (changed(lambda w: w.update({"fc.weight": torch.ones(32, 90)})), PairError, "reads 3 hidden states of size 30"),
        (changed(lambda w: w.pop("d2t")), ModelError, "lacks the map 'd2t'"),
        (changed(lambda w: w["d2t"].add_(40)), ModelError, "'d2t' does not name 45 different tokens below 64"),
        (changed(lambda w: w["t2d"].fill_(True)), ModelError, "'d2t' and 't2d' do not name the same tokens"),
        (changed(lambda w: w.update(t2d=torch.ones(9))), ModelError, r"'t2d' has shape \[9\]"),
        (changed(lambda w: w.update({"embed_tokens.weight": torch.ones(9, 32)})), ModelError, r"has shape \[9, 32\]"),
        (
            changed(lambda w: w.update({"embed_tokens.weight": torch.full((64, 32), torch.nan)})),
            ModelError,
            "'embed_tokens.weight' holds NaN",
        ),
        (lambda f: os.truncate(f / "model.safetensors", 2000), ModelError, "is truncated or broken"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), ModelError, "is truncated or broken"),
        (lambda f: (f / "model.safetensors").unlink(), ModelError, "cannot read"),
    ],
)  # fmt: skip
def test_broken_weights_are_refused(
    folder: Path, spoil: Callable[[Path], None], error: type[DraftgraphError], message: str
) -> None:
    spoil(folder)
    with pytest.raises(error, match=message):
        read(folder)


def test_what_trainers_store_beside_it_is_left_aside(folder: Path) -> None:
    changed(
        lambda w: w.update(
            {"verifier_norm.weight": torch.ones(32), "midlayer.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        )
    )(folder)
    assert read(folder).tokens.shape == (45,)


def test_a_drafter_of_another_width_has_its_own_embeddings_and_head(folder: Path) -> None:
    """Its blocks are 32 wide, and the target is 64 wide."""
    target = over(hidden_size=64)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["fc.weight"] = torch.randn(32, 3 * 64)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(PairError, match="has no embeddings of its own, is 32 wide, and the target's are 64 wide"):
        read(folder, target)
    safetensors.torch.save_file(weights | {"embed_tokens.weight": torch.randn(64, 32)}, folder / "model.safetensors")
    assert read(folder, target).net.shape.width == 64


def test_drafting_goes_on_beyond_the_positions_of_the_training(folder: Path) -> None:
    """What config.json says of positions, 64, is the length of the texts that it was trained on."""
    engine = dg.Engine.from_pretrained(over(), draft_model=folder, budget=4)
    result = engine.generate([5, 9] * 40, max_new_tokens=10, temperature=0.0)
    assert result.stats.num_drafter_evaluations > 0
