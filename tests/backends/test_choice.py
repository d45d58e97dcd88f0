"""Which backend runs a model: what was asked for, or the fastest that is exact; and why, in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import draftgraph as dg
from draftgraph.backends import choice
from draftgraph.errors import ModelError, OptionError
from models import FAMILIES, perturbed, plain, tiny_lm

PROMPT = [5, 9, 3]
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 300,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "_TOLD", set())
    tiny_lm().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(
        OptionError, match="backend='onnx' is not possible; write 'auto', 'torch', 'openvino' or 'cuda_graphs'"
    ):
        dg.Engine.from_pretrained(tiny_lm(), backend="onnx")


def test_torch_where_it_was_asked_for(folder: Path) -> None:
    engine = dg.Engine.from_pretrained(folder, backend="torch")
    assert (engine.target.name, engine.backends) == ("torch", {"target": "torch: backend='torch' was asked for"})
    assert engine.generate(PROMPT, max_new_tokens=2).stats.backend == "torch"


def test_a_loaded_model_stays_on_torch_unless_asked(folder: Path) -> None:
    pytest.importorskip("openvino")
    model = tiny_lm()
    engine = dg.Engine.from_pretrained(model, draft_model=folder)
    assert engine.backends["target"].startswith("torch: a loaded model stays as it is")
    assert engine.backends["drafter"] == "openvino: the fastest backend on this CPU"
    converted = dg.Engine.from_pretrained(model, draft_model=perturbed(model, 0.05), backend="openvino", budget=5)
    result = converted.generate(PROMPT, max_new_tokens=20)
    assert result.token_ids == plain(model, PROMPT, 20)
    assert result.stats.backend == "openvino"
    assert set(converted.backends.values()) == {"openvino: backend='openvino' was asked for"}


def test_without_openvino_a_folder_runs_on_torch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "is_installed", lambda: False)
    monkeypatch.setattr("draftgraph.backends.openvino.refusals.is_installed", lambda: False)
    engine = dg.Engine.from_pretrained(folder)
    assert "pip install 'draftgraph[openvino]'" in engine.backends["target"]
    assert not caplog.records
    with pytest.raises(ModelError, match=r"OpenVINO is not installed; pip install 'draftgraph\[openvino\]'"):
        dg.Engine.from_pretrained(folder, backend="openvino")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dtype": "float16"}, "not in float16"),
        ({"dtype": torch.float64}, "not in float64"),
        ({"device": "meta"}, "device='meta' is not possible"),
    ],
    ids=["half", "double", "meta"],
)
def test_what_openvino_does_not_compute_is_refused_or_left_to_torch(
    folder: Path, options: dict[str, object], why: str
) -> None:
    pytest.importorskip("openvino")
    with pytest.raises((ModelError, OptionError), match=why):
        dg.Engine.from_pretrained(folder, backend="openvino", **options)
    if "dtype" in options:
        assert dg.Engine.from_pretrained(folder, **options).target.name == "torch"


@pytest.mark.parametrize(
    ("family", "options", "why"),
    [
        ("gemma3_text", {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8}, "windows"),
        ("mixtral", {"num_key_value_heads": 2, "num_local_experts": 2}, "cannot be converted"),
        ("gemma2", FAMILIES["gemma2"], "does not run on paged attention"),
        ("phi3", {"num_key_value_heads": 2, "sliding_window": None, "rope_parameters": LONGROPE}, "longrope"),
    ],
    ids=["gemma 3", "experts", "capped scores", "long rope"],
)
def test_what_is_not_exact_on_openvino_is_refused_or_runs_on_torch_and_says_so_once(
    family: str, options: dict[str, object], why: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino")
    model = tiny_lm(family, window=600, **options)
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match=f"cannot run on OpenVINO exactly: .*{why}.*; write backend='torch'"):
        dg.Engine.from_pretrained(folder, backend="openvino")
    caplog.clear()
    for _ in range(2):
        engine = dg.Engine.from_pretrained(folder)
        assert "cannot run on OpenVINO exactly" in engine.backends["target"]
        assert engine.generate(PROMPT, max_new_tokens=12).token_ids == plain(model, PROMPT, 12)
    assert [record.name for record in caplog.records].count("draftgraph") == 1


def test_code_of_a_models_own_and_adapters_are_left_to_torch(folder: Path) -> None:
    pytest.importorskip("openvino")
    assert dg.Engine.from_pretrained(folder, trust_remote_code=True).target.name == "torch"
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        dg.Engine.from_pretrained(folder, backend="openvino")


def test_a_missing_folder_is_told_as_without_openvino(folder: Path) -> None:
    for backend in choice.NAMES:
        with pytest.raises(ModelError, match="there is no such folder here"):
            dg.Engine.from_pretrained(folder / "nowhere", backend=backend)
