"""What `draftgraph demo` does: one prompt decoded plain and drafted, in turns, and a picture of a round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import draftgraph as dg
from draftgraph.view.console import make_console
from draftgraph.view.side_by_side import Side, comparison, side_by_side
from draftgraph.view.status import silent_loading, status
from draftgraph.view.terminal import legend, round_tree

PROMPT = "class Stack:\n    def push(self, item):\n"
TOKENS = 64
TURNS = 5
"""Times that every request is decoded; plain and drafted take turns."""
SETTINGS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Temperature 0: greedy", "auto", {"temperature": 0.0}),
    ("Temperature 0.8: sampled, rule 'agree', seed 1", "agree", {"temperature": 0.8, "seed": 1}),
)
"""Title, rule, sampling options. Under 'agree' a seed gives the same text with and without drafts."""


def show(target: Path, drafter: Path) -> None:
    """Decode and print."""
    console = make_console()
    console.print(
        "A target of 10.2 M parameters and a drafter of 1.3 M, both trained on Python source. "
        f"CPU, float32, {torch.get_num_threads()} threads."
    )
    for title, rule, options in SETTINGS:
        with status("loading the bundled pair", quiet=False), silent_loading():
            drafted = dg.Engine.from_pretrained(target, draft_model=drafter, rule=rule)
            plain = dg.Engine.from_pretrained(target, budget=0, rule=rule)
        with status("timing this pair on this machine, once", quiet=False):
            drafted.generate(PROMPT, dg.SamplingParams(max_new_tokens=1))
        params = dg.SamplingParams(max_new_tokens=TOKENS, **options)
        with status(f"{title}; {TURNS} turns each", quiet=False):
            turns = [(plain.generate(PROMPT, params), drafted.generate(PROMPT, params)) for _ in range(TURNS)]
        left, right = (Side(name, results) for name, *results in zip(("plain", "drafted"), *turns, strict=True))
        console.rule(title)
        console.print(side_by_side(left, right, PROMPT, drafted.tokenizer), "", comparison(left, right), "", sep="\n")
    _picture(console, right.shown, drafted.tokenizer)
    console.print('\nNext: draftgraph generate "import json" --show, or draftgraph --help')


def _picture(console: Console, result: dg.Result, tokenizer: Any) -> None:
    """The round that accepted most: its draft graph, and what became of it."""
    number, record = max(enumerate(result.rounds, 1), key=lambda item: len(item[1].path))
    console.rule("One round: the draft, the accepted path, the bonus token")
    console.print(round_tree(record, number, lambda token: str(tokenizer.decode([token]))), "", legend(), sep="\n")
