"""A model is converted and probed once; later starts read what was kept, or make it again where that is of no use."""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("openvino")

from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.backends.hub import locate
from draftgraph.backends.openvino import load
from draftgraph.backends.openvino.graphs import EXACT
from draftgraph.backends.openvino.load import NOTES, from_folder, from_loaded
from draftgraph.backends.openvino.store import ENTRY, GRAPH, WEIGHTS
from draftgraph.errors import LogitsError, ModelError
from models import byte_tokenizer, perturbed, plain, tiny_lm

PROMPT = [5, 9, 3, 40]


@pytest.fixture(scope="module")
def lm() -> PreTrainedModel:
    return tiny_lm(vocab=256, eos=7)


@pytest.fixture
def folder(lm: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder, and a cache of its own."""
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "_TOLD", set())
    lm.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def kept(lm: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model's folder, and the cache with its converted graph."""
    place = tmp_path_factory.mktemp("kept")
    lm.save_pretrained(place / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAFTGRAPH_CACHE", str(place / "cache"))
        from_folder(place / "model", None, None)
    return place / "model", place / "cache"


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "openvino").iterdir())


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == NOTES]


def text_of(folder: Path, **options: object) -> list[int]:
    gc.collect()  # a model that nobody uses any more is not started again from memory
    engine = dg.Engine.from_pretrained(folder, backend="openvino", budget=4, **options)
    return engine.generate(PROMPT, max_new_tokens=20).token_ids


def test_a_second_start_loads_no_torch_weights(
    folder: Path, lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = plain(lm, PROMPT, 20)
    assert text_of(folder) == expected
    converting, done = said(caplog)
    assert converting == f"converting {folder} for OpenVINO"
    assert "; the graph is in " in done
    monkeypatch.setattr(load, "load_model", None)
    engine = dg.Engine.from_pretrained(folder, backend="openvino", budget=4)
    assert (engine.eos, engine.tokenizer is not None) == ({7}, True)
    assert text_of(folder) == expected
    assert len(said(caplog)) == 2


STARTED = """
import sys
import draftgraph as dg
engine = dg.Engine.from_pretrained(sys.argv[1], backend="openvino", budget=4)
assert engine.generate([5, 9, 3, 40], max_new_tokens=3).text is not None
heavy = {"sympy", "torch.distributed.tensor", "transformers.modeling_utils"} & set(sys.modules)
heavy |= {name for name in sys.modules if ".configuration_llama" in name}
assert not heavy, heavy
"""


def test_a_second_start_imports_no_configuration_class(kept: tuple[Path, Path]) -> None:
    folder, cache = kept
    byte_tokenizer().save_pretrained(folder)
    command = [sys.executable, "-c", STARTED, str(folder)]
    environment = os.environ | {"DRAFTGRAPH_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("dtype", "local", "cached"),
    [
        pytest.param("auto", True, True, id="its type is asked for"),
        pytest.param(None, False, True, id="it may be newer on the hub"),
        pytest.param(None, True, False, id="nothing is kept"),
    ],
)
def test_a_configuration_is_read_where_it_matters(
    dtype: str | None,
    local: bool,
    cached: bool,
    kept: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder, cache = kept
    gc.collect()  # a model that nobody uses any more is not started again from memory
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(cache))
    monkeypatch.setattr(load, "read_config", lambda name: (_ for _ in ()).throw(_AgainError()))
    assert from_folder(folder, None, None).vocab_size == 256
    gc.collect()
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(cache if cached else tmp_path))
    monkeypatch.setattr(load, "locate", lambda source: replace(locate(source), local=local))
    with pytest.raises(_AgainError):
        from_folder(folder, dtype, None)


def test_engines_of_one_process_share_a_model(kept: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = kept
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(cache))
    one = dg.Engine.from_pretrained(folder, draft_model=folder, backend="openvino")
    other = dg.Engine.from_pretrained(folder, backend="openvino")
    assert one.target is other.target is one.drafter.model
    assert one.generate(PROMPT, max_new_tokens=9).stats.num_accepted_tokens > 4


def _empty(place: Path) -> None:
    (place / ENTRY).write_text("")


def _other_version(place: Path) -> None:
    held = json.loads((place / ENTRY).read_text())
    (place / ENTRY).write_text(json.dumps(held | {"version": 0}))


def _other_library(place: Path) -> None:
    held = json.loads((place / ENTRY).read_text())
    (place / ENTRY).write_text(json.dumps(held | {"made_with": {"openvino": "2020.1"}}))


def _cut(place: Path) -> None:
    os.truncate(place / WEIGHTS, (place / WEIGHTS).stat().st_size // 2)


def _flipped(place: Path) -> None:
    with (place / WEIGHTS).open("r+b") as file:
        file.seek(1000)
        file.write(b"\x7f\x7f\x7f\x7f")


def _without_weights(place: Path) -> None:
    (place / WEIGHTS).unlink()


def _other_logits(place: Path) -> None:
    held = json.loads((place / ENTRY).read_text())
    held["sample"][0][0] += 1.0
    (place / ENTRY).write_text(json.dumps(held))


def _no_graph(place: Path) -> None:
    (place / GRAPH).write_text("<net/>")
    held = json.loads((place / ENTRY).read_text())
    from draftgraph.backends.openvino.store import _checked

    held["files"][GRAPH] = _checked(place / GRAPH)
    (place / ENTRY).write_text(json.dumps(held))


@pytest.mark.parametrize(
    "break_it",
    [_empty, _other_version, _other_library, _cut, _flipped, _without_weights, _other_logits, _no_graph],
    ids=lambda damage: damage.__name__.strip("_"),
)
def test_a_broken_entry_is_made_again(
    break_it: Callable[[Path], None],
    folder: Path,
    lm: PreTrainedModel,
    kept: tuple[Path, Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import shutil

    shutil.copytree(kept[1], tmp_path / "cache")
    [place] = entries(tmp_path / "cache")
    break_it(place)
    monkeypatch.setattr(load, "_converted", lambda source: (_ for _ in ()).throw(_AgainError()))
    with pytest.raises(_AgainError):
        text_of(folder)
    assert "cannot be used" in said(caplog)[0]


class _AgainError(Exception):
    """The model would be converted."""


def test_what_replaces_a_broken_entry_is_whole(folder: Path, lm: PreTrainedModel, tmp_path: Path) -> None:
    expected = plain(lm, PROMPT, 20)
    assert text_of(folder) == expected
    [place] = entries(tmp_path / "cache")
    _cut(place)
    assert text_of(folder) == expected
    assert entries(tmp_path / "cache") == [place]
    assert load._kept(load._look(str(folder), load.refusals.version(), EXACT)) is not None


def test_files_that_were_copied_or_touched_are_the_same_model(
    kept: tuple[Path, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(kept[1]))
    monkeypatch.setattr(load, "load_model", None)
    os.utime(folder / "model.safetensors", (1, 1))
    assert from_folder(folder, None, None).vocab_size == 256


def test_one_changed_number_that_no_sample_sees_is_another_model(
    folder: Path, kept: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(kept[1]))
    path = folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(whole[:8], "little")
    known = load._look(str(folder), load.refusals.version(), EXACT).fingerprint
    for at in range(begin + 20, len(whole), 4):  # somewhere between the places that are looked at
        whole[at] ^= 1
        path.write_bytes(whole)
        if load._look(str(folder), load.refusals.version(), EXACT).fingerprint == known:
            break
        whole[at] ^= 1
    assert load._kept(load._look(str(folder), load.refusals.version(), EXACT)) is None


def test_other_weights_of_the_same_shape_are_another_model(
    folder: Path, lm: PreTrainedModel, kept: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(kept[1]))
    perturbed(lm, 0.3).save_pretrained(folder)
    assert load._kept(load._look(str(folder), load.refusals.version(), EXACT)) is None


@pytest.mark.parametrize("cause", ["a file in its place", "no home", "full"])
def test_a_cache_that_cannot_be_written_is_said_once(
    cause: str, folder: Path, lm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if cause == "a file in its place":
        (tmp_path / "cache").write_text("")
    elif cause == "full":
        import shutil

        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    else:
        for name in ("DRAFTGRAPH_CACHE", "HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert text_of(folder) == plain(lm, PROMPT, 20)
    text_of(folder)
    assert [each for each in said(caplog) if "cannot be kept" in each] == [
        each for each in said(caplog) if each.startswith("converted models cannot be kept: ")
    ][:1]
    assert not (tmp_path / "cache").is_dir() or all(
        not list(place.iterdir()) for place in (tmp_path / "cache").iterdir()
    )


def test_two_that_convert_at_once_leave_one_whole_entry(folder: Path, tmp_path: Path) -> None:
    from draftgraph.backends.openvino import store

    text_of(folder)
    [place] = entries(tmp_path / "cache")
    entry = store.read_entry(place, json.loads((place / ENTRY).read_text())["made_with"])
    import openvino as ov

    graph = ov.Core().read_model(place / GRAPH)
    threads = [threading.Thread(target=store.write_entry, args=(place, entry, graph.clone())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert entries(tmp_path / "cache") == [place]
    assert store.read_entry(place, entry.made_with).weights == entry.weights


def test_a_refusal_is_kept_as_well(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_lm("mixtral", vocab=256).save_pretrained(folder)
    with pytest.raises(
        ModelError, match=r"MixtralForCausalLM cannot run on OpenVINO exactly: .*; write backend='torch'"
    ):
        from_folder(folder, None, None)
    monkeypatch.setattr(load, "load_model", None)
    with pytest.raises(ModelError, match="cannot run on OpenVINO exactly"):
        from_folder(folder, None, None)
    assert len(said(caplog)) == 1


def test_broken_weights_are_told_as_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ModelError, match="cannot load a causal language model from"):
        from_folder(folder, None, None)


def test_sharded_weights(lm: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.safetensors").unlink()
    lm.save_pretrained(folder, max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").exists()
    assert text_of(folder) == plain(lm, PROMPT, 20)
    monkeypatch.setattr(load, "load_model", None)
    assert text_of(folder) == plain(lm, PROMPT, 20)
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(ModelError, match="names 'model-00002"):
        from_folder(folder, None, None)


def test_bfloat16_is_another_entry(folder: Path, tmp_path: Path) -> None:
    exact, rounded = from_folder(folder, None, None), from_folder(folder, "bfloat16", None)
    assert exact.fingerprint != rounded.fingerprint
    assert len(entries(tmp_path / "cache")) == 2


def test_logits_that_are_not_finite_are_an_error_of_the_model(lm: PreTrainedModel) -> None:
    import copy

    broken = copy.deepcopy(lm)
    with torch.no_grad():
        broken.get_output_embeddings().weight[3] = float("inf")
    with pytest.raises(LogitsError):
        from_loaded(broken, None, None)


def test_a_loaded_model_in_training_mode_is_refused(lm: PreTrainedModel) -> None:
    lm.train()
    try:
        with pytest.raises(ModelError, match=r"write model\.eval"):
            from_loaded(lm, None, None)
    finally:
        lm.eval()


def test_a_loaded_model_is_as_it_was(lm: PreTrainedModel) -> None:
    before = {name: type(module) for name, module in lm.named_modules()}
    ids = torch.tensor([PROMPT])
    expected = lm(ids).logits
    from_loaded(lm, None, None)
    assert {name: type(module) for name, module in lm.named_modules()} == before
    assert torch.equal(lm(ids).logits, expected)


def test_what_a_loaded_model_becomes_does_not_change_its_graph(lm: PreTrainedModel) -> None:
    """Norms, projections and embeddings that the head shares are changed in place, as optimisers do."""
    changing = copy.deepcopy(lm)
    changing.tie_weights()
    graph, _ = from_loaded(changing, None, None)
    before = graph.forward([Feed(graph.open(4), PROMPT)])[0].logits
    with torch.no_grad():
        for weight in changing.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(graph.forward([Feed(graph.open(4), PROMPT)])[0].logits, before)
