"""From which confidence on a drafter is right more often than not: a mixture of two Beta laws, as in FREE (arXiv 2310.05424).

Confidences are those of `TokenTree.confidence`. Those of tokens that the target agreed with have one Beta law, the others have
another. Each is fitted by maximum likelihood: log B(a, b) is convex, so that Newton's method finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from draftgraph.backends.features import TrainedNetwork
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.batches import grouped, make_batch
from draftgraph.lab.train.features.unroll import Read, read_target, steps_of

EDGE = 1e-3
"""Confidences are kept away from 0 and 1, where a Beta law may have no mass or infinite density."""
STEPS, GRID = 60, 2000
FEWEST = 8
"""Labels of one kind that a law is fitted to at least."""


@torch.no_grad()
def labelled(
    net: TrainedNetwork, target: PreTrainedModel, tokens: torch.Tensor, answers: Sequence[Answer], rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences f[n] of a drafter behind every token of answers, and bool[n] whether its best token is the target's.

    tokens  i64[K] of the head. rows  padded rows per pass.
    """
    confidences, agreed = [], []
    for group in grouped(answers, rows):
        batch = make_batch(group, tokens.device)
        read, learnt = Read(*read_target(target, batch.tokens, net.shape.taps)), batch.rows(0)
        (output,) = steps_of(net, read, batch.tokens, 1)
        best = net.logits(output.flatten(0, 1)[learnt]).float().softmax(-1).topk(2, dim=-1)
        confidences.append(best.values[:, 0] - best.values[:, 1])
        agreed.append(tokens[best.indices[:, 0]] == read.logits.flatten(0, 1)[learnt].argmax(-1))
    return torch.cat(confidences), torch.cat(agreed)


@dataclass(frozen=True)
class Beta:
    """The density x^(a − 1) (1 − x)^(b − 1) / B(a, b)."""

    a: float
    b: float

    @classmethod
    def fitted(cls, values: torch.Tensor) -> Beta:
        """Of greatest likelihood. values  f64[n] between 0 and 1; two more keep the law wide where they are all alike."""
        values = torch.cat([values, values.new_tensor([0.25, 0.75])])
        logs = torch.stack([values.log().mean(), (-values).log1p().mean()])
        mean, spread = values.mean(), values.var(correction=0).clamp(min=1e-6)
        sizes = torch.stack([mean, 1.0 - mean]) * (mean * (1.0 - mean) / spread - 1.0).clamp(min=0.1)
        for _ in range(STEPS):
            whole = sizes.sum()
            # d log-likelihood / d (a, b) = ψ(a + b) − ψ(a, b) + mean log
            slope = torch.special.digamma(whole) - torch.special.digamma(sizes) + logs
            bend = torch.special.polygamma(1, whole) - torch.diag(torch.special.polygamma(1, sizes))
            step = torch.linalg.solve(bend, slope)
            sizes = torch.where(sizes - step > 0.0, sizes - step, sizes / 2.0)
        return cls(float(sizes[0]), float(sizes[1]))

    def masses(self, places: torch.Tensor) -> torch.Tensor:
        """f64[n] that sum to one: the law on a grid."""
        return torch.softmax((self.a - 1.0) * places.log() + (self.b - 1.0) * (-places).log1p(), dim=0)


@dataclass(frozen=True)
class Mixture:
    """agree, differ  laws of the confidence where target and drafter agree, and where they do not. share  of agreement."""

    agree: Beta
    differ: Beta
    share: float

    @property
    def threshold(self) -> float:
        """The threshold that is right most often: confidences above it are taken for agreement, the others are not."""
        places = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
        above = self.share * (1.0 - self.agree.masses(places).cumsum(0))
        below = (1.0 - self.share) * self.differ.masses(places).cumsum(0)
        right = torch.cat([torch.tensor([self.share], dtype=torch.float64), above + below])
        return int(right.argmax()) / GRID


def fit(confidences: torch.Tensor, agreed: torch.Tensor) -> Mixture | None:
    """The mixture of labelled confidences f[n] and bool[n]; None where labels of one kind are too few to say."""
    inside = confidences.double().cpu().clamp(EDGE, 1.0 - EDGE)
    labels = agreed.bool().cpu()
    if min(int(labels.sum()), int((~labels).sum())) < FEWEST:
        return None
    return Mixture(Beta.fitted(inside[labels]), Beta.fitted(inside[~labels]), float(labels.double().mean()))
