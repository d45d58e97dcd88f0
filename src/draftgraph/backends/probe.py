"""Whether a model honours masks, positions and cells: some architectures ignore them silently.

What is asked is as bad as what rounds do: a wide draft of which the last node is kept, rows that go into the hole that it
leaves, nodes far below the text, several passes in a round, two requests in a pass, and positions beyond every window.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from draftgraph.backends.base import CacheHandle, CausalLM, Feed
from draftgraph.backends.causes import ADVICE, cause_of
from draftgraph.backends.check import Check
from draftgraph.backends.prefill import read_piece
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import LogitsError, ModelError, first_line
from draftgraph.types import ROOT

RULE = "honours masks and positions"
LATE = 256
"""A text should be longer: windows that no configuration names are seldom longer."""
AFFORDABLE = {"cpu": 5e10}
"""Rows of the text × parameters of the model, by device: some seconds. A longer text is not tried."""
ON_OTHERS = 2e12
BEYOND, BEHIND, EARLY = 16, 8, 6
"""Tokens of the text beyond the last landmark; tokens kept behind it, about; tokens of a second, short text."""


def probe(model: TorchModel, backend: CausalLM | None = None) -> None:
    """Raise ModelError if rows in passes are not the rows of plain forwards: see `honours_masks`."""
    honours_masks(model, backend).enforce()


@torch.inference_mode()
def honours_masks(model: TorchModel, backend: CausalLM | None = None) -> Check:
    """Check that passes over drafts give the logits of plain forwards over their paths.

    model    gives the plain forwards, and says what there is to know of it.
    backend  what is checked: another backend with the same weights; None is the model's own passes.

    A model in training mode is switched to eval for as long as that takes.
    """
    backend = model if backend is None else backend
    try:
        with _evaluating(model.called):
            seen, expected = _both(model, backend, text_length(model))
    except (LogitsError, ModelError):
        raise
    except Exception as error:
        found = f"{model.class_name} cannot run with explicit masks, positions and slots ({first_line(error)})"
        return _failed(model, found)
    finally:
        model.release()
    scale = float((expected - expected.mean(dim=1, keepdim=True)).abs().max()) + 1e-6
    tolerance = 1e-3 if backend.dtype in (torch.float32, torch.float64) else 0.1
    change = float((seen - expected).abs().max())
    if not change <= tolerance * scale:
        found = f"{model.class_name} does not honour explicit masks and positions (a draft changes its logits by {change:.2g})"
        return _failed(model, found)
    return Check(RULE, "pass", f"a draft tree gives the logits of plain forwards to {change:.1g}")


def _failed(model: TorchModel, found: str) -> Check:
    if model.adapter is not None:
        return Check(RULE, "fail", found, model.remedy)
    cause = cause_of(model.model)
    return Check(RULE, "fail", f"{found}: {cause}" if cause else found, ADVICE)


def text_length(model: TorchModel) -> int:
    """Tokens of the probe's text: beyond as many landmarks as are affordable, and such that the draft crosses a chunk."""
    size = sum(weight.numel() for weight in model.model.parameters())
    most = int(AFFORDABLE.get(model.device.type, ON_OTHERS) / max(size, 1))
    if model.context_window is not None:
        most = min(most, model.context_window - BEHIND)
    tried = [mark for mark in model.landmarks if mark + BEYOND <= most]
    length = min(most, max([LATE, *tried]) + BEYOND)
    chunks = [kind.span for kind in model.kinds if kind.chunk and kind.span is not None]
    if chunks and length > chunks[0] > 2:
        length = length // chunks[0] * chunks[0] - 2
    if model.switch is not None and length <= model.switch < length + BEHIND:
        length = model.switch - BEHIND
    return max(1, length)


@dataclass
class _Text:
    """One request of the probe: what it has committed, and the logits that passes gave along that way.

    rows  f[V] each, of the last tokens of `ids`.
    """

    model: CausalLM
    handle: CacheHandle
    ids: list[int] = field(default_factory=list)
    rows: list[torch.Tensor] = field(default_factory=list)

    def feed(self, committed: list[int], tokens: list[int], parents: list[int]) -> Feed:
        self.ids += committed
        return Feed(self.handle, committed, tokens, parents)

    def keep(self, nodes: list[int], tokens: list[int]) -> None:
        self.model.keep(self.handle, nodes)
        self.ids += tokens

    def expected(self, model: TorchModel) -> torch.Tensor:
        return model.plain(torch.tensor([self.ids]), len(self.rows))[0].float()


def _both(model: TorchModel, backend: CausalLM, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits f[n, V] of rows of two requests: by passes over drafts, and by plain forwards over what was kept."""
    texts = [_Text(backend, backend.open(length + BEHIND)), _Text(backend, backend.open(EARLY + BEHIND))]
    try:
        _decode(texts[0], texts[1], length)
        seen = torch.stack([row.float() for text in texts for row in text.rows])
        return seen, torch.cat([text.expected(model) for text in texts]).to(seen.device)
    finally:
        for text in texts:
            backend.close(text.handle)


def _decode(late: _Text, early: _Text, length: int) -> None:
    """Three rounds, four passes. `late` keeps the last node of a wide draft and its child, `early` three nodes of a chain."""
    model = late.model
    t = [(7 * i * i + 3 * i + 1) % model.vocab_size for i in range(length + 2 * BEHIND)]
    model.expect(late.handle, length)
    first = max(0, length - 3)
    while (piece := t[len(late.ids) : first]) and read_piece(model, late.handle, piece) is not None:
        late.ids += piece[: model.most_rows]
    if piece:
        model.forward([late.feed(piece, [], [])])

    u = t[length:]
    wide = late.feed(t[first:length], u[:8], [ROOT] * 6 + [5, 6])
    deep = early.feed(t[:EARLY], t[EARLY : EARLY + 4], [ROOT, 0, 1, 2])
    b, a = (scored.logits for scored in model.forward([deep, wide]))  # the kept nodes lie in the last cells
    late.rows += [a[0], a[6], a[7]]  # of the text, and of nodes 5 and 6
    early.rows += [b[0], b[1], b[2], b[3]]
    late.keep([5, 6], u[5:7])
    early.keep([0, 1, 2], t[EARLY : EARLY + 3])

    branches = late.feed([u[8]], [u[9], u[10]], [ROOT, ROOT])
    b, a = (scored.logits for scored in model.forward([early.feed([u[0]], [], []), branches]))
    late.rows += [a[0], a[2]]
    early.rows.append(b[0])
    a = model.forward([Feed(late.handle, [], [u[11], u[12], u[13]], [1, 2, 3])])[0].logits  # goes on below node 1
    late.rows += [a[0], a[1]]
    late.keep([1, 2, 3], [u[10], u[11], u[12]])
    late.rows.append(model.forward([late.feed([u[14]], [], [])])[0].logits[0])


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Every module in eval mode for a while, then each in the mode that it had."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
