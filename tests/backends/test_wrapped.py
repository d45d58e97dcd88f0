"""Models inside other modules run exactly, or are refused with the cause and something that works."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from transformers import LlamaForSequenceClassification, PreTrainedModel

import draftgraph as dg
from draftgraph.errors import DraftgraphError, ModelError
from models import byte_tokenizer, perturbed, plain, tiny_lm

PROMPT, TOKENS = [5, 9, 5], 30
PARAMS = dg.SamplingParams(max_new_tokens=TOKENS)
TARGET = cache(tiny_lm)
DRAFTER = cache(lambda: perturbed(TARGET(), 0.05))


class Around(torch.nn.Module):
    """Passes everything on, as adapters do; some change what comes back."""

    def __init__(self, model: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        super().__init__()
        self.inner, self.change, self.config = model, change, getattr(model, "config", None)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        if self.change is not None:
            output.logits = self.change(output.logits)
        return output


class Narrow(Around):
    """Takes no positions and no cache."""

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, use_cache: bool = False) -> Any:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


class Deaf(Around):
    """Takes everything, and passes no mask on."""

    def forward(self, **kwargs: Any) -> Any:
        return self.inner(**{name: value for name, value in kwargs.items() if name != "attention_mask"})


class Merges(Deaf):
    """An adapter that can be put into the model's weights."""

    def merge_and_unload(self) -> torch.nn.Module:
        return self.inner


class Prompted(Around):
    """Puts a token before every input, as prompt tuning does."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        return self.inner(input_ids=torch.nn.functional.pad(input_ids, (1, 0), value=7), **kwargs)


class BareLogits(Around):
    def forward(self, **kwargs: Any) -> Any:
        return self.inner(**kwargs).logits


RUN: dict[str, Callable[[PreTrainedModel], torch.nn.Module]] = {
    "adapter": Around,
    "adapter in an adapter": lambda model: Around(Around(model)),
    "adapter that scales": lambda model: Around(model, lambda logits: 2.0 * logits),
    "compiled": lambda model: torch.compile(model, backend="eager"),  # type: ignore[return-value]
    "data parallel": lambda model: torch.nn.DataParallel(model),
    "data parallel, compiled": lambda model: torch.nn.DataParallel(torch.compile(model, backend="eager")),  # type: ignore[type-var]
}


@pytest.mark.parametrize("role", ["target", "drafter", "both"])
@pytest.mark.parametrize("name", RUN)
def test_what_honours_masks_runs_exactly(name: str, role: str) -> None:
    target = RUN[name](TARGET()) if role != "drafter" else TARGET()
    drafter = RUN[name](DRAFTER()) if role != "target" else DRAFTER()
    engine = dg.Engine.from_pretrained(target, draft_model=drafter, budget=8)
    result = engine.generate(PROMPT, PARAMS)
    assert result.token_ids == plain(TARGET(), PROMPT, TOKENS)
    assert result.stats.num_accepted_tokens > 0


def test_what_an_adapter_changes_is_honoured() -> None:
    engine = dg.Engine.from_pretrained(Around(TARGET(), lambda logits: logits.flip(-1)), budget=4)
    with torch.inference_mode():
        ids = list(PROMPT)
        for _ in range(TOKENS):
            ids.append(int(TARGET()(torch.tensor([ids])).logits[0, -1].flip(-1).argmax()))
    assert engine.generate(PROMPT, PARAMS).token_ids == ids[len(PROMPT) :]


def test_a_compiled_model_says_that_it_runs_uncompiled(caplog: pytest.LogCaptureFixture) -> None:
    model = copy.deepcopy(TARGET())
    model.compile(backend="eager")
    forwards: list[int] = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    with caplog.at_level(logging.WARNING):
        engine = dg.Engine.from_pretrained(model, budget=4)
    assert caplog.messages == [
        "torch.compile is not used here: LlamaForCausalLM runs uncompiled, for passes differ in their number of rows"
    ]
    forwards.clear()
    result = engine.generate(PROMPT, PARAMS)
    assert result.token_ids == plain(TARGET(), PROMPT, TOKENS)
    assert len(forwards) == result.stats.num_rounds  # hooks are called


REFUSED: dict[str, tuple[Callable[[PreTrainedModel], Any], str]] = {
    "takes no positions": (
        Narrow,
        "Narrow around LlamaForCausalLM cannot run .*TypeError.*pass the LlamaForCausalLM inside it",
    ),
    "passes no mask on": (
        Deaf,
        "Deaf around LlamaForCausalLM does not honour explicit masks.*pass the LlamaForCausalLM",
    ),
    "can be merged": (Merges, r"Merges around LlamaForCausalLM does not honour.*write model.merge_and_unload\(\)"),
    "longer inputs": (Prompted, "Prompted around LlamaForCausalLM cannot run"),
    "bare logits": (BareLogits, "BareLogits around LlamaForCausalLM cannot run .*no attribute 'logits'"),
    "positional": (torch.nn.Sequential, "Sequential around LlamaForCausalLM cannot run .*TypeError"),
    "no model inside": (lambda _: torch.nn.Linear(3, 3), "Linear holds no causal language model.*AutoModelForCausalLM"),
    "no head inside": (lambda model: Around(model.base_model), "Around holds no causal language model"),
    "no head": (lambda model: model.base_model, "LlamaModel has no language-model head.*AutoModelForCausalLM"),
    "other head": (
        lambda model: LlamaForSequenceClassification(model.config).eval(),
        "LlamaForSequenceClassification has no language-model head",
    ),
}


@pytest.mark.parametrize("role", ["target", "drafter"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused_by_name(name: str, role: str) -> None:
    make, message = REFUSED[name]
    target, drafter = (make(TARGET()), None) if role == "target" else (TARGET(), make(DRAFTER()))
    with pytest.raises(ModelError, match=message):
        dg.Engine.from_pretrained(target, draft_model=drafter, budget=4)


def test_the_remedy_for_an_adapter_works() -> None:
    merged = Merges(TARGET()).merge_and_unload()
    engine = dg.Engine.from_pretrained(merged, budget=4)
    assert engine.generate(PROMPT, PARAMS).token_ids == plain(TARGET(), PROMPT, TOKENS)


class Name(str):
    __slots__ = ()


NO_MODEL: list[tuple[Any, str]] = [
    ({}, "of type dict; weights alone are no model"),
    (["a", "b"], "of type list"),
    (7, "not 7 of type int"),
    (True, "not True of type bool"),
    (b"folder", "not b'folder' of type bytes"),
    ("", "not '' of type str"),
    (object(), "an object of type object"),
    (byte_tokenizer(), "a tokenizer goes into tokenizer="),
    (tiny_lm().config, "a configuration has no weights"),
    (type("Pipeline", (), {"model": tiny_lm()})(), "write the model inside this Pipeline, its .model"),
    (tiny_lm, "of type function"),
    (Name("no/such/model/here"), "cannot load 'no/such/model/here': there is no such folder"),
]


@pytest.mark.parametrize(("given", "message"), NO_MODEL, ids=[type(given).__name__ for given, _ in NO_MODEL])
def test_what_is_no_model_is_refused_by_type(given: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        dg.Engine.from_pretrained(given)
    with pytest.raises(ModelError, match=message):
        dg.Engine.from_pretrained(TARGET(), draft_model=given)


def test_no_target_at_all() -> None:
    with pytest.raises(ModelError, match="not None of type NoneType"):
        dg.Engine.from_pretrained(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [{"dtype": "int8"}, {"dtype": torch.int8}, {"dtype": "flaot32"}, {"dtype": 16}])
def test_types_that_weights_cannot_have(option: Any, tmp_path: Any) -> None:
    TARGET().save_pretrained(tmp_path)
    with pytest.raises(dg.errors.OptionError, match=r"dtype=.*write 'float32'"):
        dg.Engine.from_pretrained(tmp_path, **option)


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "mps:9", 99])
def test_devices_that_are_not_here(device: Any, tmp_path: Any) -> None:
    TARGET().save_pretrained(tmp_path)
    with pytest.raises(DraftgraphError, match=f"device={device!r} is not possible here"):
        dg.Engine.from_pretrained(tmp_path, device=device)


# --- weights and modes --------------------------------------------------------------------------------------------------


def spoilt(what: str) -> PreTrainedModel:
    model = copy.deepcopy(TARGET()).requires_grad_(False)
    if what == "one int8":
        weight = model.model.layers[1].mlp.up_proj.weight
        weight.data = weight.data.to(torch.int8)
    elif what == "meta":
        model.to("meta")
    elif what == "float8":
        model.to(torch.float8_e4m3fn)
    else:
        for weight in model.parameters():
            weight.data = weight.data.to(getattr(torch, what))
    return model


@pytest.mark.parametrize("what", ["int8", "uint8", "int64", "bool", "one int8", "float8", "complex64", "meta"])
@pytest.mark.parametrize("role", ["target", "drafter"])
def test_weights_that_are_no_floating_point_numbers(what: str, role: str) -> None:
    target, drafter = (spoilt(what), None) if role == "target" else (TARGET(), spoilt(what))
    with pytest.raises(ModelError, match=r"the weight model\.\S+ of LlamaForCausalLM (is torch\.|has no values)"):
        dg.Engine.from_pretrained(target, draft_model=drafter)


class Quantised(torch.nn.Module):
    """A linear layer with integer weights and a forward of its own, as quantising libraries have them."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.abs().amax(dim=1, keepdim=True) / 127
        self.scale = torch.nn.Parameter(scale)
        self.weight = torch.nn.Parameter((layer.weight / scale).round().to(torch.int8), requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows @ (self.weight.to(rows.dtype) * self.scale).T


def test_layers_that_bring_their_own_arithmetic_run() -> None:
    model = copy.deepcopy(TARGET()).requires_grad_(False)
    model.model.layers[0].mlp.up_proj = Quantised(model.model.layers[0].mlp.up_proj).eval()
    engine = dg.Engine.from_pretrained(model, budget=4)
    assert engine.generate(PROMPT, PARAMS).token_ids == plain(model, PROMPT, TOKENS)


def modes(model: torch.nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("part", ["", "model.layers.1", "model.layers.0.self_attn"])
@pytest.mark.parametrize("role", ["target", "drafter"])
def test_models_in_training_mode_are_left_as_they_are_and_not_asked(part: str, role: str) -> None:
    model = copy.deepcopy(TARGET() if role == "target" else DRAFTER())
    model.get_submodule(part).train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    before = modes(model)
    pair = {"target": model, "draft_model": None} if role == "target" else {"target": TARGET(), "draft_model": model}
    engine = dg.Engine.from_pretrained(**pair, budget=4)  # type: ignore[arg-type]
    assert modes(model) == before
    found = rf"in training mode in part \(its module '{part}'\)" if part else "in training mode"
    for start in (engine.generate, engine.stream):
        with pytest.raises(ModelError, match=rf"LlamaForCausalLM is {found}: dropout .*write model.eval\(\)"):
            start(PROMPT, PARAMS)
    model.eval()
    assert engine.generate(PROMPT, PARAMS).token_ids == plain(TARGET(), PROMPT, TOKENS)
    model.train()
    with pytest.raises(ModelError, match="in training mode"):
        engine.generate(PROMPT, PARAMS)
    assert model.training


def test_a_model_that_is_trained_on_in_the_midst_of_a_text() -> None:
    model = copy.deepcopy(TARGET())
    engine = dg.Engine.from_pretrained(model, budget=4)
    stream = engine.stream(PROMPT, PARAMS)
    next(stream)
    model.train()
    with pytest.raises(ModelError, match="in training mode"):
        next(stream)
    assert not engine.target.cache._used


def test_an_adapter_in_training_mode_is_not_asked() -> None:
    adapter = Around(TARGET()).train()
    TARGET().eval()
    engine = dg.Engine.from_pretrained(adapter, budget=4)
    with pytest.raises(ModelError, match="Around around LlamaForCausalLM is in training mode"):
        engine.generate(PROMPT, PARAMS)
    assert adapter.training
    assert not TARGET().training
