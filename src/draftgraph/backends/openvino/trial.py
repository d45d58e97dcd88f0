"""A few passes that use whatever a backend can do, so that a start can compare their logits with those of an earlier one.

It is not the probe, which compares a model with its plain forwards. It tells a graph that was damaged on the disk, or a version
of the kernels that computes something else, in a fraction of a second.
"""

from __future__ import annotations

import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.types import ROOT

TEXT = 33
"""Tokens of the text: one more than a block has."""
COLUMNS = 256
"""Logits of a row that are looked at, at most, all over the vocabulary."""


@torch.inference_mode()
def trial(model: CausalLM) -> torch.Tensor:
    """Logits f32[n, columns] of a wide draft, of a pass that goes on below it, and of what follows the kept nodes.

    Raises LogitsError as every pass does.
    """
    tokens = [(7 * i * i + 3 * i + 1) % model.vocab_size for i in range(TEXT + 12)]
    length = max(1, min(TEXT, (model.context_window or TEXT) - 6))
    text, drafted = model.open(TEXT), tokens[TEXT:]
    try:
        rows = [model.forward([Feed(text, tokens[:length], drafted[:4], [ROOT, ROOT, ROOT, 2])])[0].logits]
        rows.append(model.forward([Feed(text, [], drafted[4:7], [1, 3, 4])])[0].logits)
        model.keep(text, [2, 3, 5])
        rows.append(model.forward([Feed(text, drafted[7:8], drafted[8:9], [ROOT])])[0].logits)
    finally:
        model.close(text)
    return torch.cat(rows)[:, :: -(-model.vocab_size // COLUMNS)].float()


def alike(seen: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether two trials are of the same model. tolerance  as a share of the scale of the logits."""
    if seen.shape != expected.shape:
        return False
    scale = float((expected - expected.mean(dim=1, keepdim=True)).abs().max()) + 1e-6
    return float((seen - expected).abs().max()) <= tolerance * scale
