"""What masked blocks learn (SpecDec, arXiv 2203.16487; SpecDiff, arXiv 2408.05636).

Every slot of a block that is masked as a whole learns the target's laws of its token. Where some tokens are given, later ones
among them, the target states no law of the others: those learn the text itself. An update learns blocks that do not overlap.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from draftgraph.backends.masked_net import MaskedNet
from draftgraph.lab.train.features.batches import Batch
from draftgraph.lab.train.features.recipe import LATER
from draftgraph.lab.train.features.unroll import Read


def masked_loss(net: MaskedNet, read: Read, batch: Batch, revealed: float, entries: torch.Tensor) -> torch.Tensor:
    """Mean over slots that are masked, in nats, later ones counting less.

    revealed  share of blocks of which some tokens are given. entries  i64[V] of the head by token, -1 for none.
    """
    size = net.shape.slots
    roots, known = chosen(batch, size, revealed)
    outputs = net.blocks(read.embedded, roots, known)
    length = batch.tokens.shape[1]
    total, weights = read.logits.new_zeros((), dtype=torch.float32), 0.0
    for slot in range(size):
        learnt = batch.learnt.to(roots.device)[:, roots] & (roots + slot < length)
        learnt &= batch.learnt.to(roots.device)[:, (roots + slot).clamp(max=length - 1)] & ~known[..., slot]
        texts, blocks = learnt.nonzero(as_tuple=True)
        rows = roots[blocks] + slot
        q = net.logits(outputs[texts, blocks, slot]).float().log_softmax(-1)
        p = read.logits[texts, rows].float().log_softmax(-1)
        said = entries[batch.tokens[texts, rows + 1]]
        given = known[texts, blocks].any(dim=-1)
        whole, part = ~given, given & (said >= 0)
        distance = functional.kl_div(q[whole], p[whole], reduction="sum", log_target=True)
        distance = distance + functional.nll_loss(q[part], said[part], reduction="sum")
        total = total + LATER**slot * distance / max(1, int(whole.sum()) + int(part.sum()))
        weights += LATER**slot
    return total / weights


def chosen(batch: Batch, size: int, revealed: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows i64[R] whose blocks are learnt, and which tokens of them are given, bool[b, R, size].

    Both are functions of the batch, so that training can be resumed.
    """
    noise = torch.Generator().manual_seed(int(batch.tokens.sum()))
    texts, length = batch.tokens.shape
    first = int(torch.randint(size, (), generator=noise))
    roots = torch.arange(min(first, length - 1), length, size)
    some, share, each = (torch.rand(texts, len(roots), count, generator=noise) for count in (1, 1, size))
    known = (some < revealed) & (each < share)
    return roots.to(batch.tokens.device), known.to(batch.tokens.device)
