"""The training of the bundled pair: its text, its growth, its tokenizer, and a very short run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from typer.testing import CliRunner

from draftgraph.train import pair

TINY = pair.Shape(
    vocab=320,
    hidden=32,
    intermediate=48,
    heads=2,
    drafter_layers=1,
    middle_layers=2,
    target_layers=3,
)
SOURCE = "def read_file(path: str) -> bytes:\n    with open(path, 'rb') as file:\n\treturn file.read()  # ¬ é 語\n"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only get slower by waiting for other threads on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small standard library with the folders that must be left out."""
    root = tmp_path / "library"
    names = [f"module_{i}.py" for i in range(150)]
    for name in [
        *names,
        "test/test_os.py",
        "json/tests/test_dump.py",
        "site-packages/x.py",
        "encodings/cp1.py",
    ]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SOURCE + f"value = {len(name)}\n", encoding="utf-8")
    (root / "_sysconfigdata__linux.py").write_text("build_time_vars = {}\n")
    return root


@pytest.fixture
def run(library: Path, tmp_path: Path) -> tuple[pair.Run, pair.Text]:
    """A two-step run on the small library."""
    text = pair.prepare_text(library, tmp_path, TINY.vocab)
    return pair.Run(tmp_path, 1.0, text.train, text.held_out, False, seed=0, max_steps=2), text


def short(stage: pair.Stage) -> pair.Stage:
    return replace(stage, tokens_per_step=32, context=16, long_context=32)


def trained(run: pair.Run) -> tuple[LlamaForCausalLM, list[LlamaForCausalLM]]:
    stages = [short(stage) for stage in pair.standard_stages(TINY)]
    return pair.train_pair(run, TINY, stages, short(pair.distil_stage(TINY)), lambda stage, loss: None)


def test_collection_leaves_out_tests_packages_and_tables(library: Path) -> None:
    found = pair.collect_sources(library)
    assert len(found) == 150
    assert all(path.name.startswith("module_") for path in found)


def test_collection_of_the_running_standard_library() -> None:
    root = Path(pair.sysconfig.get_path("stdlib"))
    names = {path.relative_to(root).as_posix() for path in pair.collect_sources(root)}
    assert {"os.py", "json/decoder.py", "collections/__init__.py"} <= names
    assert not any("test" in name.split("/")[:-1] or "site-packages" in name for name in names)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(pair.PairTrainingError, match="not a folder"):
        pair.collect_sources(tmp_path / "absent")


def test_the_split_depends_on_names_alone(library: Path) -> None:
    paths = pair.collect_sources(library)
    train, held_out = pair.split_sources(paths, library)
    assert held_out
    assert len(train) > 20 * len(held_out)
    assert sorted(train + held_out) == paths
    fewer = [path for path in paths if path not in train[:50]]
    assert pair.split_sources(fewer, library)[1] == held_out


def test_the_tokenizer_gives_back_python_source() -> None:
    tokenizer = pair.train_tokenizer([SOURCE] * 3, TINY.vocab)
    for text in (SOURCE, "if True:\n\n\n    x  =  1 ,2\r\n", "\x00 \U0001f40d"):
        ids = tokenizer.encode(text)
        assert 0 not in ids, "nothing is added that the text does not contain"
        assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(pair.END_OF_TEXT) == 0


def test_growing_leaves_the_function_unchanged() -> None:
    torch.manual_seed(0)
    small = LlamaForCausalLM(pair.model_config(TINY, 1))
    deeper = pair.grow(small, TINY, 4)
    ids = torch.randint(TINY.vocab, (2, 20))
    assert deeper.config.num_hidden_layers == 4
    torch.testing.assert_close(deeper(ids).logits, small(ids).logits, rtol=0.0, atol=1e-5)


def test_growing_never_removes_layers() -> None:
    with pytest.raises(pair.PairTrainingError, match="ask for 3 or more"):
        pair.grow(LlamaForCausalLM(pair.model_config(TINY, 3)), TINY, 1)


def test_windows_cover_the_text_before_they_repeat() -> None:
    batches = pair.Windows(torch.arange(1000), seed=0)
    rows = batches.take(90, 10)
    assert rows.shape == (90, 11)
    assert len(set(rows[:, 0].tolist())) == 90


def test_windows_longer_than_the_text_are_refused() -> None:
    with pytest.raises(pair.PairTrainingError, match="only 20 tokens"):
        pair.Windows(torch.arange(20), seed=0).take(1, 16)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    assert pair.rate_factor(0.0, 0.1, 0.5) < 0.05
    assert pair.rate_factor(0.3, 0.1, 0.5) == 1.0
    assert pair.rate_factor(0.75, 0.1, 0.5) == pytest.approx(0.5)
    assert pair.rate_factor(1.0, 0.1, 0.5) == 0.0
    assert pair.rate_factor(1.0, 0.1, 0.0) == 1.0


def test_a_model_agrees_with_itself(run: tuple[pair.Run, pair.Text]) -> None:
    model = LlamaForCausalLM(pair.model_config(TINY, 1)).eval()
    report = pair.measure_pair(model, model, run[1].held_out, 2.0)
    assert report.greedy_agreement == 1.0
    assert report.overlap == pytest.approx(1.0)
    assert report.target_bits_per_byte == pytest.approx(report.target_nats_per_token / 2.0 / 0.6931472)


def test_a_short_run_writes_loadable_folders(run: tuple[pair.Run, pair.Text], tmp_path: Path) -> None:
    target, drafters = trained(run[0])
    reports = pair.export_pair(target, drafters, run[1], tmp_path / "out")
    assert reports[0].overlap >= reports[1].overlap
    for name, layers in (("target", TINY.target_layers), ("drafter", TINY.drafter_layers)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / name)
            tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / name)
        assert model.config.num_hidden_layers == layers
        assert model.dtype == torch.bfloat16
        assert (tokenizer.eos_token_id, model.generation_config.eos_token_id) == (0, 0)
        assert tokenizer.model_max_length == model.config.max_position_embeddings == pair.MAX_POSITION
        assert tokenizer.decode(tokenizer.encode(SOURCE)) == SOURCE


def test_a_run_goes_on_from_its_checkpoints(run: tuple[pair.Run, pair.Text]) -> None:
    first, _ = trained(run[0])
    (run[0].work / "target.pt").unlink()
    earlier = (run[0].work / "drafter.pt").stat().st_mtime_ns
    second, _ = trained(run[0])
    assert (run[0].work / "drafter.pt").stat().st_mtime_ns == earlier, "a finished stage is not trained again"
    assert second.config.num_hidden_layers == first.config.num_hidden_layers


def test_the_command_explains_a_wrong_folder(tmp_path: Path) -> None:
    app = pair.typer.Typer()
    app.command()(pair.main)
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "out"), "--source", str(tmp_path / "absent")])
    assert result.exit_code == 2
    assert "not a folder" in " ".join(result.output.split())
