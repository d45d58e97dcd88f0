"""What is looked at in an answer, and how its values become cells that are expected often enough.

Every function of an answer is a sound view: two ways with one law give it one law. Cells are made from both ways together,
so that nothing about them favours a way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from draftgraph.lab.remote.answers import Answer

LEAST = 10
"""Answers that a cell holds at least, of both ways together."""
MOST_CELLS = 16
"""More would spread the differences so thin that less of them is seen."""
END = "<end>"

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """One thing that is looked at.

    name      "token 2", "tokens 1-3", "whole text", ...
    position  of the single token that it looks at, from 1; 0 for everything else.
    value     what an answer shows.
    """

    name: str
    position: int
    value: Callable[[Answer], Hashable]


def views_of(tokens: int, by_token: bool) -> list[View]:
    """What is looked at in texts of `tokens` tokens. by_token  whether the server tells tokens; else it is texts alone."""
    if not by_token:
        return [
            View("first word", 1, lambda answer: tuple(answer.text.split(maxsplit=1)[:1])),
            View("first two words", 0, lambda answer: tuple(answer.text.split(maxsplit=2)[:2])),
            View("whole text", 0, lambda answer: answer.text),
        ]
    singles = [View(f"token {k}", k, partial(_pieces, k, k)) for k in range(1, tokens + 1)]
    joint = [View(f"tokens 1-{k}", 0, partial(_pieces, 1, k)) for k in range(2, tokens + 1)]
    return singles + joint


def cells(values: Sequence[Hashable]) -> tuple[Codes, int]:
    """A cell i64[n] for every value, and the number of cells.

    Values in the order of their frequency fill cells of at least LEAST answers, at most about MOST_CELLS of them. So
    frequent values have cells of their own, rare ones share some, and the rarest are together.
    """
    counts = Counter(values)
    least = max(LEAST, len(values) / MOST_CELLS)
    cell_of: dict[Hashable, int] = {}
    cell, filled = 0, 0
    for value, count in sorted(counts.items(), key=lambda item: (-item[1], repr(item[0]))):
        cell_of[value] = cell
        filled += count
        if filled >= least:
            cell, filled = cell + 1, 0
    if filled and cell:  # the last cell is too small; it joins its neighbour
        cell_of = {value: min(each, cell - 1) for value, each in cell_of.items()}
    return np.array([cell_of[value] for value in values], dtype=np.int64), max(cell, 1)


def _pieces(first: int, last: int, answer: Answer) -> tuple[str, ...]:
    """Tokens `first` to `last`, from 1. A text that has ended goes on with END."""
    pieces = answer.pieces or ()
    return tuple(pieces[i] if i < len(pieces) else END for i in range(first - 1, last))
