"""EAGLE-3 drafters written in another layout, so that other engines run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from draftgraph.backends.checkpoint import (
    CONFIG,
    WEIGHTS,
    Weights,
    config_of,
    read_weights,
    refuse_misfit,
    refuse_not_finite,
)
from draftgraph.backends.eagle3_files import IDS, TYPE, Eagle3Layout, Said, own_names, said_of, tensors_of
from draftgraph.backends.feature_files import OwnLayout
from draftgraph.backends.features import FeatureShape
from draftgraph.backends.fits import MAPS, count_layers, head_tokens, verifier_of
from draftgraph.backends.paired import PairedNet
from draftgraph.backends.taps import PREFIX
from draftgraph.backends.trained import find_trained
from draftgraph.errors import ModelError, OptionError

FLAT, SPECULATORS = "eagle3", "speculators"
LAYOUTS = (FLAT, SPECULATORS)
_FLAGS = {
    "norm_before_residual": "before_residual",
    "norm_before_fc": "whole",
    "fc_norm": "each",
    "norm_output": "output",
}
_BLOCK = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps",
    "vocab_size", "max_position_embeddings", "attention_bias", "mlp_bias", "rope_parameters",
)  # fmt: skip
_DRAFTED = 5
"""Tokens that a speculators folder proposes by default; engines ask for others."""


def exported(folder: Path, layout: str, target: str | None = None) -> dict[str, bytes]:
    """The files of an EAGLE-3 drafter in a layout, by name.

    layout  "eagle3" (SpecForge and SGLang, which vLLM reads too) or "speculators". target  its target's name, for speculators;
    None: as the folder says.

    Raises ModelError for a broken folder, OptionError for a drafter that the layout has no place for.
    """
    if layout not in LAYOUTS:
        raise OptionError(f"layout={layout!r} is not possible; write {' or '.join(map(repr, LAYOUTS))}")
    said = _said_of_eagle3(folder)
    read, (file, weights) = said_of(folder, said), read_weights(folder)
    weights = own_names(weights)
    maps = {name: weights[name] for name in MAPS if name in weights}
    read.block.num_hidden_layers = count_layers(file, weights)
    _refuse_unwritable(folder, layout, read, "lm_head.weight" in weights)
    tokens = head_tokens(file, weights, read.tokens, read.block.vocab_size)
    _refuse_incomplete(file, read, weights)
    if read.tokens < read.block.vocab_size:
        entries = torch.zeros(read.block.vocab_size, dtype=torch.bool).index_fill_(0, tokens, True)
        maps = {"d2t": tokens - torch.arange(read.tokens), "t2d": entries}
    weights |= maps
    if layout == FLAT:
        weights = {name.replace("layers.0.", "midlayer.", 1): weight for name, weight in weights.items()}
    config = (
        _flat(read) if layout == FLAT else _speculators(read, target or verifier_of(said).get("name_or_path"), said)
    )
    packed = {name: weight.contiguous() for name, weight in weights.items()}
    return {CONFIG: json.dumps(config, indent=1).encode(), WEIGHTS: safetensors.torch.save(packed)}


def packed_eagle3(net: PairedNet, tokens: torch.Tensor, layers: int, dtype: torch.dtype) -> dict[str, bytes]:
    """The files of a drafter by name, in the layout "eagle3"; weights of type `dtype`.

    tokens  i64[K] of the head, rising. layers  of the target: the hidden states are named where they are not the usual ones.
    """
    vocab = net.core.config.vocab_size
    numbers = tuple(int(name.removeprefix(PREFIX)) for name in net.shape.taps)
    usual = numbers == (2, layers // 2, layers - 3)
    read = Said(net.core.config, len(tokens), None if usual else numbers, net.norms)
    weights = {name: weight.detach().to("cpu", dtype) for name, weight in tensors_of(net).items()}
    ids = tokens.cpu()
    entries = torch.zeros(vocab, dtype=torch.bool).index_fill_(0, ids, True)
    weights |= {} if len(ids) == vocab else {"d2t": ids - torch.arange(len(ids)), "t2d": entries}
    named = {name.replace("layers.0.", "midlayer.", 1): weight.contiguous() for name, weight in weights.items()}
    return {CONFIG: json.dumps(_flat(read), indent=1).encode(), WEIGHTS: safetensors.torch.save(named)}


def _said_of_eagle3(folder: Path) -> dict[str, Any]:
    """What config.json says. Raises OptionError for other drafters, with the reason."""
    trained, said = find_trained(folder), config_of(folder)
    if trained is None or said is None:
        raise ModelError(f"{folder} holds no trained drafter; give a folder with its config.json and weights")
    if trained.layout.name != Eagle3Layout.name:
        raise OptionError(
            f"the drafter in {folder} {_what_it_is(trained.layout.name, said.get('form'))}, and only EAGLE-3 drafters are "
            "written: folders in any of its layouts, and what `draftgraph train --network eagle3` makes; train one so, or use "
            "this one in draftgraph"
        )
    return said


def _what_it_is(layout: str, form: Any) -> str:
    """Why a drafter of a layout is not one of EAGLE-3. form  what config.json says of its network, if it says something."""
    if layout != OwnLayout.name:
        return f"is of {layout}"
    if form is not None:
        return f"is the network {form!r} of a paper"
    return "adds a token's embedding to its residual, and a matrix turns what rows below read"


def _refuse_unwritable(folder: Path, layout: str, read: Said, has_head: bool) -> None:
    """Raise OptionError for what the flat layout has no words for."""
    if layout != FLAT:
        return
    why = ""
    if read.block.model_type != "llama":
        why = f"its blocks are those of {read.block.model_type}, and that layout has Llama's"
    elif read.block.num_hidden_layers > 1:
        why = f"it has {read.block.num_hidden_layers} blocks, and that layout has one"
    elif not has_head and read.tokens < read.block.vocab_size:
        why = "its reduced head is borrowed of the target, which that layout does not say"
    elif read.taps is not None and 0 in read.taps:
        why = "it reads hidden state 0, and that layout numbers what layers put out"
    if why:
        raise OptionError(
            f"the drafter in {folder} cannot be written in the layout {layout!r}: {why}; write 'speculators'"
        )


def _refuse_incomplete(file: Path, read: Said, weights: Weights) -> None:
    """Raise ModelError for weights that are missing, unknown, of another shape or not finite."""
    count = 3 if read.taps is None else len(read.taps)
    fc = weights.get("fc.weight")
    if fc is None or fc.dim() != 2 or fc.shape[1] % count:
        raise ModelError(f"{file} lacks 'fc.weight' for {count} hidden states")
    shape = FeatureShape(fc.shape[1] // count, ("",) * count, read.tokens)
    with torch.device("meta"):
        needed = tensors_of(PairedNet(shape, read.block, read.norms))
    borrowed = {"lm_head.weight"} - weights.keys()
    own = {name: weight for name, weight in weights.items() if name != "embed_tokens.weight"}
    refuse_misfit(file, {name: weight for name, weight in needed.items() if name not in borrowed}, own, "config.json")
    for name, weight in weights.items():
        refuse_not_finite(file, name, weight)


def _block(read: Said) -> dict[str, Any]:
    said = read.block.to_dict()
    return {name: said[name] for name in _BLOCK if said.get(name) is not None} | {"model_type": read.block.model_type}


def _flags(read: Said) -> dict[str, bool]:
    return {name: True for name, norm in _FLAGS.items() if getattr(read.norms, norm)}


def _flat(read: Said) -> dict[str, Any]:
    block = _block(read)
    rope = dict(block.pop("rope_parameters", None) or {})
    theta = rope.pop("rope_theta", None)
    scaled = {} if rope.get("rope_type", "default") == "default" else {"rope_scaling": rope}
    numbers = {} if read.taps is None else {
        "eagle_config": {IDS: [number - 1 for number in read.taps], "use_aux_hidden_state": True}
    }  # fmt: skip
    return block | ({} if theta is None else {"rope_theta": theta}) | scaled | numbers | _flags(read) | {
        "architectures": ["LlamaForCausalLMEagle3"], "num_hidden_layers": 1, "draft_vocab_size": read.tokens,
        "tie_word_embeddings": False,
    }  # fmt: skip


def _speculators(read: Said, target: str | None, said: dict[str, Any]) -> dict[str, Any]:
    if not target:
        raise OptionError("a speculators folder names its target; write target='folder or hub name'")
    named = verifier_of(said).get("architectures") or []
    layers: dict[str, Any] = {"num_hidden_layers": read.block.num_hidden_layers}
    if getattr(read.block, "layer_types", None):
        layers |= {"layer_types": read.block.layer_types, "sliding_window": getattr(read.block, "sliding_window", None)}
    return {
        "architectures": ["Eagle3Speculator"],
        TYPE: "eagle3",
        "draft_vocab_size": read.tokens,
        IDS: None if read.taps is None else list(read.taps),
        "transformer_layer_config": _block(read) | layers,
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": _DRAFTED}],
            "verifier": {"name_or_path": target, "architectures": list(named)},
        },
    } | _flags(read)
