"""Trained drafters in the check-up: every rule by its name, what fits and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dflash_folders import write_dflash
from draftgraph.backends.check import Check
from draftgraph.errors import OptionError
from draftgraph.lab.bench.contenders import Ours, Task
from draftgraph.lab.bench.models import Models
from draftgraph.lab.doctor.checks import Checkup, check_up
from draftgraph.lab.pair import Pair
from eagle3_folders import write_eagle3
from feature_drafters import write_drafter
from models import byte_tokenizer, tiny_lm

OWN = {"configuration", "same target", "hidden states", "weights"}
IMPORTED = {
    "configuration", "same vocabulary", "same class of target", "hidden states", "same width", "token maps", "weights",
}  # fmt: skip
WRITERS: dict[str, tuple[Callable[..., Path], set[str]]] = {
    "own": (write_drafter, OWN), "EAGLE-3": (write_eagle3, IMPORTED), "DFlash": (write_dflash, IMPORTED),
}  # fmt: skip


def over(**options: Any) -> Any:
    return tiny_lm(**({"layers": 5, "vocab": 256, "window": 256} | options))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    over().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def of_drafter(checkup: Checkup) -> dict[str, Check]:
    return {check.rule: check for check in dict(checkup.groups)["drafter"]}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_drafter_of_the_target_passes_every_rule(kind: str, target: Path, tmp_path: Path) -> None:
    write, rules = WRITERS[kind]
    checkup = check_up(target, write(tmp_path, over()), backend="torch")
    assert checkup.ok
    assert set(of_drafter(checkup)) == rules
    assert json.loads(json.dumps(checkup.to_dict()))["ok"] is True
    engine = checkup.pair().engine(budget=3)
    assert engine.drafter.taps


def test_all_that_does_not_fit_is_listed(target: Path, tmp_path: Path) -> None:
    found = of_drafter(check_up(target, write_eagle3(tmp_path, over(vocab=250)), backend="torch"))
    failed = {rule for rule, check in found.items() if check.failed}
    assert failed == {"same vocabulary", "token maps", "weights"}
    assert "its vocab_size is 250, the target's 256" in found["same vocabulary"].found
    assert found["hidden states"].found == "hidden:2, hidden:2, hidden:2"


def test_broken_weights_are_listed(target: Path, tmp_path: Path) -> None:
    folder = write_eagle3(tmp_path, over())
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["norm.weight"][3] = torch.nan
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    found = of_drafter(check_up(target, folder, backend="torch"))
    assert {rule for rule, check in found.items() if check.failed} == {"weights"}
    assert "'norm.weight' holds NaN" in found["weights"].found


def test_a_kind_that_is_not_read_is_said(target: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"speculators_model_type": "mtp"}')
    assert "which is not read" in of_drafter(check_up(target, tmp_path, backend="torch"))["configuration"].found


def test_nothing_is_checked_beside_a_target_that_cannot_be_loaded(tmp_path: Path) -> None:
    checkup = check_up(tmp_path / "none", write_eagle3(tmp_path / "drafter", over()), backend="torch")
    assert of_drafter(checkup)["configuration"].outcome == "not checked"
    assert not checkup.ok


def test_the_benchmark_runs_a_trained_drafter(target: Path, tmp_path: Path) -> None:
    models = Models.load(target, write_drafter(tmp_path, over()))
    assert models.drafter is None
    for backend in ("torch", "auto"):
        ours = Ours("ours", models, Task(0.0, 6), backend=backend, budget=3)
        assert ours.engine.drafter.taps
        assert len(ours.answer([5, 9, 3], 0).ids) == 6


def test_a_prediction_needs_a_draft_model(target: Path, tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match="is a trained drafter, which has laws beside its target only; `draftgraph doctor`"
    ):
        Pair.load(target, write_drafter(tmp_path, over()))
