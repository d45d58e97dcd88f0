"""Which architectures can run: decoder-only, with a cache that can roll back, and attention that takes a 4-D mask."""

from __future__ import annotations

from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from draftgraph.backends.check import Check


def support(model: PreTrainedModel) -> list[Check]:
    """Every rule about a loaded model that needs no forward."""
    return [decoder_only(model.config, type(model).__name__), rolls_back(model), takes_masks(model)]


def refuse_unsupported(model: PreTrainedModel) -> None:
    """Raise ModelError, naming what is in the way, if the engine cannot run this model exactly."""
    for check in support(model):
        check.enforce()


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


def rolls_back(model: PreTrainedModel) -> Check:
    """A cache of full attention in every layer can forget rejected tokens; windows and recurrent states cannot."""
    rule, name = "cache rolls back", type(model).__name__
    layers = {
        type(layer).__name__ for layer in DynamicCache(config=model.config).layers if type(layer) is not DynamicLayer
    }
    if layers or getattr(model, "_is_stateful", False):
        return Check(
            rule,
            "fail",
            f"the cache of {name} cannot roll back rejected tokens ({', '.join(sorted(layers)) or 'recurrent state'})",
            "draftgraph needs full attention in every layer. If the window is only configured, not needed, load the model "
            "with sliding_window=None",
        )
    return Check(rule, "pass", "full attention in every layer")


def takes_masks(model: PreTrainedModel) -> Check:
    rule, attention = "attention takes masks", getattr(model.config, "_attn_implementation", None)
    if attention not in ("sdpa", "eager"):
        return Check(
            rule,
            "fail",
            f"{type(model).__name__} was loaded with attn_implementation={attention!r}, which takes no 4-D mask",
            "load it with 'sdpa' or 'eager'",
        )
    return Check(rule, "pass", f"attn_implementation={attention!r}")
