"""One prompt decoded plain and drafted: both texts beside each other, with both speeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from draftgraph.request.result import Result
from draftgraph.view.printing import pieces
from draftgraph.view.terminal import tokens_per_second, transcript


@dataclass(frozen=True)
class Side:
    """The same request, decoded several times in one way; the last result is shown, speeds are medians."""

    title: str
    results: Sequence[Result]

    @property
    def shown(self) -> Result:
        return self.results[-1]

    @property
    def speed(self) -> float:
        """Output tokens per second, reading the prompt included."""
        return statistics.median(tokens_per_second(result.stats) for result in self.results)

    @property
    def per_call(self) -> float:
        """Tokens per target call."""
        return self.shown.stats.mean_acceptance_length


def side_by_side(plain: Side, drafted: Side, prompt: str, tokenizer: Any) -> Table:
    """Two columns: the texts, coloured by who chose each token, and the figures below them."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), expand=True)
    before = tokenizer(prompt)["input_ids"]
    for side in (plain, drafted):
        table.add_column(side.title, ratio=1, overflow="fold")
    texts = [
        Text.assemble(
            (prompt, "dim"),
            transcript(side.shown.rounds, pieces(tokenizer, before, side.shown.token_ids)),
        )
        for side in (plain, drafted)
    ]
    table.add_row(*texts)
    table.add_row("", "")
    table.add_row(
        *(Text(f"{side.speed:.0f} tokens/s, {side.per_call:.1f} per target call", "bold") for side in (plain, drafted))
    )
    return table


def comparison(plain: Side, drafted: Side) -> str:
    """What the two columns show, in one sentence."""
    faster = f"{drafted.speed / plain.speed:.2f} times as fast"
    if plain.shown.token_ids == drafted.shown.token_ids:
        return f"The same {len(drafted.shown.token_ids)} tokens, {faster}."
    return f"Two texts, {faster}."
