"""Whether the rows of a model are the same bit for bit in narrow and wide passes, alone and beside other paths.

Kernels differ between processors, so that nothing is promised which was not looked at on this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.types import ROOT

TEXT, DRAFT = 41, 9
"""Tokens of the text: more than a block of cells, and no multiple. Tokens of the drafts."""
SIBLINGS = (1, 4, 8)
"""Depths at which paths part from the one that is looked at."""


@torch.inference_mode()
def steady(model: CausalLM) -> bool:
    """Whether a chain, a path among others, and two requests in a pass get the rows of plain decoding, bit for bit.

    Raises LogitsError as every pass does.
    """
    size = min(TEXT + DRAFT, model.context_window or TEXT + DRAFT)
    tokens = [(7 * i * i + 3 * i + 1) % model.vocab_size for i in range(size)]
    text, draft = tokens[: max(1, size - DRAFT)], tokens[max(1, size - DRAFT) :]
    expected = _plain(model, text, draft)
    chain, among, beside = (_drafted(model, text, draft, *way) for way in (((), 1), (SIBLINGS, 1), (SIBLINGS, 2)))
    return all(torch.equal(rows, expected) for rows in (*chain, *among, *beside))


def _plain(model: CausalLM, text: Sequence[int], draft: Sequence[int]) -> torch.Tensor:
    """Logits f[n + 1, V] of passes that commit one token each."""
    handle = model.open(len(text) + len(draft))
    try:
        rows = [model.forward([Feed(handle, text)])[0].logits]
        rows += [model.forward([Feed(handle, [token])])[0].logits for token in draft]
    finally:
        model.close(handle)
    return torch.cat(rows)


def _drafted(
    model: CausalLM, text: Sequence[int], draft: Sequence[int], siblings: Sequence[int], count: int
) -> list[torch.Tensor]:
    """The same rows of `count` requests in one pass, with other paths that part from `draft` at some depths."""
    handles = [model.open(len(text) + len(draft)) for _ in range(count)]
    tokens, parents, path = _with_siblings(model.vocab_size, draft, siblings)
    try:
        scored = model.forward([Feed(handle, text, tokens, parents) for handle in handles])
        return [each.logits[[0, *(node + 1 for node in path)]] for each in scored]
    finally:
        for handle in handles:
            model.close(handle)


def _with_siblings(vocab: int, draft: Sequence[int], siblings: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Tokens and parents of a draft, and the nodes of the path; at some depths another token comes before that of the path."""
    tokens: list[int] = []
    parents: list[int] = []
    path: list[int] = []
    for depth, token in enumerate(draft, 1):
        for other in [(token + 1) % vocab, token] if depth in siblings else [token]:
            parents.append(path[-1] if path else ROOT)
            tokens.append(other)
        path.append(len(tokens) - 1)
    return tokens, parents, path
