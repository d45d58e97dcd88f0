"""Feature drafters on disk: a folder with config.json, of our own kind, and model.safetensors.

The embeddings and the head are the target's, and are not stored. So the folder says which target it belongs to: its sizes, and a
few numbers of its embeddings, which another type of weights rounds and another model does not have.

`form` says which network it is, if it is not that of `features.py` (`own_networks.py`).

Tensors: the names of the network's parameters, and `tokens` i32[K], the target's id of every entry of the head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import safetensors.torch
import torch

from draftgraph import strictjson
from draftgraph.backends.checkpoint import CONFIG, WEIGHTS, Rules, fill, read_safetensors
from draftgraph.backends.ends import Ends, product_type
from draftgraph.backends.feature_model import FeatureModel
from draftgraph.backends.features import FeatureShape, OwnNetwork, parameters_of
from draftgraph.backends.own_networks import Form, make_network, refuse_missing_taps, refuse_unknown_form
from draftgraph.errors import ModelError, PairError
from draftgraph.files import BrokenFileError, read_text

Own = TypeVar("Own")
KIND, VERSION = "draftgraph-features", 1
TOKENS = "tokens"
SAMPLED_ROWS, SAMPLED_COLUMNS = 16, 4
ROUNDING = 0.02
"""Numbers of one embedding in two types differ by less than that share of the largest of them."""


@dataclass(frozen=True)
class TargetSizes:
    """The target that a drafter belongs to. sample  numbers of its embeddings, of evenly spaced tokens."""

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    sample: tuple[float, ...]

    @classmethod
    def of(cls, target: Ends) -> TargetSizes:
        config = target.config.get_text_config(decoder=True)
        embeddings = cast(torch.Tensor, cast(Any, target.get_input_embeddings()).weight)
        rows = torch.linspace(0, embeddings.shape[0] - 1, SAMPLED_ROWS).long().to(embeddings.device)
        few = embeddings.detach()[rows, :SAMPLED_COLUMNS].float().flatten().tolist()
        sizes = config.hidden_size, config.num_hidden_layers, config.vocab_size
        return cls(config.model_type, *sizes, tuple(float(f"{number:.5g}") for number in few))

    def refuse_other(self, folder: Path, target: Ends) -> None:
        """Raise PairError if a drafter for this target is asked to draft for `target`."""
        given = TargetSizes.of(target)
        for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
            if getattr(self, name) != getattr(given, name):
                raise PairError(
                    f"the drafter in {folder} was trained for another target: its {name} is {getattr(self, name)}, the "
                    f"target's {getattr(given, name)}; train one for this target (draftgraph train), or leave it out"
                )
        largest = max(map(abs, given.sample)) or 1.0
        off = max((abs(a - b) for a, b in zip(self.sample, given.sample, strict=False)), default=0.0)
        if len(self.sample) != len(given.sample) or off > ROUNDING * largest:
            raise PairError(
                f"the drafter in {folder} was trained for another target of the same sizes: the embeddings differ; train one "
                "for this target (draftgraph train), or leave it out"
            )


@dataclass(frozen=True)
class FeatureConfig:
    """What config.json says."""

    kind: str
    version: int
    taps: tuple[str, ...]
    tokens: int
    target: TargetSizes
    form: Form | None = None

    def to_json(self) -> str:
        """As it was written before there were several forms, where it has none."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None}, indent=1)


class OwnLayout:
    """Reads folders that `draftgraph train` has written."""

    name = "draftgraph"

    def recognises(self, said: Mapping[str, Any]) -> bool:
        """Whether config.json says that it is of this kind, of whatever version."""
        return said.get("kind") == KIND

    def taps(self, folder: Path, said: Mapping[str, Any], layers: int) -> tuple[str, ...]:
        """Names of the hidden states that it reads. Raises ModelError, or PairError if the target does not have them."""
        taps = _read_config(folder).taps
        refuse_missing_taps(folder, taps, layers)
        return taps

    def read(self, folder: Path, said: Mapping[str, Any], target: Ends) -> FeatureModel:
        """The drafter, of the target's type and on its device. Raises ModelError or PairError, see `read_features`."""
        return FeatureModel(*read_features(folder, target), target.get_input_embeddings())

    def rules(self, folder: Path, said: Mapping[str, Any], target: Ends) -> Rules:
        """What must hold of the folder and its target."""
        layers = target.config.get_text_config(decoder=True).num_hidden_layers

        def same() -> str:
            _read_config(folder).target.refuse_other(folder, target)
            return "sizes and embeddings are those that it was trained for"

        def weights() -> str:
            net, tokens = read_features(folder, target)
            return f"{sum(weight.numel() for weight in net.parameters()):,} parameters, complete and finite; {len(tokens)} tokens"

        return {
            "configuration": lambda: _about(_read_config(folder)),
            "same target": same,
            "hidden states": lambda: ", ".join(self.taps(folder, said, layers)),
            "weights": weights,
        }


def _about(config: FeatureConfig) -> str:
    form = "" if config.form is None else f" {' with heads: '.join(config.form)},"
    return f"{OwnLayout.name},{form} {config.tokens} entries of the head"


def packed(net: OwnNetwork, tokens: torch.Tensor, target: Ends, dtype: torch.dtype) -> dict[str, bytes]:
    """The files of a feature drafter by name; weights of type `dtype`. tokens  i64[K]."""
    config = FeatureConfig(KIND, VERSION, net.shape.taps, net.shape.tokens, TargetSizes.of(target), net.form)
    weights = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in parameters_of(net)}
    weights[TOKENS] = tokens.to("cpu", torch.int32)
    return {CONFIG: config.to_json().encode(), WEIGHTS: safetensors.torch.save(weights)}


def read_features(folder: Path, target: Ends) -> tuple[OwnNetwork, torch.Tensor]:
    """The drafter in a folder, on the target's device, and its tokens i64[K]. For its type see `product_type`.

    Raises ModelError for files that are missing or broken, PairError for a drafter of another target.
    """
    config = _read_config(folder)
    config.target.refuse_other(folder, target)
    OwnLayout().taps(folder, {}, config.target.num_hidden_layers)
    shape = FeatureShape(config.target.hidden_size, config.taps, config.tokens)
    net = make_network(config.form, shape, target.config)
    weights = read_safetensors(folder / WEIGHTS)
    tokens = entries_of_head(folder, weights, config.tokens, config.target.vocab_size)
    fill(folder / WEIGHTS, dict(parameters_of(net)), weights, "the target's block")
    kind = product_type(next(iter(weights.values())).dtype, target)
    net = net.to(target.device, kind).eval().requires_grad_(False)
    net.share_head(target, tokens)
    return net, tokens.to(target.device)


def _read_config(folder: Path) -> FeatureConfig:
    config = own_config(folder, FeatureConfig)
    if not config.taps or not 1 <= config.tokens <= config.target.vocab_size:
        raise ModelError(f"{folder / CONFIG} is broken: it has taps {list(config.taps)} and {config.tokens} tokens")
    refuse_unknown_form(folder / CONFIG, config.form, config.taps)
    return config


def own_config(folder: Path, kind: type[Own]) -> Own:
    """The config.json of a drafter of ours as a dataclass. Raises ModelError if it is another."""
    try:
        said = strictjson.parse(read_text(folder / CONFIG))
        if isinstance(said, dict) and said.get("version") != VERSION:
            raise ModelError(
                f"the drafter in {folder} is of version {said.get('version')!r}, and version {VERSION} is read here; train it "
                "anew, or use the draftgraph that wrote it"
            )
        config: Own = strictjson.build(kind, said, CONFIG)
    except OSError as error:
        raise ModelError(f"cannot read {folder / CONFIG}: {error.strerror}") from error
    except BrokenFileError as error:
        raise ModelError(f"{folder / CONFIG} is broken: {error}") from error
    return config


def entries_of_head(folder: Path, weights: dict[str, torch.Tensor], count: int, vocab_size: int) -> torch.Tensor:
    """The target's id of every entry of the head, i64[count], taken out of the weights. Raises ModelError."""
    tokens = weights.pop(TOKENS, torch.empty(0)).long()
    distinct = set(tokens.flatten().tolist())
    if tokens.shape != (count,) or len(distinct) != count or max(distinct) >= vocab_size:
        raise ModelError(f"{folder / WEIGHTS} does not name {count} different tokens of the target's vocabulary")
    if min(distinct) < 0:
        raise ModelError(f"{folder / WEIGHTS} names a token below 0")
    return tokens
