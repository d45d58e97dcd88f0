"""Judges on disk: read whole and sound, or refused by the name of the file and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from draftgraph.backends.judge_files import CARD, TENSORS, read_judge
from draftgraph.errors import ModelError
from judges import head_for, save_head
from models import tiny_lm

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = save_head(tmp_path_factory.mktemp("judge"), head_for(tiny_lm()), 0.3)
    return {name: (folder / name).read_bytes() for name in (CARD, TENSORS)}


@pytest.fixture
def folder(tmp_path: Path, whole: dict[str, bytes]) -> Path:
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def card(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        said = json.loads((folder / CARD).read_text()) | changes
        (folder / CARD).write_text(json.dumps(said))

    return change


def tensors(**changes: torch.Tensor | None) -> Change:
    """Other tensors, with a card that knows them; None takes one away."""

    def change(folder: Path) -> None:
        kept = safetensors.torch.load_file(folder / TENSORS) | changes
        content = safetensors.torch.save({name: tensor for name, tensor in kept.items() if tensor is not None})
        (folder / TENSORS).write_bytes(content)
        card(sha256=hashlib.sha256(content).hexdigest())(folder)

    return change


def cut(name: str, count: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:count]) and None


def test_what_is_written_is_read(folder: Path) -> None:
    judge, head = read_judge(folder), head_for(tiny_lm())
    assert judge.threshold == 0.3
    assert (judge.head.tap, judge.head.bias, tuple(judge.head.probe)) == (head.tap, head.bias, head.probe)
    for name in ("weight", "mean", "scale", "known"):
        assert torch.equal(getattr(judge.head, name), getattr(head, name))
    assert json.loads((folder / CARD).read_text())["lossless"] is False


WIDE = torch.ones(64, dtype=torch.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda folder: (folder / CARD).unlink(), f"cannot read .*{CARD}: No such file", id="no card"),
        pytest.param(lambda folder: (folder / TENSORS).unlink(), f"cannot read .*{TENSORS}", id="no tensors"),
        pytest.param(cut(CARD, 40), f"{CARD} is broken: not JSON", id="half a card"),
        pytest.param(cut(TENSORS, 4), "truncated or broken", id="a few bytes"),
        pytest.param(cut(TENSORS, -1), "truncated or broken", id="a byte less"),
        pytest.param(card(kind="features"), "not the card of a judge", id="another kind"),
        pytest.param(lambda folder: (folder / CARD).write_text("[]"), "not the card of a judge", id="a list"),
        pytest.param(card(version=9), "version 9, and version 1 is read here", id="another version"),
        pytest.param(card(sha256="0"), "not the file that card.json beside it was written with", id="mixed files"),
        pytest.param(card(threshold=1.5), "threshold=1.5", id="threshold"),
        pytest.param(card(threshold="1"), "threshold='1'", id="threshold as text"),
        pytest.param(card(width=0), "width=0", id="no width"),
        pytest.param(card(width=31), r"shape \[6, 32\], not \[6, 31\]", id="another width"),
        pytest.param(card(tap="logits"), "tap='logits'", id="another tap"),
        pytest.param(tensors(weight=WIDE * torch.nan), "'weight' holds NaN", id="NaN weight"),
        pytest.param(tensors(bias=torch.tensor([torch.inf])), "'bias' holds NaN or infinite", id="infinite bias"),
        pytest.param(tensors(scale=0 * WIDE), "scales that are not positive", id="no scale"),
        pytest.param(tensors(weight=WIDE[:-1]), r"'weight' has the shape \[63\], not \[64\]", id="short weight"),
        pytest.param(tensors(mean=None), "lacks the tensor 'mean'", id="no mean"),
        pytest.param(tensors(code=WIDE), "has unknown the tensor 'code'", id="more"),
        pytest.param(tensors(probe=torch.tensor([1, 2, 3])), "'known' has the shape", id="short probe"),
    ],
)
def test_what_is_broken_is_refused_by_name(folder: Path, change: Change, message: str) -> None:
    change(folder)
    with pytest.raises(ModelError, match=message) as refused:
        read_judge(folder)
    assert str(folder) in str(refused.value)
