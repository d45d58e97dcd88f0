"""Penalties of a text that grows are those of transformers over the whole text, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st

import draftgraph as dg
from draftgraph.sampling.warp import Prefixes, Warper

VOCAB, EOS = 12, 3
OPTIONS: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.3},
    "presence and frequency": {"presence_penalty": 0.5, "frequency_penalty": -0.25},
    "least length": {"min_new_tokens": 7},
    "all": {
        "logit_bias": {2: 1.5}, "repetition_penalty": 0.8, "presence_penalty": 1.0, "frequency_penalty": 0.5,
        "min_new_tokens": 4,
    },
}  # fmt: skip


def expected(options: dict[str, Any], prompt: int, ids: list[int], row: torch.Tensor) -> torch.Tensor:
    """One row with the whole text before it."""
    scores, text = row[None].clone(), torch.tensor([ids])
    for token, bias in options.get("logit_bias", {}).items():
        scores[0, token] += bias
    if "repetition_penalty" in options:
        scores = hf.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"])(text, scores)
    counts = torch.zeros(VOCAB).index_add_(0, text[0, prompt:], torch.ones(len(ids) - prompt))
    presence, frequency = options.get("presence_penalty", 0.0), options.get("frequency_penalty", 0.0)
    if presence or frequency:
        scores = scores - presence * (counts > 0) - frequency * counts
    if "min_new_tokens" in options:
        scores = hf.MinNewTokensLengthLogitsProcessor(prompt, options["min_new_tokens"], [EOS])(text, scores)
    return scores[0]


@pytest.mark.parametrize("name", OPTIONS)
@given(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4),
    st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=3), max_size=6),
    st.integers(0, 2**20),
)
def test_rounds_of_a_growing_text(name: str, prompt: list[int], rounds: list[list[int]], seed: int) -> None:
    options, generator = OPTIONS[name], torch.Generator().manual_seed(seed)
    warper = Warper(dg.SamplingParams(**options), len(prompt), [EOS], torch.device("cpu"))
    text = list(prompt)
    for emitted in rounds:
        paths = [[], [1], [5, 1], [5, 5]]
        rows = torch.randn(len(paths), VOCAB, generator=generator)
        found = warper.scores(rows, Prefixes(text, paths.__getitem__))
        for path, row, scores in zip(paths, rows, found, strict=True):
            assert torch.equal(scores, expected(options, len(prompt), [*text, *path], row))
        text += emitted


def test_another_text_is_read_anew() -> None:
    options = OPTIONS["all"]
    warper = Warper(dg.SamplingParams(**options), 2, [EOS], torch.device("cpu"))
    row = torch.linspace(-1.0, 1.0, VOCAB)
    shrunk = [1, 2, 5, 6, 7]
    texts = [[1, 2, 5, 6], [1, 2, 5, 6], [1, 2], [4, 4, 4, 4, 4], shrunk]
    for text in texts:
        found = warper.scores(row[None], Prefixes(text, lambda _: []))[0]
        assert torch.equal(found, expected(options, 2, text, row))
    for change in (lambda: shrunk.pop(), lambda: shrunk.extend([9, 9]), lambda: shrunk.__setitem__(-1, 8)):
        change()
        found = warper.scores(row[None], Prefixes(shrunk, lambda _: []))[0]
        assert torch.equal(found, expected(options, 2, shrunk, row))
