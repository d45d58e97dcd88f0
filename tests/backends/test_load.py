"""Checkpoints of unknown origin: loaded, or refused as ModelError with the cause; their code runs only if it is trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import draftgraph as dg
from draftgraph.backends.load import load_model, load_tokenizer, read_config, read_tokenizer
from draftgraph.errors import DraftgraphError, ModelError, OptionError
from draftgraph.lab.doctor.checks import check_up
from hostile import SNIPPETS, places, planted, spoiled
from ids import told
from models import byte_tokenizer, tiny_lm
from pairs import save_pair

CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Own(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = Own
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
MAPPED = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("pair"))[0]


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.fixture
def marker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that comes with code; the file that the code makes when it runs. Whoever asks is a failure."""
    made = folder.parent / "it ran"
    (folder / "own.py").write_text(CODE.format(marker=str(made)))
    change(folder / "config.json", auto_map=MAPPED, model_type="own")
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("somebody was asked"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder.parent / "modules"))
    return made


def test_code_of_a_model_is_refused_and_nobody_is_asked(folder: Path, marker: Path):
    for action in (
        lambda: dg.Engine.from_pretrained(folder),
        lambda: dg.Engine.from_pretrained(tiny_lm(vocab=256), draft_model=folder, tokenizer=byte_tokenizer()),
        lambda: read_config(folder),
    ):
        with pytest.raises(ModelError, match=r"code of its own.*trust_remote_code=True"):
            action()
    assert not marker.exists()


def test_code_that_is_trusted_runs(folder: Path, marker: Path):
    engine = dg.Engine.from_pretrained(folder, trust_remote_code=True)
    assert marker.exists()
    assert type(engine.target.model).__name__ == "OwnModel"


def test_code_beside_a_model_that_transformers_knows_is_left_alone(folder: Path, marker: Path):
    change(folder / "config.json", model_type="llama")
    assert dg.Engine.from_pretrained(folder).generate("ab", dg.SamplingParams(max_new_tokens=2)).token_ids
    assert not marker.exists()


def test_code_of_a_tokenizer_is_refused(folder: Path, marker: Path):
    change(folder / "config.json", model_type="llama", auto_map={})
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
        tokenizer_class="Absent",
    )
    with pytest.raises(ModelError, match="code of its own"):
        read_tokenizer(folder)
    assert not marker.exists()
    assert read_tokenizer(folder, trust_remote_code=True)
    assert marker.exists()


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_kernels_of_the_hub_are_code(folder: Path, field: str):
    change(folder / "config.json", **{field: "someone/kernel"})
    with pytest.raises(ModelError, match="'someone/kernel' from the hub, which is code"):
        load_model(folder, None, "cpu")


# --- spoiled files ----------------------------------------------------------------------------------------------------


BACKENDS = st.sampled_from(("torch", "torch", "torch", "auto"))
"""Another configuration is another model, which OpenVINO would convert anew every time."""


def runs_or_is_refused(folder: Path, backend: str = "auto") -> None:
    """An engine runs, or says why not; a check-up only says."""
    json.dumps(check_up(folder, backend=backend).to_dict())
    try:
        dg.Engine.from_pretrained(folder, backend=backend, budget=2).generate("ab", dg.SamplingParams(max_new_tokens=2))
    except DraftgraphError as error:
        assert str(error)  # noqa: PT017  # either way is right


SAFE = [snippet for snippet in SNIPPETS if not snippet.isdecimal() or len(snippet) < 15 or len(snippet) > 300]
"""Without whole numbers for which transformers would try to find the memory."""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_spoiled_file_is_refused_or_harmless(folder: Path, file: str, data: st.DataObject):
    whole = json.loads((folder / file).read_text())
    place, snippet = data.draw(st.sampled_from(places(whole))), data.draw(st.sampled_from(SAFE))
    before = (folder / file).read_bytes()
    (folder / file).write_text(planted(whole, place, snippet))
    try:
        runs_or_is_refused(folder, data.draw(BACKENDS))
    finally:
        (folder / file).write_bytes(before)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
@given(data=st.data())
def test_a_spoiled_tokenizer_is_refused_or_harmless(folder: Path, data: st.DataObject):
    whole = json.loads((folder / "tokenizer.json").read_text())
    small = whole | {"model": whole["model"] | {"vocab": dict(list(whole["model"]["vocab"].items())[:8])}}
    (folder / "tokenizer.json").write_bytes(data.draw(spoiled(small)))
    try:
        runs_or_is_refused(folder)
    finally:
        (folder / "tokenizer.json").write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("change_to", "cause"),
    [
        ('{"num_hidden_layers": 1000000000000}', "num_hidden_layers=1000000000000"),
        ('{"text_config": {"n_layer": -1}}', "n_layer=-1"),
        ("[" * 50_000, "recursion"),
        ("", "Expecting"),
    ],
)
def test_endless_configurations_are_refused(folder: Path, change_to: str, cause: str):
    (folder / "config.json").write_text(change_to)
    for action in (
        lambda: load_model(folder, None, "cpu"),
        lambda: read_config(folder),
        lambda: read_tokenizer(folder),
    ):
        with pytest.raises(ModelError, match=cause):
            action()


@pytest.mark.parametrize("given", ["x", 1.5, True, [None], ["1"], [1, [2]], {"a": 1}, [True], float("inf")], ids=told)
def test_ends_of_text_that_are_no_token_ids_are_refused(folder: Path, given: object):
    change(folder / "generation_config.json", eos_token_id=given)
    with pytest.raises(ModelError, match="eos_token_id="):
        dg.Engine.from_pretrained(folder)


@pytest.mark.parametrize(("given", "meant"), [(7, {7}), ([7, 9], {7, 9}), (-1, set()), ([], set()), ([-1, 7], {7})])
def test_ends_of_text(folder: Path, given: object, meant: set[int]):
    change(folder / "generation_config.json", eos_token_id=given)
    assert dg.Engine.from_pretrained(folder).eos == meant


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 0.5, 0.99])
def test_a_cut_checkpoint_is_refused(folder: Path, keep: float):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError, match="cannot load a causal language model"):
        load_model(folder, None, "cpu")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_folders_and_dangling_links_in_the_place_of_files(folder: Path, name: str):
    (folder / name).unlink()
    (folder / name).symlink_to("absent")
    runs_or_is_refused(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    runs_or_is_refused(folder)


def test_a_tokenizer_is_absent_or_broken(folder: Path):
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match="cannot read a tokenizer"):
        load_tokenizer(folder)
    assert load_tokenizer(load_model(folder, None, "cpu")) is None, "a loaded model needs none"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert load_tokenizer(folder) is None
    assert dg.Engine.from_pretrained(folder).generate([1, 2], dg.SamplingParams(max_new_tokens=2)).token_ids


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "meta", "cpu:x"])
def test_devices_that_are_not_there_are_refused(folder: Path, device: str):
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there may be such a device")
    with pytest.raises(OptionError, match="device="):
        load_model(folder, None, device)


@pytest.mark.parametrize(
    "content", ["{", "[1]", '"x"', "[" * 100_000, "\x00"], ids=["cut", "list", "text", "deep", "zero"]
)
def test_a_broken_generation_config_is_refused_by_name(folder: Path, content: str):
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"cannot read .*generation_config\.json.*: .*from their source"):
        load_model(folder, None, "cpu")


def test_ends_of_text_beyond_the_vocabulary_are_harmless(folder: Path):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [-1, 10**6]}))
    engine = dg.Engine.from_pretrained(folder, drafter="lookup", budget=0)
    assert len(engine.generate([1, 2, 3], max_new_tokens=5).token_ids) == 5
