"""Layers that bring arithmetic of their own, as quantising libraries do: whether a row's result is the row's alone.

A pass holds the rows of a draft, and of other requests. Where a layer takes a scale from all of them, or treats columns apart
in which any of them is large, a drafted row changes what the verified rows say. Weights that are stored in few bits do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from draftgraph.backends.check import Check
from draftgraph.errors import first_line

ROWS, LARGE = 4, 100.0
"""Rows beside the one that is looked at, and how much larger they are made."""
NUDGE, EXACT = 1e-3, 1e-4
"""A layer rounds what it reads if the same small change of two rows changes their results otherwise: float32 by 1e-6 of the
result's size, bfloat16 by 1e-3, eight bits by 1e-2."""
_PLAIN = (torch.Tensor, torch.nn.Parameter)
INSTEAD = (
    "quantise the weights alone (bitsandbytes in 4 bits, torchao's Int8WeightOnlyConfig), or load the model in bfloat16"
)


@dataclass(frozen=True)
class OwnArithmetic:
    """One layer of every kind that computes in its own way. path  where it is in the model."""

    path: str
    layer: torch.nn.Module

    @property
    def name(self) -> str:
        kind = f"{type(self.layer).__module__.partition('.')[0]}'s {type(self.layer).__name__}"
        weight = type(getattr(self.layer, "weight", None))
        own = issubclass(weight, torch.Tensor) and weight not in _PLAIN
        return f"{self.path} ({kind} of {weight.__name__})" if own else f"{self.path} ({kind})"

    @property
    def cause(self) -> str:
        return f"the layer {self.name} rounds what it reads, and the last bits of that depend on the width of a pass"


def own_arithmetic(model: torch.nn.Module) -> Iterator[OwnArithmetic]:
    """One layer of every kind that is neither torch's with weights of torch, nor transformers'."""
    seen: set[tuple[type, type]] = set()
    for path, layer in model.named_modules():
        if [part for part in layer.modules() if _is_linear(part)] != [layer]:
            continue  # also what only surrounds a layer
        weight = getattr(layer, "weight", None)
        plain = type(layer).__module__.startswith(("torch.nn.modules.", "transformers.models."))
        if plain and isinstance(weight, torch.Tensor) and type(weight) in _PLAIN and weight.is_floating_point():
            continue
        kind = (type(layer), type(weight))
        if kind not in seen:
            seen.add(kind)
            yield OwnArithmetic(path, layer)


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(getattr(module, "in_features", None), int)


@torch.inference_mode()
def rows_alone(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> Check:
    """Check that a row's result does not depend on the rows beside it, for every kind of layer with its own arithmetic."""
    rule = "rows are independent"
    for own in own_arithmetic(model):
        try:
            depends = _depends(own.layer, dtype, device)
        except Exception as error:
            return Check(rule, "fail", f"the layer {own.name} cannot run alone ({first_line(error)})", INSTEAD)
        if depends:
            found = (
                f"the layer {own.name} gives a row another result beside other rows: it quantises all rows of a pass together, "
                "so that drafted tokens would change those that are verified"
            )
            return Check(rule, "fail", found, INSTEAD)
    return Check(rule, "pass", "a row's result is its own")


@torch.inference_mode()
def rounding(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> OwnArithmetic | None:
    """A layer that rounds what it reads, be it to 16 or to 8 bits, though the model's own type is finer; None if none does."""
    return next((own for own in own_arithmetic(model) if _rounds(own.layer, dtype, device)), None)


def _depends(layer: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    rows = _rows(layer, device)
    beside = rows.clone()
    beside[1:] *= LARGE
    alone, crowded = (layer(each[None].to(dtype))[0, 0] for each in (rows, beside))  # of one shape: the same kernel
    return not torch.equal(alone, crowded)


def _rounds(layer: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    rows, nudge = _rows(layer, device), NUDGE * _rows(layer, device, seed=1)[:1]
    there, near = (layer(each[None].to(dtype))[0].double() for each in (rows, rows + nudge))
    changes = near - there  # of a linear layer all alike
    return bool((changes - changes[:1]).norm() > EXACT * there.norm())


def _rows(layer: torch.nn.Module, device: torch.device, seed: int = 0) -> torch.Tensor:
    """f32[1 + ROWS, width] rows as a layer reads them."""
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(1 + ROWS, int(layer.in_features), generator=noise).to(device)  # type: ignore[arg-type]
