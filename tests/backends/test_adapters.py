"""Folders of PEFT adapters run as their base model with the adapter in its weights; what changes no weights is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.backends import adapters
from draftgraph.backends.load import load_model, load_tokenizer, read_config
from draftgraph.errors import ModelError
from draftgraph.lab.doctor.checks import check_up
from models import byte_tokenizer, perturbed, plain, tiny_lm

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers in an old way
PROMPT, TOKENS = [5, 9, 5], 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base model with a tokenizer, and an adapter's configuration without weights."""
    tiny_lm(vocab=256).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    write(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "base"), peft_type="LORA")
    return tmp_path / "adapter"


def write(folder: Path, **fields: object) -> None:
    (folder / adapters.ADAPTER).write_text(json.dumps(fields))


def adapted(model: PreTrainedModel, **options: Any) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **options
    )
    torch.manual_seed(3)
    return peft.get_peft_model(model, config).eval()


@pytest.fixture
def lora(folder: Path) -> Path:
    """A whole adapter."""
    model = adapted(load_model(folder.parent / "base", None, "cpu"))
    model.save_pretrained(folder)
    return folder


def test_an_adapter_folder_is_its_base_model_with_the_adapter(lora: Path) -> None:
    engine = dg.Engine.from_pretrained(lora, budget=8)
    expected = plain(adapted(tiny_lm(vocab=256)), PROMPT, TOKENS)
    assert (
        engine.generate(PROMPT, max_new_tokens=TOKENS).token_ids
        == expected
        != plain(tiny_lm(vocab=256), PROMPT, TOKENS)
    )
    assert engine.target.model_name == "adapter"
    assert engine.tokenizer is not None, "the base model's"
    assert read_config(lora).num_hidden_layers == 2
    assert load_tokenizer(lora).get_vocab() == engine.tokenizer.get_vocab()
    assert check_up(lora.parent / "base", lora).ok


def test_an_adapter_may_draft(lora: Path) -> None:
    engine = dg.Engine.from_pretrained(lora.parent / "base", draft_model=lora, budget=8)
    result = engine.generate(PROMPT, max_new_tokens=TOKENS)
    assert result.token_ids == plain(tiny_lm(vocab=256), PROMPT, TOKENS)
    assert result.stats.num_accepted_tokens > 0


def test_a_model_with_an_adapter_around_it_runs_as_it_is() -> None:
    model = adapted(tiny_lm())
    engine = dg.Engine.from_pretrained(model, draft_model=perturbed(tiny_lm()), budget=8)
    assert engine.generate(PROMPT, max_new_tokens=TOKENS).token_ids == plain(model, PROMPT, TOKENS)


def test_an_adapter_that_lacks_weights_is_refused(lora: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(lora / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, lora / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"the adapter .* lacks weights; they would be random"):
        load_model(lora, None, "cpu")


@pytest.mark.parametrize("kept", [0, 10, 0.5])
def test_a_cut_adapter_is_refused(lora: Path, kept: float) -> None:
    file = lora / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ModelError, match="cannot load the adapter"):
        load_model(lora, None, "cpu")


# --- without peft -------------------------------------------------------------------------------------------------------


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="it is an adapter, which needs the package peft; write pip install peft"):
        load_model(folder, None, "cpu")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no base": (lambda folder: write(folder, peft_type="LORA"), "names no base model"),
    "absent base": (
        lambda folder: write(folder, base_model_name_or_path=str(folder / "absent")),
        r"needs its base model '.*absent': cannot load .*write where that is into its adapter_config\.json",
    ),
    "itself": (
        lambda folder: write(folder, base_model_name_or_path=str(folder)),
        "is an adapter itself; merge it into its base model first",
    ),
    "code": (
        lambda folder: write(folder, base_model_name_or_path="x/y", megatron_config={"a": 1}, megatron_core="os"),
        r"names a module to import \(megatron_core\), which is code",
    ),
    "beside a model": (
        lambda folder: shutil.copy(folder.parent / "base" / "config.json", folder),
        "holds a model and an adapter .* put them into folders of their own",
    ),
    "no json": (lambda folder: (folder / adapters.ADAPTER).write_text("{"), "cannot read .*from its source again"),
    "a list": (lambda folder: (folder / adapters.ADAPTER).write_text("[]"), "it holds no object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_adapter_that_cannot_be_read_is_refused(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: object())
    spoil, cause = BROKEN[name]
    spoil(folder)
    for options in ({"target": folder}, {"target": tiny_lm(), "draft_model": folder}):
        with pytest.raises(ModelError, match=cause):
            dg.Engine.from_pretrained(**options)  # type: ignore[arg-type]


class Config:
    """What PEFT says of an adapter."""

    def __init__(self, **fields: object) -> None:
        self.peft_type = "PeftType.SOME"
        for name, value in fields.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        (Config(is_prompt_learning=True), r"puts learnt tokens in front of every text \(SOME\).* such as LoRA"),
        (Config(alora_invocation_tokens=[1, 2]), "is active behind certain tokens only"),
    ],
    ids=["prompt", "tokens"],
)
def test_adapters_that_change_no_weights_are_refused(config: Config, cause: str) -> None:
    model = tiny_lm()
    model.peft_config = {"default": config, "other": Config()}
    with pytest.raises(ModelError, match=cause):
        dg.Engine.from_pretrained(model)
    model.active_adapters = ["other"]
    assert dg.Engine.from_pretrained(model, budget=0).generate(PROMPT, max_new_tokens=2).token_ids
