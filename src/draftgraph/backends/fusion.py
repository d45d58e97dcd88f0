"""How a drafter's row joins the token that it reads with the feature of the row above it.

All of them read tokens and features that are normed:

    linear       A [token ; feature]
    token_gated  z = linear;  z + D (act(G token) ⊙ U norm(z))       the token says how the feature goes on (FSPAD)
    token_mlp    z = linear;  z + D act(M [norm(z) ; token])         (GRIFFIN)
    trigram      u = [the last three tokens];  P (u + act(L u))      the feature makes keys and values alone (Chimera)

Sources: FSPAD, arXiv 2408.15562; GRIFFIN, arXiv 2502.11018; Chimera, arXiv 2402.15758.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import nn
from torch.nn import functional

START = 0.3
"""Root mean square of tokens and features in the residual at the start. On the story model 60 updates bring EAGLE's acceptance at
position 1 to .38 with it, to .33 with 1, and to .19 with the 10 and 20 of `features.py`.
"""


class Fusion(nn.Module):
    """window  tokens that a row reads: its own, and those before it.

    apart  whether keys and values are made of the feature alone, which then is no part of what the row reads.
    """

    window: ClassVar[int] = 1
    apart: ClassVar[bool] = False

    @abstractmethod
    def forward(self, tokens: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        """f[…, d] of tokens f[…, window · d], the row's own last, and of feature f[…, d]."""

    @abstractmethod
    def start(self) -> None:
        """Weights to begin with."""


class Linear(Fusion):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.both = nn.Linear(2 * width, width, bias=False)

    def forward(self, tokens: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        joined: torch.Tensor = self.both(torch.cat([tokens, feature], dim=-1))
        return joined.to(feature.dtype)  # products may be narrower than what they are added to

    @torch.no_grad()
    def start(self) -> None:
        token, feature = torch.split(self.both.weight, self.width, dim=1)
        nn.init.normal_(token, std=START * self.width**-0.5)
        nn.init.normal_(feature, std=0.02 * START).add_(START * torch.eye(self.width, device=feature.device))


class TokenGated(Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.gate, self.up = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, tokens: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        joined = super().forward(tokens, feature)
        return cast(torch.Tensor, joined + self.down(self.gates(tokens) * self.up(self.norm(joined))))

    def gates(self, tokens: torch.Tensor) -> torch.Tensor:
        """f[…, 2d]: how much of every unit goes on, which the tokens f[…, d] say alone."""
        return functional.silu(self.gate(tokens))


class TokenMlp(Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(2 * width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)

    def forward(self, tokens: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        joined = super().forward(tokens, feature)
        units = functional.silu(self.up(torch.cat([self.norm(joined), tokens], dim=-1)))
        return cast(torch.Tensor, joined + self.down(units))


class Trigram(Fusion):
    window = 3
    apart = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.inner = nn.Linear(3 * width, 3 * width)
        self.project = nn.Linear(3 * width, width, bias=False)

    def forward(self, tokens: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.project(tokens + functional.silu(self.inner(tokens)))
        return projected.to(feature.dtype)

    @torch.no_grad()
    def start(self) -> None:
        nn.init.normal_(self.project.weight, std=START * self.width**-0.5)
        self.project.weight[:, : -self.width] *= 0.5  # the row's own token says most
        nn.init.zeros_(self.inner.bias)


FUSIONS: Mapping[str, type[Linear] | type[Trigram]] = {
    "linear": Linear,
    "token_gated": TokenGated,
    "token_mlp": TokenMlp,
    "trigram": Trigram,
}
