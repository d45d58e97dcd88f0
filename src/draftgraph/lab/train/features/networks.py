"""Networks that can be trained, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PretrainedConfig, PreTrainedModel

from draftgraph.backends.eagle3_export import packed_eagle3
from draftgraph.backends.feature_files import packed
from draftgraph.backends.features import FeatureNet, FeatureNetwork, FeatureShape
from draftgraph.backends.paired import Norms, PairedNet, block_of

OWN, EAGLE3 = "own", "eagle3"


@dataclass(frozen=True)
class Network:
    """make  a network of random weights, from its sizes and the target's configuration.

    packed   its files by name, from the network, the tokens of its head, the target and the type of the weights.
    ordered  the tokens of the head in the order that the files ask for; they come with the most frequent first.
    """

    make: Callable[[FeatureShape, PretrainedConfig], FeatureNetwork]
    packed: Callable[[Any, torch.Tensor, PreTrainedModel, torch.dtype], Mapping[str, bytes]]
    ordered: Callable[[Sequence[int]], list[int]] = list


def _packed_eagle3(
    net: PairedNet, tokens: torch.Tensor, target: PreTrainedModel, dtype: torch.dtype
) -> Mapping[str, bytes]:
    return packed_eagle3(net, tokens, target.config.get_text_config(decoder=True).num_hidden_layers, dtype)


NETWORKS: Mapping[str, Network] = {
    OWN: Network(FeatureNet, packed),
    EAGLE3: Network(
        lambda shape, config: PairedNet(shape, block_of(config), Norms()),
        _packed_eagle3,
        cast("Callable[[Sequence[int]], list[int]]", sorted),
    ),
}
