"""ALiBi: attention biases that model code computes from the order of cached rows, put in the order of the text.

The bias of a key depends on its place in the text alone: shifting a whole row changes no softmax. Model code numbers the keys as
they lie in the cache, one after the other. Here a cell may hold any position. So the bias of every cell is exchanged for the one
that the model itself computed for the cell's position, right where the layers receive it, with the mask of the draft.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BIAS = ("alibi", "position_bias")
_MASK = "attention_mask"


def biased_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The layers that receive such a bias from outside; none in a model that is configured without."""
    if getattr(model.config.get_text_config(decoder=True), "alibi", True) is False:
        return []
    kinds = dict.fromkeys(type(module) for module in model.modules())
    layer = next((kind for kind in kinds if _takes_bias(kind)), None)  # the outermost: layers, not what is in them
    return [] if layer is None else [module for module in model.modules() if type(module) is layer]


def _takes_bias(module: type[torch.nn.Module]) -> bool:
    taken = inspect.signature(module.forward).parameters
    return _MASK in taken and any(name in taken for name in _BIAS)


@contextmanager
def biased(layers: list[torch.nn.Module], cache: object, mask: torch.Tensor, positions: torch.Tensor) -> Iterator[None]:
    """While a model runs inside, its layers receive `mask`, and the bias of every cell's own position.

    cache  that of the pass; calls with another cache, as by other threads, are left alone.
    mask   f[1, 1, rows, cells] additive. positions  i64[cells].
    """
    with ExitStack() as hooks:
        for layer in layers:
            hook = layer.register_forward_pre_hook(_exchange(cache, mask, positions), with_kwargs=True)
            hooks.callback(hook.remove)
        yield


def _exchange(cache: object, mask: torch.Tensor, positions: torch.Tensor) -> Callable[..., Any]:
    def hook(layer: torch.nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        if not any(value is cache for value in given.values()):
            return None
        biases = {name: _placed(given[name], positions) for name in _BIAS if given.get(name) is not None}
        return args, given | biases | {_MASK: _masked(given.get(_MASK), mask, positions)}

    return hook


def _placed(bias: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Of a bias f[..., keys] by place in the text the last entries, one for every cell, by the cell's position."""
    first = max(0, bias.shape[-1] - len(positions))
    return bias.index_select(-1, positions + first)


def _masked(given: torch.Tensor | None, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The mask in the form that the layers have received. Some hold the bias already: that of their last row is all visible."""
    if given is not None and given.dtype == torch.bool:
        hidden = ~given[..., -1:, :1]
        return torch.where(mask == 0, ~hidden, hidden)
    if given is not None and given.shape[1] > 1:
        return torch.where(mask == 0, _placed(given[..., -1:, :], positions), mask)
    return mask
