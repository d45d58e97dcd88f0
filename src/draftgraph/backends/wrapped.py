"""Models inside other modules: compiled, data-parallel, adapters. What is called, and the transformers model in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from draftgraph.backends.adapters import refuse_unmergeable
from draftgraph.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Opened:
    """model  the transformers model, which says what there is to know. called  what runs: the model, or an adapter around it."""

    model: PreTrainedModel
    called: torch.nn.Module

    @property
    def name(self) -> str:
        inner, outer = type(self.model).__name__, type(self.called).__name__
        return inner if self.called is self.model else f"{outer} around {inner}"

    @property
    def remedy(self) -> str:
        """What to write where the module around the model cannot run."""
        if callable(getattr(self.called, "merge_and_unload", None)):
            return "write model.merge_and_unload(), which puts the adapter into the model's weights, and pass what it returns"
        return f"pass the {type(self.model).__name__} inside it, if the module around it does not change its logits"


def opened(module: torch.nn.Module) -> Opened:
    """Wrappers that only compile or distribute are taken off.

    Raises ModelError if there is no language model inside, or an adapter that depends on what a pass holds.
    """
    from transformers import PreTrainedModel  # models that are loaded have imported it already

    called = _without_wrappers(module)
    refuse_unmergeable(called)
    if isinstance(called, PreTrainedModel):
        return Opened(called, called)
    for inner in called.modules():  # the outermost first
        if isinstance(inner, PreTrainedModel) and gives_logits(inner):
            return Opened(inner, called)
    raise ModelError(
        f"{type(module).__name__} holds no causal language model of transformers; "
        "pass one that AutoModelForCausalLM.from_pretrained has loaded, or its folder or hub name"
    )


def _without_wrappers(module: torch.nn.Module) -> torch.nn.Module:
    if _is_optimized(module):
        return _without_wrappers(module.get_submodule("_orig_mod"))
    if isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        return _without_wrappers(module.module)
    return module


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether torch.compile was asked to compile a model as a whole, which is not done here."""
    if isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        return is_compiled(module.module)
    return _is_optimized(module) or module._compiled_call_impl is not None


def _is_optimized(module: torch.nn.Module) -> bool:
    """Whether torch.compile has put it around a module."""
    from torch._dynamo import OptimizedModule  # which takes its time to import

    return isinstance(module, OptimizedModule)


def gives_logits(model: PreTrainedModel) -> bool:
    """Whether the model has a language-model head, as far as it says."""
    try:
        return model.get_output_embeddings() is not None
    except NotImplementedError:
        return True
