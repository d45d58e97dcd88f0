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


def enter(batch: Sequence[Feed], slots: Sequence[int]) -> list[int]:
    """Enter the rows into their requests' state, each with its slot. Returns their positions."""
    positions: list[int] = []
    start = 0
    for feed in batch:
        text, fed = feed.text, len(feed.committed)
        mine = slots[start : start + feed.num_rows]
        positions.extend(range(len(text), len(text) + fed))
        if fed:
            text.slots = np.append(text.slots, mine[:fed])
        for i, slot in enumerate(mine[fed:]):
            path = [*feed.ancestors(i), slot]
            positions.append(len(text) + len(path) - 1)
            text.nodes.append(path)
        start += feed.num_rows
    return positions


def mask_of(batch: Sequence[Feed], width: int, hidden: float) -> Mask:
    """What rows that have been entered may read: an additive mask f32[rows, width], 0 visible, `hidden` not."""
    mask = np.empty((sum(feed.num_rows for feed in batch), width), dtype=np.float32)
    start = 0
    for feed in batch:
        text, fed, end = feed.text, len(feed.committed), start + feed.num_rows
        visible = np.full(width, hidden, dtype=np.float32)  # once for all rows: they are many in a tree
        visible[text.slots] = 0.0
        mask[start:end] = visible
        if fed > 1:
            mask[start : start + fed, text.slots[-fed:]] = np.where(
                np.tri(fed, dtype=bool), np.float32(0.0), np.float32(hidden)
            )
        for row, path in enumerate(text.nodes[len(text.nodes) - len(feed.tokens) :], start + fed):
            mask[row, path] = 0.0
        start = end
    return mask


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


def split(feeds: Sequence[Feed], logits: torch.Tensor, states: Mapping[str, torch.Tensor]) -> list[Scored]:
    """To every request its rows of the logits f[rows, V] and of the hidden states f[1, rows, width]."""
    taps = {name: torch.split(rows[0], [feed.num_rows for feed in feeds]) for name, rows in states.items()}
    parts = torch.split(logits, [feed.num_logits for feed in feeds])
    return [Scored(part, {name: tap[i] for name, tap in taps.items()}) for i, part in enumerate(parts)]


def needs_lead(feeds: Sequence[Feed], switch: int) -> bool:
    """Whether the first pieces of a long text are read, whose own positions would not tell that it is long.

    Then a row that nobody reads goes first, at a position that does. switch  see `CausalLM.switch`.
    """
    return all(feed.text.stretched and len(feed.text) + len(feed.committed) <= switch for feed in feeds)
