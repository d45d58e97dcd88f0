"""One teacher-forced pass of target and drafter over texts: the laws p and q at every position.

Nothing is drafted and nothing is cached; the two models need not even be able to speculate. p and q are warped laws, shaped by
the warper that shapes them in the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from draftgraph.backends.base import CausalLM
from draftgraph.errors import LogitsError, OptionError
from draftgraph.lab.texts import Text
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.warp import Prefixes, Warper

MAX_CELLS = 2**28
"""Entries of p (and of q) that are kept: 1 GiB each in float32. Texts beyond that are left out."""
PASS_CELLS = 2**25
"""Logits of one forward pass."""


class Span(NamedTuple):
    """One text's rows: `begin` to `end`; `limit` where they would end had the text not ended by itself."""

    begin: int
    end: int
    limit: int


@dataclass(frozen=True)
class PairRows:
    """Both laws at every predicted position of some texts, one text after the other.

    p       f32[N, V], target laws; one-hot at temperature 0.
    q       f32[N, V], drafter laws over the same tokens; at temperature 0 its softmax, by which FIXED candidates are ranked.
    tokens  i64[N], the token that the text has there.
    spans   the rows of every text. texts  the texts themselves. greedy  whether the temperature is 0.
    """

    p: torch.Tensor
    q: torch.Tensor
    tokens: torch.Tensor
    spans: Sequence[Span]
    texts: Sequence[Text]
    greedy: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def text_of(self) -> torch.Tensor:
        """i64[N], the number of the text that a row belongs to."""
        return torch.repeat_interleave(torch.tensor([span.end - span.begin for span in self.spans]))

    def chunks(self) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """(rows, p f64[n, V], q f64[n, V], tokens i64[n]) in pieces: what reads whole rows should not need all at once."""
        step = max(1, 2**21 // self.p.shape[1])
        for begin in range(0, len(self), step):
            part = slice(begin, begin + step)
            yield part, self.p[part].double(), self.q[part].double(), self.tokens[part]


@torch.inference_mode()
def read_rows(
    target: CausalLM, drafter: CausalLM, texts: Sequence[Text], params: SamplingParams, vocab: int
) -> PairRows:
    """The laws of both models at the predicted positions of `texts`, under the sampling options of `params`.

    vocab  tokens of the target; a drafter with more or fewer has another padding. Stops before MAX_CELLS are exceeded.

    Raises OptionError without texts, LogitsError for logits that are not finite.
    """
    kept = list(_within(texts, MAX_CELLS // vocab))
    if not kept:
        raise OptionError("there is no text to read; give one, or let the target write some (--own)")
    p, q = (torch.empty(sum(text.count for text in kept), vocab) for _ in range(2))
    spans: list[Span] = []
    at = 0
    for batch in _batches(kept, max(1, PASS_CELLS // vocab)):
        scored = zip(batch, _forward(target, batch, vocab), _forward(drafter, batch, vocab), strict=True)
        for text, ours, theirs in scored:
            warper = Warper(params, text.start, (), ours.device)
            prefixes = _prefixes(text)
            end = at + text.count
            p[at:end] = warper.probabilities(ours, prefixes)
            scores = warper.scores(theirs, prefixes)
            q[at:end] = torch.softmax(scores, dim=1) if params.temperature == 0 else warper.shape(scores)
            spans.append(Span(at, end, at + text.room))
            at = end
    tokens = torch.tensor([token for text in kept for token in text.tokens[text.start :]])
    return PairRows(p, q, tokens, spans, kept, params.temperature == 0)


def _within(texts: Sequence[Text], rows: int) -> Iterator[Text]:
    for text in texts:
        rows -= text.count
        if rows < 0:
            return
        yield text


def _batches(texts: Sequence[Text], rows: int) -> Iterator[list[Text]]:
    """Texts in their order, so many that all of them padded to the longest take at most `rows` rows (one at least)."""
    batch: list[Text] = []
    for text in texts:
        longest = max(len(each.tokens) for each in [*batch, text])
        if batch and longest * (len(batch) + 1) > rows:
            yield batch
            batch = []
        batch.append(text)
    yield batch


def _forward(model: CausalLM, batch: Sequence[Text], vocab: int) -> list[torch.Tensor]:
    """Per text logits f[count, vocab] at its predicted positions. Padding stands on the right, where nothing reads it."""
    width, first = max(len(text.tokens) for text in batch) - 1, min(text.start for text in batch) - 1
    own = model.vocab_size
    ids = torch.zeros(len(batch), width, dtype=torch.int64)
    for row, text in zip(ids, batch, strict=True):
        known = torch.tensor(text.tokens[:-1])
        row[: len(known)] = torch.where(known < own, known, 0)  # what only the target has is padding
    logits = model.plain(ids, width - first)
    ends = [(text.start - 1 - first, len(text.tokens) - 1 - first) for text in batch]
    parts = [_aligned(rows[start:end], vocab) for rows, (start, end) in zip(logits, ends, strict=True)]
    if not all(bool(torch.isfinite(part[:, : min(own, vocab)]).all()) for part in parts):
        raise LogitsError(f"{model.model_name} returned NaN or infinite logits; there is no law to study")
    return [part.cpu() for part in parts]


def _aligned(logits: torch.Tensor, vocab: int) -> torch.Tensor:
    """Logits over the target's vocabulary, as `ModelDrafter` aligns them; what only one of the two has is padding."""
    missing = vocab - logits.shape[1]
    if missing > 0:
        return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf)
    return logits[:, :vocab]


def _prefixes(text: Text) -> Prefixes:
    tokens = list(text.tokens)
    return Prefixes(tokens[: text.start], lambda row: tokens[text.start : text.start + row])
