"""EAGLE-3 drafters written in another layout: the same drafter, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from dflash_folders import write_dflash
from draftgraph.backends.base import Feed
from draftgraph.backends.eagle3_export import LAYOUTS, exported
from draftgraph.backends.trained import find_trained
from draftgraph.cli import app
from draftgraph.errors import DraftgraphError, ModelError, OptionError
from eagle3_folders import LAYOUTS as READ
from eagle3_folders import write_eagle3
from feature_drafters import FORMS, write_drafter, write_form
from models import tiny_lm

TEXT = [5, 9, 3, 40]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@torch.inference_mode()
def logits_of(folder: Path) -> torch.Tensor:
    found = find_trained(folder)
    assert found is not None
    model: Any = found.read(tiny_lm(layers=6))
    text = model.open(0)
    text.learn(torch.randn(3, model.net.shape.features, generator=torch.Generator().manual_seed(2)))
    rows = [model.forward([Feed(text, TEXT[1:])])[0].logits, model.forward([Feed(text, (), [7], [-1])])[0].logits]
    return torch.cat([*rows, torch.tensor([[float(name.partition(":")[2]) for name in model.taps] * 22])[:, :64]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", READ)
@pytest.mark.parametrize(
    "options",
    [{}, {"ids": [1, 4, 5], "norm_before_residual": True}, {"entries": 64, "fc_norm": True, "norm_output": True}],
    ids=["plain", "explicit", "norms"],
)
def test_what_is_written_is_the_same_drafter(options: dict[str, Any], source: str, layout: str, tmp_path: Path) -> None:
    folder = write_eagle3(tmp_path / "drafter", tiny_lm(layers=6), source, **options)
    other = write(tmp_path / "other", exported(folder, layout, target="made-up"))
    assert torch.equal(logits_of(folder), logits_of(other))
    again = write(tmp_path / "again", exported(other, source if source in LAYOUTS else "eagle3", target="made-up"))
    assert torch.equal(logits_of(folder), logits_of(again))


def test_ropes_are_written_as_the_layout_says_them(tmp_path: Path) -> None:
    folder = write_eagle3(tmp_path / "drafter", tiny_lm(layers=6))
    said = json.loads((folder / "config.json").read_text())
    said["rope_scaling"] = {"rope_type": "linear", "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(said))
    flat = json.loads(exported(folder, "eagle3")["config.json"])
    assert flat["rope_theta"] == 500.0
    assert flat["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    for layout in LAYOUTS:
        other = write(tmp_path / layout, exported(folder, layout, target="made-up"))
        assert torch.equal(logits_of(folder), logits_of(other))


def test_windows_and_more_blocks_are_kept_for_speculators_and_refused_elsewhere(tmp_path: Path) -> None:
    folder = write_eagle3(tmp_path / "drafter", tiny_lm(layers=6), "speculators", qwen=True, layers=2)
    other = write(tmp_path / "other", exported(folder, "speculators"))
    assert torch.equal(logits_of(folder), logits_of(other))
    with pytest.raises(
        OptionError, match="its blocks are those of qwen3, and that layout has Llama's; write 'speculators'"
    ):
        exported(folder, "eagle3")
    deep = write_eagle3(tmp_path / "deep", tiny_lm(layers=6), "speculators", layers=2)
    with pytest.raises(OptionError, match="it has 2 blocks, and that layout has one"):
        exported(deep, "eagle3")
    early = write_eagle3(tmp_path / "early", tiny_lm(layers=6), "speculators", ids=[0, 3])
    with pytest.raises(OptionError, match="it reads hidden state 0, and that layout numbers what layers put out"):
        exported(early, "eagle3")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda f: write_drafter(f, tiny_lm(layers=6)),
            OptionError,
            "adds a token's embedding to its residual, .*, and only EAGLE-3 .*`draftgraph train --network eagle3` makes",
        ),
        (
            lambda f: write_form(FORMS["FSPAD"], f, tiny_lm(layers=6)),
            OptionError,
            r"is the network \['token_gated', 'two'\] of a paper, and only EAGLE-3 drafters are written: folders in any",
        ),
        (
            lambda f: write_dflash(f, tiny_lm(layers=6)),
            OptionError,
            "is of DFlash, and only EAGLE-3 drafters are written",
        ),
        (lambda f: tiny_lm().save_pretrained(f) or f, ModelError, "holds no trained drafter"),
        (lambda f: f, ModelError, "holds no trained drafter"),
    ],
    ids=["own", "paper", "block", "model", "nothing"],
)
def test_other_drafters_are_refused_with_the_reason(
    make: Any, error: type[DraftgraphError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        exported(make(tmp_path / "drafter"), "speculators")


def test_broken_weights_and_wrong_options_are_refused(tmp_path: Path) -> None:
    folder = write_eagle3(tmp_path / "drafter", tiny_lm(layers=6))
    with pytest.raises(OptionError, match="layout='gguf' is not possible; write 'eagle3' or 'speculators'"):
        exported(folder, "gguf")
    with pytest.raises(OptionError, match="a speculators folder names its target; write target="):
        exported(folder, "speculators")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(weights | {"norm.weight": torch.full((32,), torch.nan)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"'norm.weight' holds NaN"):
        exported(folder, "eagle3")


def test_the_command_writes_a_folder(tmp_path: Path) -> None:
    folder = write_eagle3(tmp_path / "drafter", tiny_lm(layers=6), "speculators")
    done = CliRunner().invoke(app, ["export", str(folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert torch.equal(logits_of(folder), logits_of(tmp_path / "out"))
    assert CliRunner().invoke(app, ["export", str(folder), "--out", str(folder)]).exit_code == 2
