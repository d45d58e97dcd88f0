"""Trained drafters that read the text alone, on disk: early exits and masked blocks.

A folder holds config.json and model.safetensors: the parameters that were trained, by their names, and `tokens` i32[K], the
target's id of every entry of the head. Everything else is the target's.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import safetensors.torch
import torch

from draftgraph.backends.checkpoint import CONFIG, WEIGHTS, Rules, fill, read_safetensors
from draftgraph.backends.ends import Ends
from draftgraph.backends.exit_model import ExitModel
from draftgraph.backends.exit_net import ExitNet, ExitShape
from draftgraph.backends.feature_files import TOKENS, VERSION, TargetSizes, entries_of_head, own_config
from draftgraph.backends.features import TrainedNetwork, parameters_of
from draftgraph.backends.masked_model import MaskedModel
from draftgraph.backends.masked_net import MaskedNet, MaskedShape
from draftgraph.errors import ModelError

EXIT, MASKED = "draftgraph-exit", "draftgraph-masked"
LARGEST_BLOCK = 256
"""Slots and decoder blocks that a file may ask for: more are a broken file."""


@dataclass(frozen=True)
class ExitConfig:
    """What config.json says of an early exit."""

    kind: str
    version: int
    tokens: int
    layer: int
    target: TargetSizes


@dataclass(frozen=True)
class MaskedConfig:
    """What config.json says of masked blocks."""

    kind: str
    version: int
    tokens: int
    slots: int
    blocks: int
    passes: int
    target: TargetSizes


Config = TypeVar("Config", ExitConfig, MaskedConfig)


class TextLayout(Generic[Config]):
    """Reads folders of one kind. kind  in config.json. config  what that says."""

    name: ClassVar[str]
    kind: ClassVar[str]
    config: type[Config]

    def recognises(self, said: Mapping[str, Any]) -> bool:
        """Whether config.json says that it is of this kind, of whatever version."""
        return said.get("kind") == self.kind

    def taps(self, folder: Path, said: Mapping[str, Any], layers: int) -> tuple[str, ...]:
        """None: it reads the text alone. Raises ModelError for a broken folder."""
        self.read_config(folder)
        return ()

    def read_config(self, folder: Path) -> Config:
        """What config.json says. Raises ModelError for numbers that make no sense."""
        config = own_config(folder, self.config)
        if not 1 <= config.tokens <= config.target.vocab_size or self.broken(config):
            numbers = {name: value for name, value in vars(config).items() if isinstance(value, int)}
            raise ModelError(f"{folder / CONFIG} is broken: its numbers {numbers} do not fit each other")
        return config

    def rules(self, folder: Path, said: Mapping[str, Any], target: Ends) -> Rules:
        """What must hold of the folder and its target."""

        def same() -> str:
            self.read_config(folder).target.refuse_other(folder, target)
            return "sizes and embeddings are those that it was trained for"

        def weights() -> str:
            net, tokens = self.network(folder, target)
            own = sum(weight.numel() for _, weight in parameters_of(net))
            return f"{own:,} parameters, complete and finite; {len(tokens)} tokens"

        return {
            "configuration": lambda: f"draftgraph, {self.about(self.read_config(folder))}",
            "same target": same,
            "hidden states": lambda: "none: it reads the text alone",
            "weights": weights,
        }

    @abstractmethod
    def broken(self, config: Config) -> bool:
        """Whether its own numbers make no sense."""

    @abstractmethod
    def about(self, config: Config) -> str:
        """The drafter in words."""

    @abstractmethod
    def network(self, folder: Path, target: Ends) -> tuple[TrainedNetwork, torch.Tensor]:
        """The network on the target's device, of its type, and the tokens of its head i64[K]. Raises ModelError or PairError."""

    def filled(self, folder: Path, net: TrainedNetwork, config: ExitConfig | MaskedConfig) -> torch.Tensor:
        """Read the trained parameters into a network. Returns the tokens of its head."""
        weights = read_safetensors(folder / WEIGHTS)
        tokens = entries_of_head(folder, weights, config.tokens, config.target.vocab_size)
        fill(folder / WEIGHTS, dict(parameters_of(net)), weights, "the target's block")
        return tokens


class ExitLayout(TextLayout[ExitConfig]):
    """Early exits."""

    name: ClassVar[str] = "early exits"
    kind, config = EXIT, ExitConfig

    def broken(self, config: ExitConfig) -> bool:
        return not 1 <= config.layer < config.target.num_hidden_layers

    def about(self, config: ExitConfig) -> str:
        return f"an exit after layer {config.layer}, {config.tokens} entries of the head"

    def network(self, folder: Path, target: Ends) -> tuple[ExitNet, torch.Tensor]:
        config = self.read_config(folder)
        config.target.refuse_other(folder, target)
        net = ExitNet(ExitShape(config.target.hidden_size, (), config.tokens, config.layer), target.config)
        tokens = self.filled(folder, net, config)
        net.block.to(target.dtype)
        net.borrow(target, tokens)
        return net.eval().requires_grad_(False), tokens.to(target.device)

    def read(self, folder: Path, said: Mapping[str, Any], target: Ends) -> ExitModel:
        """The drafter, of the target's type and on its device. Raises ModelError or PairError."""
        return ExitModel(*self.network(folder, target))


class MaskedLayout(TextLayout[MaskedConfig]):
    """Masked blocks."""

    name: ClassVar[str] = "masked blocks"
    kind, config = MASKED, MaskedConfig

    def broken(self, config: MaskedConfig) -> bool:
        numbers = config.slots, config.blocks, config.passes
        return not 1 <= min(numbers) <= max(numbers) <= LARGEST_BLOCK or config.passes > config.slots

    def about(self, config: MaskedConfig) -> str:
        passes = "one pass" if config.passes == 1 else f"{config.passes} passes, FIXED slots"
        return f"blocks of {config.slots} tokens in {passes}, {config.tokens} entries of the head"

    def network(self, folder: Path, target: Ends) -> tuple[MaskedNet, torch.Tensor]:
        config = self.read_config(folder)
        config.target.refuse_other(folder, target)
        sizes = config.slots, config.blocks, config.passes
        net = MaskedNet(MaskedShape(config.target.hidden_size, (), config.tokens, *sizes), target.config)
        tokens = self.filled(folder, net, config)
        net = net.to(target.device, target.dtype).eval().requires_grad_(False)
        net.share_head(target, tokens)
        return net, tokens.to(target.device)

    def read(self, folder: Path, said: Mapping[str, Any], target: Ends) -> MaskedModel:
        """The drafter, of the target's type and on its device. Raises ModelError or PairError."""
        return MaskedModel(*self.network(folder, target), target.get_input_embeddings())


def packed_exit(net: ExitNet, tokens: torch.Tensor, target: Ends, dtype: torch.dtype) -> dict[str, bytes]:
    """The files of an early exit by name; weights of type `dtype`. tokens  i64[K]."""
    config = ExitConfig(EXIT, VERSION, net.shape.tokens, net.shape.layer, TargetSizes.of(target))
    return _packed(net, tokens, config, dtype)


def packed_masked(net: MaskedNet, tokens: torch.Tensor, target: Ends, dtype: torch.dtype) -> dict[str, bytes]:
    """The files of masked blocks by name; weights of type `dtype`. tokens  i64[K]."""
    shape = net.shape
    config = MaskedConfig(
        MASKED, VERSION, shape.tokens, shape.slots, shape.blocks, shape.passes, TargetSizes.of(target)
    )
    return _packed(net, tokens, config, dtype)


def _packed(
    net: TrainedNetwork, tokens: torch.Tensor, config: ExitConfig | MaskedConfig, dtype: torch.dtype
) -> dict[str, bytes]:
    weights = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in parameters_of(net)}
    weights[TOKENS] = tokens.to("cpu", torch.int32)
    return {CONFIG: json.dumps(asdict(config), indent=1).encode(), WEIGHTS: safetensors.torch.save(weights)}
