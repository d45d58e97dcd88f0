"""GGUF files run as target, drafter and tokenizer; what is broken, foreign or not installed is told by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

import draftgraph as dg
from draftgraph.backends import gguf
from draftgraph.backends.load import load_model, load_tokenizer, read_config, read_tokenizer
from draftgraph.errors import ModelError
from draftgraph.lab.doctor.checks import check_up
from draftgraph.view.status import silent_loading
from gguf_files import write_gguf
from models import perturbed, plain, tiny_lm

PROMPT = [5, 9, 3, 40]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    model = tiny_lm(vocab=257, window=256)
    write_gguf(model, folder / "target.gguf")
    write_gguf(perturbed(model, 0.05), folder / "drafter.GGUF")
    write_gguf(model, folder / "packed.gguf", packed=True)
    return folder


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "target.gguf", tmp_path / "model.gguf"))


def test_target_drafter_and_tokenizer_come_from_gguf_files(made: Path) -> None:
    engine = dg.Engine.from_pretrained(made / "target.gguf", draft_model=str(made / "drafter.GGUF"), budget=8)
    model = tiny_lm(vocab=257, window=256)
    result = engine.generate(PROMPT, max_new_tokens=40, ignore_eos=True)
    assert result.token_ids == plain(model, PROMPT, 40)
    assert result.stats.num_accepted_tokens > 0
    assert engine.target.model_name == "target.gguf"
    assert engine.target.dtype == torch.float32


def test_weights_in_blocks_are_dequantised(made: Path) -> None:
    engine = dg.Engine.from_pretrained(made / "packed.gguf", budget=4, backend="torch")
    whole, packed = tiny_lm(vocab=257, window=256).state_dict(), engine.target.model.state_dict()
    error = max(float((whole[name] - packed[name]).abs().max()) for name in whole)
    assert 0.0 < error < 0.1
    assert engine.generate(PROMPT, max_new_tokens=20, ignore_eos=True).token_ids == plain(
        engine.target.model, PROMPT, 20
    )


@pytest.mark.parametrize("weights", [None, "int8"])
def test_they_run_on_openvino_and_their_graphs_are_kept(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str | None
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(tmp_path / "cache"))
    options = {"budget": 4, "backend": "openvino", "weights": weights, "drafter": "lookup"}
    engine = dg.Engine.from_pretrained(made / "packed.gguf", **options)
    torch_engine = dg.Engine.from_pretrained(made / "packed.gguf", backend="torch", budget=0)
    text = engine.generate(PROMPT, max_new_tokens=30, ignore_eos=True).token_ids
    if weights is None:
        assert text == plain(torch_engine.target.model, PROMPT, 30)
    assert (engine.eos, engine.target.model_name) == (torch_engine.eos, "packed.gguf")
    del engine
    monkeypatch.setattr("draftgraph.backends.openvino.load.load_model", None)  # nothing is dequantised again
    again = dg.Engine.from_pretrained(str(made / "packed.gguf"), **options)
    assert again.generate(PROMPT, max_new_tokens=30, ignore_eos=True).token_ids == text


def test_another_file_at_the_same_place_is_another_model(
    made: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(tmp_path / "cache"))
    for name in ("_HEAD", "_PLACES"):  # so that the byte below is not among the places that are read at every start
        monkeypatch.setattr(f"draftgraph.backends.openvino.weights.{name}", 2)
    first = dg.Engine.from_pretrained(file, budget=0).target
    content = bytearray(file.read_bytes())
    content[-2] ^= 64
    file.write_bytes(content)
    second = dg.Engine.from_pretrained(file, budget=0).target
    assert (first.name, second.name) == ("openvino", "openvino")
    ids = torch.tensor([PROMPT])
    assert not torch.equal(first.plain(ids, 1), second.plain(ids, 1))


def test_a_header_is_parsed_once_for_configuration_and_tokenizer(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import modeling_gguf_pytorch_utils as reader

    parsed, parse = [], reader.load_gguf_checkpoint
    monkeypatch.setattr(
        reader, "load_gguf_checkpoint", lambda *given, **more: parsed.append(0) or parse(*given, **more)
    )
    read_config(file).hidden_size = 5  # of a copy
    assert read_config(file).hidden_size == 32
    read_tokenizer(file)
    assert len(parsed) == 1
    write_gguf(tiny_lm(vocab=257, layers=1), file)
    assert read_config(file).num_hidden_layers == 1


def test_ends_of_text_and_the_chat_template_are_those_of_the_file(made: Path) -> None:
    engine = dg.Engine.from_pretrained(made / "target.gguf", budget=0)
    assert engine.eos == {7}
    assert engine.chat_prompt("hi") == engine.tokenizer("<user>hi\n")["input_ids"]
    assert engine.tokenizer.decode(engine.tokenizer("ab é")["input_ids"]) == "ab é"


def test_a_folder_with_one_gguf_file_is_that_file(file: Path) -> None:
    engine = dg.Engine.from_pretrained(file.parent, budget=0)
    assert engine.target.model_name == "model.gguf"
    assert engine.tokenizer is not None
    assert read_config(file.parent).num_hidden_layers == 2
    assert check_up(file.parent, file).ok


def test_a_loaded_model_still_finds_its_tokenizer(file: Path) -> None:
    assert load_tokenizer(load_model(file, None, "cpu")).get_vocab() == read_tokenizer(file).get_vocab()


def test_a_file_without_a_tokenizer_takes_token_ids(tmp_path: Path) -> None:
    path = write_gguf(tiny_lm(vocab=257), tmp_path / "bare.gguf", tokenizer=False)
    engine = dg.Engine.from_pretrained(path, budget=2)
    assert engine.tokenizer is None
    assert len(engine.generate(PROMPT, max_new_tokens=3).token_ids) == 3


def test_a_type_may_be_asked_for(file: Path) -> None:
    assert load_model(file, "bfloat16", "cpu").dtype == torch.bfloat16
    assert load_model(file, "auto", "cpu").dtype == torch.float32


def test_nothing_is_printed_where_bars_are_switched_off(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(file, None, "cpu")
    assert "GGUF" in capfd.readouterr().err
    with silent_loading():
        load_model(file, None, "cpu")
        read_tokenizer(file)
    assert capfd.readouterr() == ("", "")


# --- what cannot be read ------------------------------------------------------------------------------------------------


def refused(path: Path, cause: str) -> None:
    for action in (
        lambda: dg.Engine.from_pretrained(path),
        lambda: dg.Engine.from_pretrained(tiny_lm(), draft_model=path),
        lambda: read_config(path),
    ):
        with pytest.raises(ModelError, match=cause):
            action()


@pytest.mark.parametrize("kept", [3, 4, 20, 300, 0.2, 0.5, 0.99, -1])
def test_a_cut_file_is_refused_with_what_it_lacks(file: Path, kept: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    refused(file, "it is no GGUF file" if kept == 3 else r"has \d+ bytes, and its header tells of \d+; take the file")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and more", b"{}"], ids=["empty", "zip", "json"])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    refused(tmp_path / "x.gguf", "it is no GGUF file, for it does not begin with 'GGUF'")


def test_other_versions_are_refused(file: Path) -> None:
    file.write_bytes(b"GGUF" + (1).to_bytes(4, "little") + file.read_bytes()[8:])
    refused(file, "GGUF version 1, and versions 2 and 3")


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        (
            {"architecture": "no_such_one"},
            "transformers .* reads no GGUF files of the architecture 'no_such_one'; give",
        ),
        ({"block_count": 2**31}, r"\.block_count=2147483648; possible are 0 to 10000"),
        ({"block_count": 3}, "lacks weights"),
    ],
    ids=["architecture", "endless", "layers"],
)
def test_what_a_file_says_of_itself_is_checked(tmp_path: Path, fields: dict[str, object], cause: str) -> None:
    path = write_gguf(tiny_lm(vocab=257), tmp_path / "odd.gguf", **fields)
    with pytest.raises(ModelError, match=cause):
        load_model(path, None, "cpu")


@pytest.mark.parametrize("package", gguf.PACKAGES)
def test_a_missing_package_is_named(file: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(gguf, "find_spec", lambda name: None if name == package else object())
    refused(file, rf"need the package {package}; write pip install 'draftgraph\[gguf\]'")


def test_parts_of_a_file_are_refused(file: Path) -> None:
    refused(file.rename(file.parent / "model-00001-of-00002.gguf"), "one part of several.*llama-gguf-split --merge")


def test_several_files_in_a_folder_are_named(file: Path) -> None:
    shutil.copy(file, file.parent / "other.gguf")
    refused(file.parent, r"holds 2 GGUF files \('model.gguf', 'other.gguf'\); write the path of one")


def test_a_folder_with_a_configuration_is_no_gguf_folder(file: Path) -> None:
    tiny_lm(vocab=257, seed=3).save_pretrained(file.parent)
    assert (
        load_model(file.parent, None, "cpu")
        .state_dict()["lm_head.weight"]
        .equal(tiny_lm(vocab=257, seed=3).state_dict()["lm_head.weight"])
    )


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: None, "there is no such file here"),
        (lambda path: path.symlink_to("absent"), "it is no folder; write the path .* of a .gguf file"),
        (lambda path: path.mkdir(), "cannot load a causal language model"),
    ],
    ids=["absent", "dangling", "empty folder"],
)
def test_paths_without_a_file(tmp_path: Path, make: Callable[[Path], None], cause: str) -> None:
    make(tmp_path / "x.gguf")
    with pytest.raises(ModelError, match=cause):
        load_model(tmp_path / "x.gguf", None, "cpu")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)
@given(data=st.data())
def test_spoiled_headers_are_refused_or_harmless(file: Path, data: st.DataObject) -> None:
    whole = file.read_bytes()
    place = data.draw(st.integers(0, 900))
    file.write_bytes(whole[:place] + data.draw(st.binary(min_size=1, max_size=8)) + whole[place + 8 :])
    try:
        fields = gguf.read_header(str(file)).fields
    except ModelError as error:
        assert str(file) in str(error)  # noqa: PT017  # either way is right
    else:
        json.dumps(fields)
    finally:
        file.write_bytes(whole)
