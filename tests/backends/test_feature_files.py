"""Folders of feature drafters: what is written is read, and what does not fit is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from draftgraph.backends.checkpoint import CONFIG, WEIGHTS
from draftgraph.backends.feature_files import read_features
from draftgraph.backends.features import parameters_of
from draftgraph.errors import ModelError, PairError
from feature_drafters import FORMS, MIXED, tiny_form, tiny_net, write_drafter, write_form
from models import tiny_lm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_drafter(tmp_path / "drafter", tiny_lm())


def test_what_is_written_is_read(folder: Path) -> None:
    net, tokens = read_features(folder, tiny_lm())
    written, its = tiny_net(tiny_lm())
    assert torch.equal(tokens, its)
    for (name, weight), (other, expected) in zip(parameters_of(net), parameters_of(written), strict=True):
        assert name == other
        assert torch.equal(weight, expected), name
    assert torch.equal(net.head.weight, tiny_lm().get_output_embeddings().weight[tokens])


def test_a_target_of_another_type_is_the_same_target(tmp_path: Path) -> None:
    narrow = tiny_lm().to(torch.bfloat16)
    folder = write_drafter(tmp_path, narrow, torch.bfloat16)
    net, _ = read_features(folder, tiny_lm())
    assert net.back.weight.dtype == (torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"family": "qwen2"}, "model_type is llama, the target's qwen2"),
        ({"hidden_size": 64}, "hidden_size is 32, the target's 64"),
        ({"layers": 3}, "num_hidden_layers is 2, the target's 3"),
        ({"vocab": 65}, "vocab_size is 64, the target's 65"),
        ({"seed": 5}, "another target of the same sizes: the embeddings differ"),
    ],
    ids=["family", "width", "layers", "vocabulary", "weights"],
)
def test_another_target_is_refused(folder: Path, other: dict[str, Any], message: str) -> None:
    with pytest.raises(PairError, match=message):
        read_features(folder, tiny_lm(**other))


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    edit(config)
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda c: c.update(taps=["hidden:9"]), PairError, "reads tap 'hidden:9', and the target has 'hidden:0' to"),
        (lambda c: c.update(taps=["last"]), PairError, "reads tap 'last'"),
        (lambda c: c.update(taps=[]), ModelError, r"has taps \[\]"),
        (lambda c: c.update(version=2), ModelError, "is of version 2, and version 1 is read here"),
        (lambda c: c.pop("target"), ModelError, "lacks, or has unexpected, 'target'"),
        (lambda c: c.update(tokens="many"), ModelError, "tokens is 'many'"),
        (lambda c: c.update(tokens=3), ModelError, "does not name 3 different tokens"),
        (lambda c: c["taps"].pop(), ModelError, r"lacks|has unknown|has shape"),
    ],
)
def test_a_wrong_configuration_is_refused(
    folder: Path, edit: Callable[[Any], None], error: type[Exception], message: str
) -> None:
    edited(folder, edit)
    with pytest.raises(error, match=message):
        read_features(folder, tiny_lm())


def changed(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        change(weights)
        safetensors.torch.save_file(weights, folder / WEIGHTS)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed(lambda w: w["fuse.weight"].__setitem__((0, 0), torch.nan)), "'fuse.weight' holds NaN or infinite"),
        (changed(lambda w: w["back.weight"].fill_(torch.inf)), "'back.weight' holds NaN or infinite"),
        (changed(lambda w: w.pop("token.weight")), "lacks the weight 'token.weight'"),
        (changed(lambda w: w.update(more=torch.ones(1))), "has unknown the weight 'more'"),
        (changed(lambda w: w.update({"back.weight": torch.ones(3, 32)})), r"has shape \[3, 32\], and the target's block asks"),
        (changed(lambda w: w.pop("tokens")), "does not name 45 different tokens"),
        (changed(lambda w: w["tokens"].fill_(3)), "does not name 45 different tokens"),
        (changed(lambda w: w["tokens"].__setitem__(0, 64)), "does not name 45 different tokens"),
        (changed(lambda w: w["tokens"].__setitem__(0, -1)), "names a token below 0"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-40]), "is truncated or broken"),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "is truncated or broken"),
        (lambda f: (f / WEIGHTS).unlink(), "cannot read"),
    ],
)  # fmt: skip
def test_broken_weights_are_refused(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        read_features(folder, tiny_lm())


# Networks of papers.


@pytest.mark.parametrize("kind", MIXED)
def test_a_network_of_a_paper_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    over = tiny_lm(layers=3)
    folder = write_form(MIXED[kind], tmp_path, over)
    net, tokens = read_features(folder, over)
    written, its = tiny_form(MIXED[kind], over)
    assert net.form == MIXED[kind]
    assert torch.equal(tokens, its)
    found, expected = dict(parameters_of(net)), dict(parameters_of(written))
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    states = torch.ones(3, {"two": 64, "depth": 65}.get(MIXED[kind][1], 32))
    assert torch.equal(net.logits(states), written.logits(states))


@pytest.mark.parametrize(
    ("kind", "edit", "error", "message"),
    [
        (
            "FSPAD",
            lambda c: c.update(form=["gated", "two"]),
            ModelError,
            r"says form \['gated', 'two'\], which is not known",
        ),
        ("FSPAD", lambda c: c.update(form=["linear", "three"]), ModelError, "the second one of one, two, depth"),
        ("GliDe", lambda c: c.update(form=["cross", "two"]), ModelError, "the second one of one; use the draftgraph"),
        ("GliDe", lambda c: c.update(form=["linear", "one"]), ModelError, "does not read taps"),
        ("FSPAD", lambda c: c.update(form=["cross", "one"]), ModelError, "does not read taps"),
        ("FSPAD", lambda c: c.update(form="linear"), ModelError, "form is 'linear'"),
        ("FSPAD", lambda c: c.update(form=["linear"]), ModelError, "form has 1 entries, not 2"),
        (
            "FSPAD",
            lambda c: c.update(form=["linear", "two"]),
            ModelError,
            "has unknown the weight 'fusion.down.weight'",
        ),
        ("FSPAD", lambda c: c.pop("form"), ModelError, r"lacks|has unknown"),
        (
            "GliDe",
            lambda c: c.update(taps=["keys:3", "values:3"]),
            PairError,
            "reads tap 'keys:3', .* of layers 0 to 2",
        ),
        ("GliDe", lambda c: c.update(taps=["values:2", "keys:2"]), ModelError, "does not read taps"),
        ("Chimera", lambda c: c.update(taps=["hidden:4"]), PairError, "reads tap 'hidden:4'"),
        ("Chimera", lambda c: c.update(taps=["hidden:1", "hidden:2"]), ModelError, "does not read taps"),
    ],
)
def test_a_form_that_is_wrong_is_refused(
    kind: str, edit: Callable[[Any], None], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = write_form(FORMS[kind], tmp_path, tiny_lm(layers=3))
    edited(folder, edit)
    with pytest.raises(error, match=message):
        read_features(folder, tiny_lm(layers=3))


@pytest.mark.parametrize("kind", FORMS)
def test_broken_networks_of_papers_and_other_targets_are_refused(kind: str, tmp_path: Path) -> None:
    over = tiny_lm(layers=3)
    folder = write_form(FORMS[kind], tmp_path, over)
    for other in ({"hidden_size": 64}, {"seed": 5}, {"layers": 4}, {"family": "qwen3"}):
        with pytest.raises(PairError, match="was trained for another target"):
            read_features(folder, tiny_lm(**({"layers": 3} | other)))
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-40])
    with pytest.raises(ModelError, match="is truncated or broken"):
        read_features(folder, over)
    for name in safetensors.torch.load(whole):
        if name != "tokens":
            (folder / WEIGHTS).write_bytes(whole)
            changed(lambda weights, name=name: weights[name].view(-1)[-1:].fill_(torch.nan))(folder)
            with pytest.raises(ModelError, match="holds NaN or infinite"):
                read_features(folder, over)
