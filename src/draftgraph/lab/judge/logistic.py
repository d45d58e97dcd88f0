"""Logistic regression on standardised rows, and the area under its ROC curve."""

from __future__ import annotations

from dataclasses import dataclass

import torch

STEPS = 200
"""Iterations of L-BFGS at most."""


@dataclass(frozen=True)
class Logistic:
    """σ(weight · (x − mean) / scale + bias); weight, mean, scale  f64[d]."""

    weight: torch.Tensor
    bias: float
    mean: torch.Tensor
    scale: torch.Tensor

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Probabilities f64[n] of rows f[n, d]."""
        return (((x.double() - self.mean) / self.scale) @ self.weight + self.bias).sigmoid()


def fit_logistic(x: torch.Tensor, y: torch.Tensor, penalty: float) -> Logistic:
    """Minimise mean cross-entropy + penalty / 2 · |weight|², by L-BFGS in float64. x  f[n, d]. y  bool[n]."""
    x, wanted = x.double(), y.double()
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(scale > 1e-6 * scale.max(), scale, torch.ones_like(scale))  # a constant says nothing
    rows = (x - mean) / scale
    weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-6)

    def loss() -> torch.Tensor:
        search.zero_grad()
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(rows @ weight + bias, wanted)
        total = entropy + penalty / 2.0 * weight.square().sum()
        torch.autograd.backward(total)
        return total

    with torch.enable_grad():
        search.step(loss)  # type: ignore[no-untyped-call]
    return Logistic(weight.detach(), float(bias.detach()), mean, scale)


def roc_auc(scores: torch.Tensor, y: torch.Tensor) -> float:
    """The probability that a true row has a higher score than a false one, ties counted as half. NaN without both kinds."""
    true, false = scores[y].double(), scores[~y].double().sort().values
    below = torch.searchsorted(false, true, right=False).double()
    up_to = torch.searchsorted(false, true, right=True).double()
    return float(((below + up_to) / 2.0).mean() / max(len(false), 1)) if len(true) and len(false) else float("nan")
