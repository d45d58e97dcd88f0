"""Networks that can be trained, by name: what they are made of, what they read, and what training makes small."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PretrainedConfig, PreTrainedModel

from draftgraph.backends.cross import CROSS
from draftgraph.backends.eagle3_export import packed_eagle3
from draftgraph.backends.exit_net import ExitNet, ExitShape
from draftgraph.backends.feature_files import packed
from draftgraph.backends.features import FeatureNet, FeatureShape, TrainedNetwork, default_taps
from draftgraph.backends.masked_net import MaskedNet, MaskedShape
from draftgraph.backends.own_networks import Form, make_network
from draftgraph.backends.paired import Norms, PairedNet, block_of
from draftgraph.backends.taps import HELD, PREFIX
from draftgraph.backends.text_files import packed_exit, packed_masked
from draftgraph.lab.train.features.names import EXIT, OWN, SLOTS, SPECDIFF
from draftgraph.lab.train.features.recipe import Objective, Recipe, Stage


@dataclass(frozen=True)
class Network:
    """make  a network of random weights, from its sizes and the target's configuration.

    packed     its files by name, from the network, the tokens of its head, the target and the type of the weights.
    ordered    the tokens of the head in the order that the files ask for; they come with the most frequent first.
    taps       what it reads of a target with so many layers.
    objective  what training makes small. stages  of training.
    trusted    whether a threshold for rule 'confidence' is fitted to it.
    """

    make: Callable[[FeatureShape, PretrainedConfig], TrainedNetwork]
    packed: Callable[[Any, torch.Tensor, PreTrainedModel, torch.dtype], Mapping[str, bytes]]
    ordered: Callable[[Sequence[int]], list[int]] = list
    taps: Callable[[int], tuple[str, ...]] = default_taps
    objective: Objective = Recipe.objective
    stages: tuple[Stage, ...] = Recipe.stages
    trusted: bool = False


def _packed_eagle3(
    net: PairedNet, tokens: torch.Tensor, target: PreTrainedModel, dtype: torch.dtype
) -> Mapping[str, bytes]:
    return packed_eagle3(net, tokens, target.config.get_text_config(decoder=True).num_hidden_layers, dtype)


def last_state(layers: int) -> tuple[str, ...]:
    """What the target's head reads."""
    return (f"{PREFIX}{layers}",)


def last_keys(layers: int) -> tuple[str, ...]:
    """Keys and values of the last layer."""
    return tuple(f"{part}{layers - 1}" for part in HELD)


def published(
    fuse: str,
    heads: str,
    objective: Objective,
    stages: tuple[Stage, ...],
    taps: Callable[[int], tuple[str, ...]] = last_state,
) -> Network:
    """A network of a paper, by its options. Raises ModelError, when it is made, if the target has no place for it."""
    form: Form = fuse, heads
    return Network(lambda shape, config: make_network(form, shape, config), packed, list, taps, objective, stages)


ONE_STEP = (Stage("one step", 1, 1.0),)
UNROLLED = (Stage("one step", 1, 0.4), Stage("two steps", 2, 0.3), Stage("three steps", 3, 0.3))
ALIGNED = Objective(law=0.1, feature=1.0)


@dataclass(frozen=True)
class Sizes:
    """What may be asked for; None: the default.

    layer   after which an exit leaves the target. slots  tokens of a block. passes  that fill it.
    """

    layer: int | None = None
    slots: int | None = None
    passes: int | None = None


PASSES = 2


def exit_network(sizes: Sizes) -> Network:
    """An early exit: one step is learnt, for later ones are the same rows."""

    def make(shape: FeatureShape, config: PretrainedConfig) -> ExitNet:
        layers = config.get_text_config(decoder=True).num_hidden_layers
        layer = min(layers - 1, max(2, layers // 6)) if sizes.layer is None else sizes.layer
        return ExitNet(ExitShape(shape.width, (), shape.tokens, layer), config)

    return Network(make, packed_exit, list, nothing, stages=ONE_STEP, trusted=True)


def masked_network(sizes: Sizes, passes: int, objective: Objective) -> Network:
    """Masked blocks, all slots of which are learnt at once."""
    slots = SLOTS if sizes.slots is None else sizes.slots
    filled = passes if sizes.passes is None else sizes.passes

    def make(shape: FeatureShape, config: PretrainedConfig) -> MaskedNet:
        return MaskedNet(MaskedShape(shape.width, (), shape.tokens, slots, passes=filled), config)

    return Network(make, packed_masked, list, nothing, objective, (Stage("blocks", slots, 1.0),))


def nothing(layers: int) -> tuple[str, ...]:
    """Networks that read the text alone take no hidden states."""
    return ()


SIZED: Mapping[str, Callable[[Sizes], Network]] = {
    EXIT: exit_network,
    "specdec": lambda sizes: masked_network(sizes, 1, Objective()),
    SPECDIFF: lambda sizes: masked_network(sizes, PASSES, Objective(revealed=0.5)),
}
"""Sources: FREE, arXiv 2310.05424; SpecDec, 2203.16487; SpecDiff, 2408.05636."""


def network_of(name: str, sizes: Sizes) -> Network:
    """A network by name, of the sizes that were asked for where it has them."""
    return SIZED[name](sizes) if name in SIZED else NETWORKS[name]


NETWORKS: Mapping[str, Network] = {
    OWN: Network(FeatureNet, packed),
    "eagle3": Network(
        lambda shape, config: PairedNet(shape, block_of(config), Norms()),
        _packed_eagle3,
        cast("Callable[[Sequence[int]], list[int]]", sorted),
    ),
    "eagle": published("linear", "one", ALIGNED, ONE_STEP),
    "hass": published("linear", "one", Objective(law=0.1, feature=1.0, best=0.5), UNROLLED),
    "fspad": published("token_gated", "two", ALIGNED, ONE_STEP),
    "griffin": published("token_mlp", "two", Objective(law=0.1, feature=1.0, best=0.5, agree=3), UNROLLED),
    "chimera": published("trigram", "depth", Objective(), (Stage("four steps", 4, 1.0),)),
    "glide": published(CROSS, "one", Objective(blocks=True), (Stage("blocks of five", 5, 1.0),), last_keys),
    **{name: make(Sizes()) for name, make in SIZED.items()},
}
"""Sources: EAGLE, arXiv 2401.15077; HASS, 2408.15766; FSPAD, 2408.15562; GRIFFIN, 2502.11018; Chimera, 2402.15758; GliDe,
2402.02082.
"""
