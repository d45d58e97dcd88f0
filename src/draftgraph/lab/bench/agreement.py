"""Greedy texts are compared token by token; where one departs from the target's, its logits say whether that was a near tie.

A pass over many rows rounds differently from a pass over one. Where the target finds two tokens (almost) equally likely,
either is its greedy choice as far as its own arithmetic can tell. A departure with a wider gap is a mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

TIES = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Gaps of logits up to this share of their range are near ties; in coarser types COARSE."""
COARSE = 0.1


@dataclass(frozen=True)
class Departure:
    """The first token in which a greedy text differs. position  of it, from 0 at the first new token.

    expected, got   token ids; None where one text had ended.
    gap             logit of `expected` minus logit of `got`, both under the target behind the tokens that were the same.
    near_tie        whether the gap is within what rounding may do; never where a text had ended.
    """

    position: int
    expected: int | None
    got: int | None
    gap: float | None
    near_tie: bool


@torch.inference_mode()
def compare(
    target: PreTrainedModel, prompt: Sequence[int], expected: Sequence[int], got: Sequence[int]
) -> Departure | None:
    """Where `got` departs from `expected`, both new token ids behind `prompt`; None if nowhere."""
    if list(got) == list(expected):
        return None
    shorter = min(len(expected), len(got))
    where = next((i for i in range(shorter) if expected[i] != got[i]), shorter)
    if where == shorter:
        before, after = (ids[where] if where < len(ids) else None for ids in (expected, got))
        return Departure(where, before, after, None, False)
    ids = torch.tensor([[*prompt, *expected[:where]]], device=target.device)
    logits = target(input_ids=ids, use_cache=False).logits[0, -1].double()
    if not 0 <= got[where] < len(logits):
        return Departure(where, expected[where], got[where], None, False)
    gap = float(logits[expected[where]] - logits[got[where]])
    scale = float((logits - logits.mean()).abs().max())
    return Departure(where, expected[where], got[where], gap, gap <= TIES.get(target.dtype, COARSE) * scale)
