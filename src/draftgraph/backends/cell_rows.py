"""The rows of many requests in one pass over cells: what they read, where they go, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from draftgraph.backends.base import Feed, Scored
from draftgraph.backends.masks import Mask


@contextmanager
def entering(feeds: Sequence[Feed]) -> Iterator[None]:
    """A pass that enters these feeds into their texts. If it fails, nothing of it stays there."""
    before = [(feed.text, len(feed.text), len(feed.text.nodes)) for feed in feeds]
    try:
        yield
    except BaseException:
        for text, length, nodes in before:
            text.take_back(length, nodes)
        raise


def lay_out(
    batch: Sequence[Feed], slots: list[int], width: int, hidden: float
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], list[int]]:
    """Give every row its slot, its position and what it may read; enter the rows into their requests' state.

    Returns an additive mask f32[rows, width] (0 visible, `hidden` not) and the positions.
    """
    mask = np.empty((len(slots), width), dtype=np.float32)
    positions: list[int] = []
    start = 0
    for rows in batch:
        text, fed = rows.text, len(rows.committed)
        mine = np.array(slots[start : start + fed + len(rows.tokens)], dtype=np.int64)
        committed = np.full(width, hidden, dtype=np.float32)  # once for all rows: they are many in a tree
        committed[text.slots] = 0.0
        mask[start : start + len(mine)] = committed
        positions.extend(range(len(text), len(text) + fed))
        if fed:
            mask[start : start + fed, mine[:fed]] = np.where(
                np.tri(fed, dtype=bool), np.float32(0.0), np.float32(hidden)
            )
            mask[start + fed : start + len(mine), mine[:fed]] = 0.0
            text.slots = np.append(text.slots, mine[:fed])
        for i, slot in enumerate(mine[fed:].tolist()):
            path = [*rows.ancestors(i), slot]
            mask[start + fed + i, path] = 0.0
            positions.append(len(text) + len(path) - 1)
            text.nodes.append(path)
        start += len(mine)
    return mask, positions


def led(mask: Mask, slot: int, hidden: float) -> Mask:
    """The mask with a first row that reads its own slot only, and that no other row reads."""
    first = np.full((1, mask.shape[1]), hidden, dtype=np.float32)
    first[0, slot] = 0.0
    return np.concatenate([first, mask])


def wanted(batch: Sequence[Feed], lead: int) -> int | torch.Tensor:
    """Which rows need logits: per request the last committed one and the drafted ones. lead  rows in front of them all."""
    if len(batch) == 1:
        return batch[0].num_logits
    return torch.tensor([lead + row for row in wanted_rows(batch)])


def wanted_rows(feeds: Sequence[Feed]) -> list[int]:
    """Rows of a pass that need logits: per request the last committed one and the drafted ones."""
    wanted: list[int] = []
    end = 0
    for feed in feeds:
        end += feed.num_rows
        wanted.extend(range(end - feed.num_logits, end))
    return wanted


def apart(feeds: Sequence[Feed], logits: torch.Tensor, states: Mapping[str, torch.Tensor]) -> list[Scored]:
    """To every request its rows of the logits f[rows, V] and of the hidden states f[1, rows, width]."""
    taps = {name: torch.split(rows[0], [feed.num_rows for feed in feeds]) for name, rows in states.items()}
    parts = torch.split(logits, [feed.num_logits for feed in feeds])
    return [Scored(part, {name: tap[i] for name, tap in taps.items()}) for i, part in enumerate(parts)]
