"""Which models can run: decoder-only, floating-point weights, a cache that can roll back, attention that takes a 4-D mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from transformers import PretrainedConfig

from draftgraph.backends.check import Check
from draftgraph.backends.layer_kinds import layer_kinds, unreadable, why_one_path
from draftgraph.backends.ragged import named
from draftgraph.backends.wrapped import gives_logits
from draftgraph.errors import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMPUTED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Types that torch's own layers compute in."""
_WINDOWS = ("max_position_embeddings", "max_seq_len", "max_target_positions")
"""Fields of configurations that may name the context window."""
_MOST_READ = ("keep_window_size", "index_topk")
"""Fields of configurations whose layers read so many tokens at most, those that score highest."""


def support(model: PreTrainedModel) -> list[Check]:
    """Every rule about a loaded model that needs no forward."""
    named = decoder_only(model.config, type(model).__name__)
    return [named, has_head(model), floating_weights(model), rolls_back(model), takes_masks(model)]


def refuse_unsupported(model: PreTrainedModel) -> None:
    """Raise ModelError, naming what is in the way, if the engine cannot run this model exactly."""
    for check in support(model):
        check.enforce()


def context_window(model: PreTrainedModel) -> int | None:
    """Tokens that the model can read at most; None if it does not say."""
    config = model.config.get_text_config(decoder=True)
    windows = (getattr(config, name, None) for name in _WINDOWS)
    return next((int(window) for window in windows if window), None)


def decoder_only(config: PretrainedConfig, name: str) -> Check:
    rule = "decoder-only"
    if getattr(config, "is_encoder_decoder", False):
        return Check(
            rule,
            "fail",
            f"{name} is an encoder-decoder",
            "draftgraph decodes causal (decoder-only) language models; use one of those",
        )
    return Check(rule, "pass", f"{name}, a causal language model")


def has_head(model: PreTrainedModel) -> Check:
    rule, name = "language-model head", type(model).__name__
    if not gives_logits(model):
        advice = "load it with AutoModelForCausalLM"
        return Check(
            rule, "fail", f"{name} has no language-model head, so it gives no logits over a vocabulary", advice
        )
    return Check(rule, "pass", "logits over the vocabulary")


def floating_weights(model: PreTrainedModel) -> Check:
    """Layers of torch and transformers compute in floating-point numbers; quantising libraries bring layers of their own."""
    rule, name = "floating-point weights", type(model).__name__
    for path, module in model.named_modules():
        if not type(module).__module__.startswith(("torch.nn.", "transformers.models.")):
            continue
        for what, weight in module.named_parameters(recurse=False):
            if weight.dtype not in COMPUTED:
                advice = "load the model with dtype=torch.float32, bfloat16, float16 or float64"
                return Check(rule, "fail", f"the weight {path}.{what} of {name} is {weight.dtype}", advice)
            if weight.is_meta and not hasattr(model, "hf_device_map"):  # else it is loaded where it is used
                return Check(
                    rule, "fail", f"the weight {path}.{what} of {name} has no values", "load the weights first"
                )
    return Check(rule, "pass", f"weights are {model.dtype}")


def in_training(model: torch.nn.Module) -> str | None:
    """What is in training mode, in words: the whole model, or the first module that is; None if nothing is."""
    if model.training:
        return "in training mode"
    found = next((name for name, module in model.named_modules() if module.training), None)
    return None if found is None else f"in training mode in part (its module {found!r})"


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Every module in eval mode for a while, then each in the mode that it had."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def rolls_back(model: PreTrainedModel) -> Check:
    """Keys and values of rejected tokens can be hidden by a mask; recurrent states and compressed blocks cannot."""
    rule, name = "cache rolls back", type(model).__name__
    config = model.config.get_text_config(decoder=True)
    try:
        kinds = layer_kinds(config)
    except (AttributeError, TypeError, ValueError) as error:
        found = f"the configuration of {name} does not say which layers it has ({first_line(error)})"
        return Check(rule, "fail", found, "use a model whose layers lie in one list")
    why = unreadable(kinds)
    if why is None and getattr(model, "_is_stateful", False) and getattr(config, "layer_types", None) is None:
        why = "it has recurrent states, and its configuration does not say in which layers"
    if why is not None:
        return Check(rule, "fail", f"{name} cannot verify drafts: {why}", "use a model with attention in every layer")
    window = context_window(model)
    for field_name in _MOST_READ:
        most = getattr(config, field_name, None)
        if most is not None and (window is None or window > most):
            found = (
                f"{name} reads the {field_name}={most} tokens that score highest, and among equal scores the number of rows "
                "decides, which drafts change"
            )
            advice = f"write max_position_embeddings={most} into its configuration, for shorter texts"
            return Check(rule, "fail", found, advice)
    if bound := why_one_path(kinds):
        return Check(
            rule, "pass", f"{bound}, which read one path: drafts are chains, and states are copied before them"
        )
    spans = [f"{kind.name} over {kind.span} tokens" if kind.span else "full attention" for kind in kinds]
    return Check(rule, "pass", f"{' and '.join(spans)}, in every layer")


def takes_masks(model: PreTrainedModel) -> Check:
    rule, attention = "attention takes masks", named(getattr(model.config, "_attn_implementation", None))
    if attention not in ("sdpa", "eager"):
        return Check(
            rule,
            "fail",
            f"{type(model).__name__} was loaded with attn_implementation={attention!r}, which takes no 4-D mask",
            "load it with 'sdpa' or 'eager'",
        )
    return Check(rule, "pass", f"attn_implementation={attention!r}")
