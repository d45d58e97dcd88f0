"""What training makes small: the distance from the target's law over the reduced head, step by step, and what goes with it."""

from __future__ import annotations

import torch
from torch.nn import functional

from draftgraph.backends.features import FeatureNetwork, TrainedNetwork
from draftgraph.backends.masked_net import MaskedNet
from draftgraph.lab.train.features.batches import Batch
from draftgraph.lab.train.features.masked import masked_loss
from draftgraph.lab.train.features.recipe import LATER, Objective
from draftgraph.lab.train.features.unroll import Read, steps_of

BEST = 10
"""Likeliest entries of the target that `Objective.best` looks at."""


def loss(
    net: TrainedNetwork,
    read: Read,
    batch: Batch,
    count: int,
    objective: Objective = Objective(),  # noqa: B008 - it is frozen
    entries: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over answer rows of `count` steps, later ones counting less.

    read     what the target says over the drafter's tokens: p and q are laws over those alone.
    entries  i64[V] of the head by token, -1 for none; asked for by `Objective.agree`.
    """
    if isinstance(net, MaskedNet) and entries is not None:
        return masked_loss(net, read, batch, objective.revealed, entries)
    total = read.logits.new_zeros((), dtype=torch.float32)
    weights = 0.0
    for step, (output, rows) in enumerate(counted(net, read, batch, count, objective, entries)):
        weight = LATER**step
        total = total + weight * _distance(net, output, rows, step, read, objective) / max(1, len(rows))
        weights += weight
    return total / weights


def counted(
    net: TrainedNetwork, read: Read, batch: Batch, count: int, objective: Objective, entries: torch.Tensor | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of every step its outputs f[b, T, d], and the rows i64[n] that count, by the number of their roots."""
    block = count if objective.blocks else 0
    outputs = steps_of(net, read, batch.tokens, 1 if block else count, block, batch.learnt)
    agreed = torch.ones_like(batch.tokens, dtype=torch.bool).flatten()
    found = []
    for step, output in enumerate(outputs):
        rows = batch.rows(step)
        rows = rows[agreed[rows]]
        found.append((output, rows))
        if objective.agree and entries is not None:
            agreed[rows] = _among_best(
                net, output, rows, entries[batch.tokens.flatten()[rows + step + 1]], objective.agree
            )
    return found


@torch.no_grad()
def _among_best(
    net: TrainedNetwork, output: torch.Tensor, rows: torch.Tensor, said: torch.Tensor, count: int
) -> torch.Tensor:
    """bool[n] whether the entries i64[n] of the text are among the `count` likeliest of these rows."""
    logits = net.logits(output.flatten(0, 1)[rows])
    return (logits.topk(min(count, logits.shape[-1]), dim=-1).indices == said[:, None]).any(dim=-1)


def _distance(
    net: TrainedNetwork, output: torch.Tensor, rows: torch.Tensor, step: int, read: Read, objective: Objective
) -> torch.Tensor:
    """In nats, and in what features are measured in; summed over rows."""
    flat, there = output.flatten(0, 1)[rows], rows + step
    logits, theirs = net.logits(flat).float(), read.logits.flatten(0, 1)[there].float()
    q, p = logits.log_softmax(-1), theirs.log_softmax(-1)
    total = objective.law * functional.kl_div(q, p, reduction="sum", log_target=True)
    if objective.best:
        best = p.topk(min(BEST, p.shape[-1]), dim=-1).indices
        nearest = functional.kl_div(q.gather(-1, best), p.gather(-1, best), reduction="sum", log_target=True)
        total = total + objective.best * nearest
    if objective.feature and isinstance(net, FeatureNetwork):
        feature = read.features.flatten(0, 1)[there].float()
        apart = functional.smooth_l1_loss(net.carried(flat).float(), feature, reduction="none")
        total = total + objective.feature * apart.mean(dim=-1).sum()
    return total
