"""EAGLE-3 checkpoints in their three layouts: the original, that of SpecForge and SGLang, and that of speculators.

What differs is where the configuration says it, what explicit layer numbers mean, and the name of the first block. Tensors
beside the network's: `d2t` i64[K], by how much the target's id of every entry of the head exceeds its number; `t2d` bool[V],
which tokens have an entry. The embeddings and the head are the target's where they are absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, LlamaConfig, PretrainedConfig

from draftgraph.backends.checkpoint import CONFIG, Rules, Weights, fill, read_weights, refuse_shape
from draftgraph.backends.ends import Ends
from draftgraph.backends.feature_model import FeatureModel
from draftgraph.backends.features import FeatureShape, part_of_head
from draftgraph.backends.paired import Norms, PairedNet
from draftgraph.backends.taps import PREFIX, decoder_layers
from draftgraph.backends.untrusted import told
from draftgraph.errors import ModelError, PairError
from draftgraph.values import as_integer, as_list

TYPE, IDS = "speculators_model_type", "eagle_aux_hidden_state_layer_ids"
_UNUSED = re.compile(r"verifier_norm\.weight|verifier_lm_head\.weight|.*rotary_emb\.inv_freq")
"""Tensors that trainers store and no drafter reads."""
_FIRST = re.compile(r"midlayer\.|layers\.0\.")
_LAYER = re.compile(r"layers\.(\d+)\.")
MAPS = ("d2t", "t2d")
_TRAIN = "use a drafter of this target, or leave draft_model out"


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
        net = PairedNet(FeatureShape(config.hidden_size, taps, read.tokens), read.block, read.norms)
        embeddings = _embeddings(file, weights, target, read.block.hidden_size)
        borrow_head(file, weights, target, tokens, read.block.hidden_size)
        fill(file, tensors_of(net), weights, "config.json")
        net = net.to(target.device, target.dtype).eval().requires_grad_(False)
        return FeatureModel(net, tokens.to(target.device), embeddings)

    def rules(self, folder: Path, said: Mapping[str, Any], target: Ends) -> Rules:
        """What must hold of the folder and its target."""
        config = target.config.get_text_config(decoder=True)

        def width() -> str:
            weights = own_names(read_weights(folder)[1])
            count = len(self.taps(folder, said, config.num_hidden_layers))
            refuse_other_width(folder, weights.get("fc.weight"), count, config.hidden_size)
            return f"{count} hidden states of size {config.hidden_size}"

        def maps() -> str:
            file, weights = read_weights(folder)
            tokens = head_tokens(file, own_names(weights), said_of(folder, said).tokens, config.vocab_size)
            return f"{len(tokens)} of the target's {config.vocab_size} tokens are drafted"

        return {
            "configuration": lambda: f"{self.name}, {said_of(folder, said).tokens} entries of the head",
            "same vocabulary": lambda: same_vocabulary(
                folder, said_of(folder, said).block.vocab_size, config.vocab_size
            ),
            "same class of target": lambda: same_class(folder, said, target),
            "hidden states": lambda: ", ".join(self.taps(folder, said, config.num_hidden_layers)),
            "same width": width,
            "token maps": maps,
            "weights": lambda: complete(self.read(folder, said, target).net),
        }


def same_vocabulary(folder: Path, own: int, targets: int) -> str:
    refuse_other_vocabulary(folder, own, targets)
    return f"{own} tokens"


def same_class(folder: Path, said: Mapping[str, Any], target: Ends) -> str:
    refuse_other_class(folder, said, target)
    named = verifier_of(said).get("architectures")
    return ", ".join(map(str, named)) if named else "the folder does not name its target"


def complete(net: torch.nn.Module) -> str:
    return f"{sum(weight.numel() for weight in net.parameters()):,} parameters, complete and finite"


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


def numbers_of(file: Path, name: str, given: Any) -> list[int]:
    """Numbers of layers or hidden states. Raises ModelError for anything else."""
    numbers = [as_integer(each) for each in as_list(given) or [None]]
    if None in numbers or any(number < 0 for number in numbers if number is not None):
        raise ModelError(f"{file} is broken: {name} is {given!r}, not numbers of layers")
    return [number for number in numbers if number is not None]


def tap_names(folder: Path, numbers: Sequence[int] | None, layers: int) -> tuple[str, ...]:
    """Names of hidden states of a target with `layers` layers; None: the three that EAGLE-3 reads. Raises PairError.

    Engines disagree on the last one: transformers gives it after the final norm, vLLM before it. So it is refused.
    """
    wanted = (2, layers // 2, layers - 3) if numbers is None else tuple(numbers)
    missing = [number for number in wanted if not 0 <= number < layers]
    if missing:
        raise PairError(
            f"the drafter in {folder} reads the hidden states {', '.join(map(str, wanted))}, and of a target with {layers} "
            f"layers those from 0 to {layers - 1} can be read; {_TRAIN}"
        )
    return tuple(f"{PREFIX}{number}" for number in wanted)


def refuse_other_vocabulary(folder: Path, own: int, targets: int) -> None:
    if own != targets:
        raise PairError(
            f"the drafter in {folder} was trained for another target: its vocab_size is {own}, the target's {targets}; {_TRAIN}"
        )


def refuse_other_class(folder: Path, said: Mapping[str, Any], target: Ends) -> None:
    """Raise PairError if the folder names the class of its target, and this one is of another."""
    verifier = verifier_of(said)
    named, given = verifier.get("architectures"), getattr(target.config, "architectures", None)
    if named and given and not set(named) & set(given):
        raise PairError(
            f"the drafter in {folder} was trained for another target, {verifier.get('name_or_path')!r} of class "
            f"{', '.join(map(str, named))}; the target is a {', '.join(given)}; {_TRAIN}"
        )


def verifier_of(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a folder says of its target."""
    outer = said.get("speculators_config")
    inner = outer.get("verifier") if isinstance(outer, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def refuse_other_width(folder: Path, fc: torch.Tensor | None, taps: int, width: int) -> None:
    """Raise PairError for a drafter whose target has hidden states of another width. fc  f[d, taps · width]."""
    if fc is None or fc.dim() != 2 or fc.shape[1] == taps * width:
        return
    columns = fc.shape[1]
    read = f"of size {columns // taps}" if columns % taps == 0 else f"that are {columns} numbers together"
    raise PairError(
        f"the drafter in {folder} reads {taps} hidden states {read}, and the target's hidden_size is {width}; {_TRAIN}"
    )


def own_names(weights: Weights) -> Weights:
    """Weights by the names that are used here: `layers.0` for `midlayer`."""
    stripped = {name.removeprefix("model."): weight for name, weight in weights.items()}
    return {
        _FIRST.sub("layers.0.", name, 1): weight for name, weight in stripped.items() if not _UNUSED.fullmatch(name)
    }


def count_layers(file: Path, weights: Weights) -> int:
    numbers = {int(found[1]) for name in weights if (found := _LAYER.match(name))}
    if numbers != set(range(len(numbers))) or not numbers:
        raise ModelError(f"{file} holds blocks {sorted(numbers)}, and not all from the first one on; copy it again")
    return len(numbers)


def head_tokens(file: Path, weights: Weights, count: int, vocab: int) -> torch.Tensor:
    """The target's id of every entry of the head, i64[count]; takes the maps from the weights. Raises ModelError."""
    offsets, has_entry = (weights.pop(name, None) for name in MAPS)
    if offsets is None and count != vocab:
        raise ModelError(f"{file} lacks the map 'd2t', which says what the {count} entries of the head mean")
    shift = torch.zeros(count, dtype=torch.long) if offsets is None or count == vocab else offsets.long()
    refuse_shape(file, "d2t", shift, torch.Size([count]), "config.json")
    tokens = torch.arange(count) + shift
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocab or len(set(tokens.tolist())) != count:
        raise ModelError(f"{file}: 'd2t' does not name {count} different tokens below {vocab}")
    if has_entry is not None and count != vocab:
        refuse_shape(file, "t2d", has_entry, torch.Size([vocab]), "the target")
        if int(has_entry.bool().sum()) != count or not bool(has_entry.bool()[tokens].all()):
            raise ModelError(f"{file}: 'd2t' and 't2d' do not name the same tokens; copy it again")
    return tokens


def _embeddings(file: Path, weights: Weights, target: Ends, width: int) -> torch.nn.Module:
    """The drafter's own embeddings, taken from the weights, or the target's."""
    borrowed: torch.nn.Module = target.get_input_embeddings()
    own = weights.pop("embed_tokens.weight", None)
    vocab, given = target.config.get_text_config(decoder=True).vocab_size, target.config.get_text_config(decoder=True)
    if own is None:
        if given.hidden_size != width:
            raise PairError(
                f"the drafter of {file} has no embeddings of its own, is {width} wide, and the target's are {given.hidden_size} "
                f"wide; {_TRAIN}"
            )
        return borrowed
    refuse_shape(file, "embed_tokens.weight", own, torch.Size([vocab, width]), "the target")
    if not own.isfinite().all():
        raise ModelError(f"{file}: the weight 'embed_tokens.weight' holds NaN or infinite numbers")
    embeddings = torch.nn.Embedding(vocab, width, _weight=own.to(target.device, target.dtype))
    return embeddings.requires_grad_(False)


def borrow_head(file: Path, weights: Weights, target: Ends, tokens: torch.Tensor, width: int) -> None:
    """Enter the target's head for `tokens` as the drafter's where that has none."""
    if "lm_head.weight" in weights:
        return
    given = target.config.get_text_config(decoder=True).hidden_size
    if given != width:
        raise PairError(
            f"the drafter of {file} has no head, is {width} wide, and the target's is {given} wide; {_TRAIN}"
        )
    head = part_of_head(target.get_output_embeddings(), tokens)
    if head.bias is not None:
        raise PairError(
            f"the drafter of {file} has no head, and the target's has a bias, which it does not know; {_TRAIN}"
        )
    weights["lm_head.weight"] = head.weight


def tensors_of(net: PairedNet) -> dict[str, torch.Tensor]:
    """The network's tensors by their names in a checkpoint."""
    _, layers = decoder_layers(net.core)
    parts = {"fc": net.fc, "norm": net.norm, "lm_head": net.head, "layers": layers}
    parts |= {"input_norm": net.input_norm} if net.input_norm is not None else {}
    parts |= {"fc_norm": net.fc_norm} if net.fc_norm is not None else {}
    return {f"{part}.{name}": weight for part, module in parts.items() for name, weight in module.named_parameters()}
