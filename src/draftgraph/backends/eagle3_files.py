"""EAGLE-3 checkpoints in their three layouts: the original, that of SpecForge and SGLang, and that of speculators.

What differs is where the configuration says it, what explicit layer numbers mean, and the name of the first block. Tensors
beside the network's: `d2t` i64[K], by how much the target's id of every entry of the head exceeds its number; `t2d` bool[V],
which tokens have an entry. The embeddings and the head are the target's where they are absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from draftgraph.backends.checkpoint import (
    CONFIG,
    Rules,
    Weights,
    fill,
    read_weights,
    refuse_misfit,
    refuse_not_finite,
    refuse_shape,
)
from draftgraph.backends.ends import Ends
from draftgraph.backends.feature_model import FeatureModel
from draftgraph.backends.features import FeatureShape
from draftgraph.backends.fits import (
    INSTEAD,
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
from draftgraph.backends.paired import Norms, PairedNet
from draftgraph.backends.taps import decoder_layers
from draftgraph.backends.untrusted import told
from draftgraph.errors import ModelError, PairError
from draftgraph.values import as_integer

TYPE, IDS = "speculators_model_type", "eagle_aux_hidden_state_layer_ids"
_UNUSED = re.compile(r"verifier_norm\.weight|verifier_lm_head\.weight|.*rotary_emb\.inv_freq")
"""Tensors that trainers store and no drafter reads."""
_FIRST = re.compile(r"midlayer\.|layers\.0\.")


@dataclass(frozen=True)
class Said:
    """What config.json says, whichever layout it has.

    block   configuration of the blocks; how many there are, the tensors say.
    tokens  entries of the head.
    taps    numbers of the hidden states that are read; None: 2, n // 2 and n − 3 of a target of n layers.
    """

    block: PretrainedConfig
    tokens: int
    taps: tuple[int, ...] | None
    norms: Norms


class Eagle3Layout:
    """Reads folders of EAGLE-3 drafters."""

    name = "EAGLE-3"

    def recognises(self, said: Mapping[str, Any]) -> bool:
        named = said.get("architectures")
        named = [str(each) for each in named] if isinstance(named, list) else []
        return said.get(TYPE) == "eagle3" or (
            TYPE not in said and ("draft_vocab_size" in said or any("eagle3" in each.lower() for each in named))
        )

    def taps(self, folder: Path, said: Mapping[str, Any], layers: int) -> tuple[str, ...]:
        """Names of the hidden states that it reads of a target with `layers` layers. Raises ModelError or PairError."""
        return tap_names(folder, said_of(folder, said).taps, layers)

    def read(self, folder: Path, said: Mapping[str, Any], target: Ends) -> FeatureModel:
        """The drafter, of the target's type and on its device.

        Raises ModelError for files that are missing or broken, PairError for a drafter of another target.
        """
        config = target.config.get_text_config(decoder=True)
        read = said_of(folder, said)
        refuse_other_vocabulary(folder, read.block.vocab_size, config.vocab_size)
        refuse_other_class(folder, said, target)
        file, weights = read_weights(folder)
        weights = own_names(weights)
        read.block.num_hidden_layers = count_layers(file, weights)
        taps = tap_names(folder, read.taps, config.num_hidden_layers)
        refuse_other_width(folder, weights.get("fc.weight"), len(taps), config.hidden_size)
        tokens = head_tokens(file, weights, read.tokens, config.vocab_size)
        embeddings = _embeddings(file, weights, target, read.block.hidden_size)
        borrow_head(file, weights, target, tokens, read.block.hidden_size)
        shape = FeatureShape(config.hidden_size, taps, read.tokens)
        with torch.device("meta"):  # nothing is made of sizes that the weights do not have
            refuse_misfit(file, tensors_of(PairedNet(shape, read.block, read.norms)), weights, "config.json")
        net = PairedNet(shape, read.block, read.norms)
        fill(file, tensors_of(net), weights, "config.json")
        net = net.to(target.device, target.dtype).eval().requires_grad_(False)
        return FeatureModel(net, tokens.to(target.device), embeddings)

    def rules(self, folder: Path, said: Mapping[str, Any], target: Ends) -> Rules:
        """What must hold of the folder and its target."""
        config = target.config.get_text_config(decoder=True)

        def head() -> tuple[Path, Weights, int]:
            file, weights = read_weights(folder)
            return file, own_names(weights), said_of(folder, said).tokens

        return rules_of(
            folder,
            said,
            target,
            Claims(
                about=lambda: f"{self.name}, {said_of(folder, said).tokens} entries of the head",
                vocab_size=lambda: said_of(folder, said).block.vocab_size,
                taps=lambda: self.taps(folder, said, config.num_hidden_layers),
                head=head,
                parameters=lambda: self.read(folder, said, target).net,
            ),
        )


def said_of(folder: Path, said: Mapping[str, Any]) -> Said:
    file = folder / CONFIG
    flat = TYPE not in said
    block = said if flat else said.get("transformer_layer_config")
    if not isinstance(block, Mapping):
        raise ModelError(f"{file} is broken: transformer_layer_config is no object")
    config = block_config(file, block, flat)
    tokens = as_integer(said.get("draft_vocab_size", config.vocab_size))
    if tokens is None or not 1 <= tokens <= config.vocab_size:
        raise ModelError(f"{file} is broken: draft_vocab_size is {said.get('draft_vocab_size')!r}")
    names = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
    norms = Norms(*(_flag(file, said, name) for name in names))
    if norms.whole and norms.each:
        raise ModelError(f"{file} is broken: norm_before_fc and fc_norm exclude each other")
    return Said(config, tokens, _numbers(file, said), norms)


def block_config(file: Path, said: Mapping[str, Any], flat: bool) -> PretrainedConfig:
    """The configuration of a checkpoint's blocks. flat  those of the original layout are blocks of Llama, whatever they say.

    Raises ModelError.
    """
    kept = {
        name: value for name, value in said.items() if name not in ("architectures", "auto_map", "torch_dtype", "dtype")
    }
    kind = said.get("model_type", "llama" if flat else "qwen3")
    if kind not in ("llama", "qwen3") or (flat and kind != "llama"):
        raise ModelError(f"{file}: blocks of model_type={kind!r} are not read; only those of 'llama' and 'qwen3' are")
    with told(f"cannot read {file}"):
        if flat:
            from transformers import LlamaConfig  # which takes most of a second to import, and not every start needs it

            return LlamaConfig(**{name: value for name, value in kept.items() if name != "num_hidden_layers"})
        return AutoConfig.for_model(**{**kept, "model_type": kind})


def _flag(file: Path, said: Mapping[str, Any], name: str) -> bool:
    value = said.get(name, False)
    if value not in (True, False, None):
        raise ModelError(f"{file} is broken: {name} is {value!r}, not true or false")
    return bool(value)


def _numbers(file: Path, said: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Numbers of the hidden states. SGLang's are those of layers: it reads what a layer has put out."""
    nested = said.get("eagle_config") or {}
    if not isinstance(nested, Mapping):
        raise ModelError(f"{file} is broken: eagle_config is no object")
    if nested.get("use_aux_hidden_state") is False:
        raise ModelError(
            f"{file} says use_aux_hidden_state=false: such drafters read the last hidden state alone, and are not read here; "
            "use one with three hidden states"
        )
    found = [
        tuple(number + ahead for number in numbers_of(file, IDS, given[IDS]))
        for given, ahead in ((said, 0), (nested, 1))
        if given.get(IDS) is not None
    ]
    if len(set(found)) > 1:
        raise ModelError(
            f"{file} says {IDS} twice, and means {list(found[0])} and {list(found[1])}; remove one of them"
        )
    return found[0] if found else None


def own_names(weights: Weights) -> Weights:
    """Weights by the names that are used here: `layers.0` for `midlayer`."""
    stripped = {name.removeprefix("model."): weight for name, weight in weights.items()}
    return {
        _FIRST.sub("layers.0.", name, 1): weight for name, weight in stripped.items() if not _UNUSED.fullmatch(name)
    }


def _embeddings(file: Path, weights: Weights, target: Ends, width: int) -> torch.nn.Module:
    """The drafter's own embeddings, taken from the weights, or the target's."""
    borrowed: torch.nn.Module = target.get_input_embeddings()
    own = weights.pop("embed_tokens.weight", None)
    vocab, given = target.config.get_text_config(decoder=True).vocab_size, target.config.get_text_config(decoder=True)
    if own is None:
        if given.hidden_size != width:
            raise PairError(
                f"the drafter of {file} has no embeddings of its own, is {width} wide, and the target's are {given.hidden_size} "
                f"wide; {INSTEAD}"
            )
        return borrowed
    refuse_shape(file, "embed_tokens.weight", own, torch.Size([vocab, width]), "the target")
    refuse_not_finite(file, "embed_tokens.weight", own)
    embeddings = torch.nn.Embedding(vocab, width, _weight=own.to(target.device, target.dtype))
    return embeddings.requires_grad_(False)


def tensors_of(net: PairedNet) -> dict[str, torch.Tensor]:
    """The network's tensors by their names in a checkpoint."""
    _, layers = decoder_layers(net.core)
    parts = {"fc": net.fc, "norm": net.norm, "lm_head": net.head, "layers": layers}
    parts |= {"input_norm": net.input_norm} if net.input_norm is not None else {}
    parts |= {"fc_norm": net.fc_norm} if net.fc_norm is not None else {}
    return {f"{part}.{name}": weight for part, module in parts.items() for name, weight in module.named_parameters()}
