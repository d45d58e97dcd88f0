"""Feature drafters on disk: a folder with config.json, of our own kind, and model.safetensors.

The embeddings and the head are the target's, and are not stored. So the folder says which target it belongs to: its sizes, and a
few numbers of its embeddings, which another type of weights rounds and another model does not have.

Tensors: the names of `FeatureNet`'s parameters, and `tokens` i32[K], the target's id of every entry of the head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch

from draftgraph import strictjson
from draftgraph.backends.features import FeatureNet, FeatureShape, parameters_of
from draftgraph.backends.taps import PREFIX
from draftgraph.errors import ModelError, PairError, first_line
from draftgraph.files import BrokenFileError, read_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KIND, VERSION = "draftgraph-features", 1
CONFIG, WEIGHTS, TOKENS = "config.json", "model.safetensors", "tokens"
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
    def of(cls, target: PreTrainedModel) -> TargetSizes:
        config = target.config.get_text_config(decoder=True)
        embeddings = cast(torch.Tensor, cast(Any, target.get_input_embeddings()).weight)
        rows = torch.linspace(0, embeddings.shape[0] - 1, SAMPLED_ROWS).long().to(embeddings.device)
        few = embeddings.detach()[rows, :SAMPLED_COLUMNS].float().flatten().tolist()
        sizes = config.hidden_size, config.num_hidden_layers, config.vocab_size
        return cls(config.model_type, *sizes, tuple(float(f"{number:.5g}") for number in few))

    def refuse_other(self, folder: Path, target: PreTrainedModel) -> None:
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


def holds_features(source: object) -> bool:
    """Whether `source` is a folder of a feature drafter, of whatever version."""
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return False
    try:
        config = json.loads(read_text(Path(source) / CONFIG))
    except (OSError, BrokenFileError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("kind") == KIND


def packed(net: FeatureNet, tokens: torch.Tensor, target: PreTrainedModel, dtype: torch.dtype) -> dict[str, bytes]:
    """The files of a feature drafter by name; weights of type `dtype`. tokens  i64[K]."""
    config = FeatureConfig(KIND, VERSION, net.shape.taps, net.shape.tokens, TargetSizes.of(target))
    weights = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in parameters_of(net)}
    weights[TOKENS] = tokens.to("cpu", torch.int32)
    return {CONFIG: json.dumps(asdict(config), indent=1).encode(), WEIGHTS: safetensors.torch.save(weights)}


def read_features(folder: Path, target: PreTrainedModel) -> tuple[FeatureNet, torch.Tensor]:
    """The drafter in a folder, of the target's type and on its device, and its tokens i64[K].

    Raises ModelError for files that are missing or broken, PairError for a drafter of another target.
    """
    config = _read_config(folder)
    config.target.refuse_other(folder, target)
    layers = config.target.num_hidden_layers
    for tap in config.taps:
        if tap not in {f"{PREFIX}{number}" for number in range(layers + 1)}:
            raise PairError(
                f"the drafter in {folder} reads tap {tap!r}, and the target has '{PREFIX}0' to '{PREFIX}{layers}'"
            )
    net = FeatureNet(FeatureShape(config.target.hidden_size, config.taps, config.tokens), target.config)
    weights = _read_weights(folder)
    tokens = _tokens(folder, weights, config)
    _fill(folder, net, weights)
    net = net.to(target.device, target.dtype).eval().requires_grad_(False)
    net.share_head(target, tokens)
    return net, tokens.to(target.device)


def _read_config(folder: Path) -> FeatureConfig:
    try:
        said = strictjson.parse(read_text(folder / CONFIG))
        if isinstance(said, dict) and said.get("version") != VERSION:
            raise ModelError(
                f"the drafter in {folder} is of version {said.get('version')!r}, and version {VERSION} is read here; train it "
                "anew, or use the draftgraph that wrote it"
            )
        config: FeatureConfig = strictjson.build(FeatureConfig, said, CONFIG)
    except OSError as error:
        raise ModelError(f"cannot read {folder / CONFIG}: {error.strerror}") from error
    except BrokenFileError as error:
        raise ModelError(f"{folder / CONFIG} is broken: {error}") from error
    if not config.taps or not 1 <= config.tokens <= config.target.vocab_size:
        raise ModelError(f"{folder / CONFIG} is broken: it has taps {list(config.taps)} and {config.tokens} tokens")
    return config


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / WEIGHTS
    try:
        return dict(safetensors.torch.load_file(file))
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
    except Exception as error:  # the library raises errors of its own, and others for sizes that make no sense
        raise ModelError(f"{file} is truncated or broken ({first_line(error)}); copy or train it again") from error


def _tokens(folder: Path, weights: dict[str, torch.Tensor], config: FeatureConfig) -> torch.Tensor:
    tokens = weights.pop(TOKENS, torch.empty(0)).long()
    distinct = set(tokens.flatten().tolist())
    if tokens.shape != (config.tokens,) or len(distinct) != config.tokens or max(distinct) >= config.target.vocab_size:
        raise ModelError(
            f"{folder / WEIGHTS} does not name {config.tokens} different tokens of the target's vocabulary"
        )
    if min(distinct) < 0:
        raise ModelError(f"{folder / WEIGHTS} names a token below 0")
    return tokens


@torch.no_grad()
def _fill(folder: Path, net: FeatureNet, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy the weights into the net; every one must be there, of its shape and finite."""
    file, needed = folder / WEIGHTS, dict(parameters_of(net))
    wrong = sorted(needed.keys() ^ weights.keys())
    if wrong:
        said = "lacks" if wrong[0] in needed else "has unknown"
        raise ModelError(f"{file} {said} the weight {wrong[0]!r}; {len(wrong)} names differ from the target's block")
    for name, weight in needed.items():
        if weight.shape != weights[name].shape:
            raise ModelError(
                f"{file}: the weight {name!r} has shape {list(weights[name].shape)}, and the target asks for "
                f"{list(weight.shape)}"
            )
        if not weights[name].isfinite().all():
            raise ModelError(f"{file}: the weight {name!r} holds NaN or infinite numbers")
        weight.copy_(weights[name])
