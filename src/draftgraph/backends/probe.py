"""Whether a model honours masks, positions and cells: some architectures ignore them silently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.backends.check import Check
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import LogitsError, ModelError
from draftgraph.types import ROOT

UNVERIFIABLE = (
    "its drafts could not be verified exactly. Models with ALiBi, or with position biases computed from the order of the rows, "
    "are of this kind; use another architecture"
)


def probe(model: TorchModel) -> None:
    """Raise ModelError if the model does not honour masks, positions and slots; some architectures ignore them silently."""
    honours_masks(model).enforce()


@torch.inference_mode()
def honours_masks(model: TorchModel, backend: CausalLM | None = None) -> Check:
    """Check on six rows that the model honours masks, positions and slots.

    A small draft tree behind three tokens, in two passes with a rejected branch between them, must give the logits of
    plain forwards over its paths. A model in training mode is switched to eval for as long as that takes.

    backend  what is checked: another backend with the same weights; None is the model's own passes.
    """
    rule = "honours masks and positions"
    advice = UNVERIFIABLE if model.adapter is None else model.remedy
    try:
        seen, expected = _probed(model, model if backend is None else backend)
    except (LogitsError, ModelError):
        raise
    except Exception as error:
        found = (
            f"{model.class_name} cannot run with explicit masks, positions and slots ({type(error).__name__}: {error})"
        )
        return Check(rule, "fail", found, advice)
    scale = float((expected - expected.mean(dim=1, keepdim=True)).abs().max()) + 1e-6
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
    change = float((seen - expected).abs().max())
    if change > tolerance * scale:
        found = (
            f"{model.class_name} does not honour explicit masks and positions (a drafted branch changes its logits by"
        )
        return Check(rule, "fail", f"{found} {change:.2g})", advice)
    return Check(rule, "pass", f"a draft tree gives the logits of plain forwards to {change:.1g}")


def _probed(model: TorchModel, backend: CausalLM) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits f[2, V] of two nodes of a draft tree: by passes over rows, and by plain forwards over their paths."""
    a, b, c, d = (token % model.vocab_size for token in (1, 2, 3, 5))
    text = backend.open(8)
    try:
        with _evaluating(model.called):
            backend.forward([Feed(text, [a, b, c], [d, a], [ROOT, ROOT])])
            backend.keep(text, [1])
            seen = backend.forward([Feed(text, [], [b, c, d], [ROOT, ROOT, 1])])[0].logits[[0, 2]].float()
            plain = [model.plain(torch.tensor([ids]), 1)[0, 0] for ids in ([a, b, c, a, b], [a, b, c, a, c, d])]
    finally:
        backend.close(text)
    return seen, torch.stack(plain).float()


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
