"""Tiny random models on OpenVINO, each converted once per process, and decoding with them at random beside plain forwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from draftgraph.backends.base import CacheHandle, CausalLM, Feed
from draftgraph.backends.openvino import load
from draftgraph.backends.openvino.model import OpenVinoModel
from draftgraph.types import ROOT
from models import tiny_lm

WINDOW = 1500
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gpt2": {},
    "opt": {},
    "gpt_neox": {},
    "phi3": {"num_key_value_heads": 2, "original_max_position_embeddings": WINDOW, "sliding_window": None},
    "granite": {"num_key_value_heads": 2},
}


@cache
def lm(family: str = "llama", **options: Any) -> PreTrainedModel:
    return tiny_lm(family, window=WINDOW, **(FAMILIES[family] | options))


@cache
def converted(family: str = "llama", dtype: torch.dtype | None = None) -> OpenVinoModel:
    return load.from_loaded(lm(family), dtype, None)[0]


Choose = Callable[[int], int]
"""choose(n) -> a number from 0 to n - 1."""


@dataclass
class Text:
    """A request that is decoded at random. nodes  parent and token of every node of the round. read  tokens that were fed."""

    model: CausalLM
    tokens: list[int]
    handle: CacheHandle = field(init=False)
    nodes: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.handle = self.model.open(len(self.tokens))

    def path(self, node: int) -> list[int]:
        """Nodes from the root down to `node`."""
        found: list[int] = []
        while node != ROOT:
            found.append(node)
            node = self.nodes[node][0]
        return found[::-1]

    def ids(self, node: int) -> list[int]:
        return [*self.tokens, *(self.nodes[each][1] for each in self.path(node))]

    def draw(self, choose: Choose, first: bool) -> tuple[Feed, list[list[int]]] | None:
        """The next feed, and the texts whose last rows it asks for; None if there is nothing to feed."""
        unread = self.tokens[len(self.handle) :] if first else []
        count, chain, before = choose(8), choose(2), len(self.nodes)
        tokens, parents = [], []
        for _ in range(count):
            parent = len(self.nodes) - 1 if chain else choose(len(self.nodes) + 1) - 1
            self.nodes.append((parent, choose(64)))
            tokens.append(self.nodes[-1][1])
            parents.append(parent)
        if not unread and not tokens:
            return None
        asked = ([self.tokens] if unread else []) + [self.ids(node) for node in range(before, len(self.nodes))]
        return Feed(self.handle, unread, tokens, parents), asked

    def keep(self, choose: Choose) -> None:
        """Keep a path down to any node, often the last one, which leaves a wide hole; and emit a token."""
        last = len(self.nodes) - 1
        path = self.path(last if choose(2) else choose(len(self.nodes) + 1) - 1)
        self.model.keep(self.handle, path)
        self.tokens = [*self.tokens, *(self.nodes[node][1] for node in path), choose(64)]
        self.nodes = []


@torch.inference_mode()
def decode(model: CausalLM, truth: PreTrainedModel, lengths: list[int], choose: Choose, rounds: int) -> float:
    """How far the logits of passes are from those of plain forwards, over all rows, as a share of their scale."""
    texts = [Text(model, [choose(64) for _ in range(length)]) for length in lengths]
    worst = 0.0
    for text in texts:
        while len(text.tokens) - len(text.handle) > model.most_rows:
            model.forward([Feed(text.handle, text.tokens[len(text.handle) :][: model.most_rows])])
    for _ in range(rounds):
        for number in range(1 + choose(3)):
            drawn = [found for text in texts if (found := text.draw(choose, number == 0)) is not None]
            scored = model.forward([feed for feed, _ in drawn]) if drawn else []
            for (_, asked), rows in zip(drawn, scored, strict=True):
                plain = torch.stack([truth(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in asked])
                scale = (plain - plain.mean(dim=1, keepdim=True)).abs().max()
                worst = max(worst, float((rows.logits - plain).abs().max() / scale))
        for text in texts:
            text.keep(choose)
            assert len(text.handle) == len(text.tokens) - 1
    for text in texts:
        model.close(text.handle)
    return worst
