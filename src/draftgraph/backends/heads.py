"""What a drafter's row puts out: the logits of the next token, and what the row below it reads.

A state f[…, size] is all that is kept of a row:

    one    [output]                          both are the output
    two    [feature ; logit half]            the row below reads the one, the head reads the other (FSPAD, GRIFFIN)
    depth  [output ; root's feature ; depth] a head for every depth reads output and root's feature (Chimera)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import nn

from draftgraph.backends.ends import Ends
from draftgraph.backends.features import part_of_head

DEPTHS = 4
"""Depths with a head of their own; deeper rows share the last one."""


class Heads(nn.Module):
    """halves  outputs of the block, of width d each. passed  numbers that go past the block into the state."""

    halves: ClassVar[int] = 1

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.width, self.tokens, self.passed = width, tokens, 0

    @property
    def borrowed(self) -> nn.Module:
        """What is the target's, and is neither trained nor stored."""
        return nn.Identity()

    @abstractmethod
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits f[…, K] of states f[…, size]."""

    def start(self, target: Ends, tokens: torch.Tensor) -> None:
        """Begin with the target's head over `tokens` i64[K]."""

    def share(self, target: Ends, tokens: torch.Tensor) -> None:
        """Borrow the target's head over `tokens` i64[K]."""

    def carried(self, states: torch.Tensor) -> torch.Tensor:
        """What the row below reads f[…, d]."""
        return states[..., : self.width]

    def first(self, feature: torch.Tensor) -> torch.Tensor:
        """f[…, passed] of committed rows with these features f[…, d]."""
        return feature[..., :0]

    def later(self, states: torch.Tensor) -> torch.Tensor:
        """f[…, passed] of rows below those with these states."""
        return states[..., :0]


class Borrowed(Heads):
    """The target's head over the last d numbers of a state."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__(width, tokens)
        self.head = nn.Linear(width, tokens, bias=False)

    @property
    def borrowed(self) -> nn.Module:
        return self.head

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(states[..., -self.width :]))

    def start(self, target: Ends, tokens: torch.Tensor) -> None:
        self.share(target, tokens)

    def share(self, target: Ends, tokens: torch.Tensor) -> None:
        head = part_of_head(target.get_output_embeddings(), tokens)
        self.head = head.to(self.head.weight.device, self.head.weight.dtype).requires_grad_(False).train(self.training)


class TwoHeads(Borrowed):
    halves = 2


class DepthHeads(Heads):
    """weight  f[depths, K, 2d], trained: of every depth over [root's feature ; output]."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__(width, tokens)
        self.passed = width + 1
        self.weight = nn.Parameter(torch.zeros(DEPTHS, tokens, 2 * width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        outputs, roots, depths = torch.split(states, [self.width, self.width, 1], dim=-1)
        read, number = torch.cat([roots, outputs], dim=-1), depths[..., 0].round().long().clamp(max=DEPTHS - 1)
        logits = read.new_zeros((*read.shape[:-1], self.tokens))
        for depth in sorted(set(number.flatten().tolist())):
            here = number == depth
            logits[here] = nn.functional.linear(read[here], self.weight[depth]).to(logits.dtype)
        return logits

    @torch.no_grad()
    def start(self, target: Ends, tokens: torch.Tensor) -> None:
        self.weight[..., self.width :].copy_(part_of_head(target.get_output_embeddings(), tokens).weight)

    def first(self, feature: torch.Tensor) -> torch.Tensor:
        return torch.cat([feature, torch.zeros_like(feature[..., :1])], dim=-1)

    def later(self, states: torch.Tensor) -> torch.Tensor:
        passed = states[..., self.width :]
        return torch.cat([passed[..., :-1], passed[..., -1:] + 1.0], dim=-1)


HEADS: Mapping[str, type[Borrowed] | type[DepthHeads]] = {"one": Borrowed, "two": TwoHeads, "depth": DepthHeads}
