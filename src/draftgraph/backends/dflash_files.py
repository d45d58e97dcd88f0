"""DFlash checkpoints in two layouts: the original, and that of speculators, with DSpark's bias where it has one.

The original numbers layers, and reads what a layer has put out. speculators numbers hidden states. Embeddings are the target's,
and so is the head, unless it is reduced. Tensors beside the network's: `d2t` and `t2d`, as in EAGLE-3. `confidence_head.*` is not
read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from draftgraph.backends.block_model import BlockModel
from draftgraph.backends.block_net import BlockNet, BlockShape
from draftgraph.backends.checkpoint import CONFIG, Rules, Weights, fill, read_weights, refuse_misfit
from draftgraph.backends.eagle3_files import TYPE, block_config
from draftgraph.backends.ends import Ends
from draftgraph.backends.features import FeatureShape
from draftgraph.backends.fits import (
    Claims,
    borrow_head,
    count_layers,
    head_tokens,
    numbers_of,
    refuse_other_class,
    refuse_other_vocabulary,
    refuse_other_width,
    rules_of,
    tap_names,
)  # fmt: skip
from draftgraph.backends.taps import decoder_layers
from draftgraph.errors import ModelError, PairError
from draftgraph.values import as_integer

KINDS = ("dflash", "dspark")
_UNUSED = re.compile(
    r"confidence_head\..*|embed_tokens\.weight|verifier_norm\.weight|verifier_lm_head\.weight|.*inv_freq"
)
_BIAS = re.compile(r"markov_head\.(markov_w[12])(\.weight)?")


@dataclass(frozen=True)
class Said:
    """What config.json says. tokens  entries of the head. layers  of the target; None if it does not say."""

    config: PretrainedConfig
    block: BlockShape
    tokens: int
    taps: tuple[int, ...]
    layers: int | None


class DFlashLayout:
    """Reads folders of DFlash and DSpark drafters."""

    name = "DFlash"

    def recognises(self, said: Mapping[str, Any]) -> bool:
        named = said.get("architectures")
        own = isinstance(named, list) and any("DFlash" in str(each) for each in named)
        return said.get(TYPE) in KINDS or (TYPE not in said and (own or "dflash_config" in said))

    def taps(self, folder: Path, said: Mapping[str, Any], layers: int) -> tuple[str, ...]:
        """Names of the hidden states that it reads of a target with `layers` layers. Raises ModelError or PairError."""
        read = _said(folder, said)
        if read.layers not in (None, layers):
            raise PairError(
                f"the drafter in {folder} was trained for another target: its num_target_layers is {read.layers}, and the target "
                f"has {layers} layers; use a drafter of this target, or leave draft_model out"
            )
        return tap_names(folder, read.taps, layers)

    def read(self, folder: Path, said: Mapping[str, Any], target: Ends) -> BlockModel:
        """The drafter, of the target's type and on its device.

        Raises ModelError for files that are missing or broken, PairError for a drafter of another target.
        """
        config, read = target.config.get_text_config(decoder=True), _said(folder, said)
        refuse_other_vocabulary(folder, read.config.vocab_size, config.vocab_size)
        refuse_other_class(folder, said, target)
        taps = self.taps(folder, said, config.num_hidden_layers)
        file, weights = read_weights(folder)
        weights = _own_names(weights)
        read.config.num_hidden_layers = count_layers(file, weights)
        refuse_other_width(folder, weights.get("fc.weight"), len(taps), config.hidden_size)
        tokens = head_tokens(file, weights, read.tokens, config.vocab_size)
        borrow_head(file, weights, target, tokens, read.config.hidden_size)
        shape = FeatureShape(config.hidden_size, taps, read.tokens)
        with torch.device("meta"):  # nothing is made of sizes that the weights do not have
            refuse_misfit(file, _tensors(BlockNet(shape, read.block, read.config)), weights, "config.json")
        net = BlockNet(shape, read.block, read.config)
        fill(file, _tensors(net), weights, "config.json")
        net = net.to(target.device, target.dtype).eval().requires_grad_(False)
        embeddings = target.get_input_embeddings().weight.detach()
        if not 0 <= read.block.mask < len(embeddings):
            raise PairError(
                f"the drafter in {folder} has mask_token_id={read.block.mask}, and the target embeds {len(embeddings)} tokens"
            )
        return BlockModel(net, tokens.to(target.device), embeddings)

    def rules(self, folder: Path, said: Mapping[str, Any], target: Ends) -> Rules:
        """What must hold of the folder and its target."""
        config = target.config.get_text_config(decoder=True)

        def head() -> tuple[Path, Weights, int]:
            file, weights = read_weights(folder)
            return file, _own_names(weights), _said(folder, said).tokens

        return rules_of(
            folder,
            said,
            target,
            Claims(
                about=lambda: f"{self.name}, blocks of {_said(folder, said).block.tokens} tokens",
                vocab_size=lambda: _said(folder, said).config.vocab_size,
                taps=lambda: self.taps(folder, said, config.num_hidden_layers),
                head=head,
                parameters=lambda: self.read(folder, said, target).net,
            ),
        )


def _said(folder: Path, said: Mapping[str, Any]) -> Said:
    file = folder / CONFIG
    nested = said.get("dflash_config") or {}
    if not isinstance(nested, Mapping):
        raise ModelError(f"{file} is broken: dflash_config is no object")
    fields = {**said, **nested}
    speculators = TYPE in said
    block = said.get("transformer_layer_config") if speculators else {"model_type": "qwen3", **said}
    if not isinstance(block, Mapping):
        raise ModelError(f"{file} is broken: transformer_layer_config is no object")
    _refuse_unread(file, said, fields, block)
    config = block_config(file, {name: value for name, value in block.items() if name != "dflash_config"}, flat=False)
    tokens = _count(file, fields, "draft_vocab_size", config.vocab_size)
    layers = None if said.get("num_target_layers") is None else _count(file, said, "num_target_layers", 0)
    return Said(
        config, _block(file, fields, speculators), tokens, _taps(file, fields, speculators, layers, config), layers
    )


def _refuse_unread(file: Path, said: Mapping[str, Any], fields: Mapping[str, Any], block: Mapping[str, Any]) -> None:
    """Raise ModelError for relatives of DFlash that are not read."""
    named = " ".join(map(str, said.get("architectures") or ()))
    if "DFlash2" in named or "selector_rank" in fields or "conv_kernel_size" in fields:
        raise ModelError(
            f"{file} is of DFlash 2, whose convolutions and candidate selector are not read; use DFlash or DSpark"
        )
    if fields.get("markov_rank") and fields.get("markov_head_type", "vanilla") != "vanilla":
        raise ModelError(f"{file} says markov_head_type={fields['markov_head_type']!r}; only 'vanilla' is read")
    if any(kind != "full_attention" for kind in block.get("layer_types") or ()):
        raise ModelError(
            f"{file} has layer_types with windows, which are not read for blocks; use one with full attention"
        )


def _block(file: Path, fields: Mapping[str, Any], speculators: bool) -> BlockShape:
    size = _count(file, fields, "block_size", 8 if speculators else 16)
    anchor = fields.get("sample_from_anchor", fields.get(TYPE) == "dspark")
    block = BlockShape(
        size,
        _count(file, fields, "mask_token_id", None),
        0 if anchor else 1,
        bool(fields.get("is_causal")),
        _real(file, fields, "input_embedding_scale", 1.0),
        _real(file, fields, "output_multiplier", 1.0),
        _real(file, fields, "final_logit_softcapping", 0.0),
        _count(file, fields, "markov_rank", 256 if fields.get(TYPE) == "dspark" else 0),
    )
    if block.tokens < 2:
        raise ModelError(
            f"{file}: a block of block_size={size} speaks of {max(0, block.tokens)} tokens; two are the least"
        )
    return block


def _taps(
    file: Path, fields: Mapping[str, Any], speculators: bool, layers: int | None, config: PretrainedConfig
) -> tuple[int, ...]:
    """Numbers of hidden states."""
    name = "aux_hidden_state_layer_ids" if speculators else "target_layer_ids"
    if fields.get(name) is not None:
        return tuple(number + (not speculators) for number in numbers_of(file, name, fields[name]))
    if layers is None:
        raise ModelError(f"{file} does not say which hidden states are read; write {name} into it")
    if speculators:
        return (2, layers // 2, layers - 3)
    count = config.num_hidden_layers
    if count == 1:
        return (layers // 2 + 1,)
    return tuple(round(1 + i * (layers - 4) / (count - 1)) + 1 for i in range(count))


def _count(file: Path, fields: Mapping[str, Any], name: str, default: int | None) -> int:
    given = fields.get(name)
    count = as_integer(default if given is None else given)
    if count is None or count < 0:
        raise ModelError(f"{file} is broken: {name} is {given!r}, not a number of something")
    return count


def _real(file: Path, fields: Mapping[str, Any], name: str, default: float) -> float:
    given = fields.get(name)
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ModelError(f"{file} is broken: {name} is {given!r}, not a number")
    return float(given)


def _own_names(weights: Weights) -> Weights:
    """Weights by the names that are used here, without those that no drafter reads."""
    return {
        _BIAS.sub(r"\1", name.removeprefix("model.")): weight
        for name, weight in weights.items()
        if not _UNUSED.fullmatch(name)
    }


def _tensors(net: BlockNet) -> dict[str, torch.Tensor]:
    """The network's tensors by their names in a checkpoint."""
    parts = {"fc": net.fc, "hidden_norm": net.hidden_norm, "norm": net.norm, "lm_head": net.head}
    parts["layers"] = decoder_layers(net.core)[1]
    found: Weights = {
        f"{part}.{name}": weight for part, module in parts.items() for name, weight in module.named_parameters()
    }
    if net.before is not None and net.bias is not None:
        found |= {"markov_w1": net.before.weight, "markov_w2": net.bias.weight}
    return found
