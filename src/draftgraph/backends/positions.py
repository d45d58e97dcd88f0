"""Positions of rows in models whose forward takes none, and in models that number them in two ways.

Decoders of sequence-to-sequence models number the rows of a pass by the length of the cache. Rows of a draft lie elsewhere in the
text, so that their table of positions is asked for the rows' own.

Some models number positions from their padding token on, unless they are told. `generate` tells them, and counts from 0.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

_POSITIONS = "position_ids"


def position_tables(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The tables of positions that have to be asked inside, since the model's forward takes no positions."""
    if _takes_positions(model):
        return []
    return [module for module in model.modules() if isinstance(module, torch.nn.Embedding) and _takes_positions(module)]


def _takes_positions(module: torch.nn.Module) -> bool:
    return _POSITIONS in inspect.signature(type(module).forward).parameters


def numbers_from_padding(model: PreTrainedModel) -> bool:
    """Whether a forward that is not told positions numbers them otherwise than `generate` does."""
    return _takes_positions(model) and any(
        hasattr(module, "create_position_ids_from_input_ids") for module in model.modules()
    )


@contextmanager
def placed(tables: Sequence[torch.nn.Module], positions: Sequence[int], device: torch.device) -> Iterator[None]:
    """While a model runs inside, its tables are asked for these positions, i64[rows]; by this thread only."""
    if not tables:
        yield
        return
    told = torch.tensor(positions, device=device)
    with ExitStack() as hooks:
        for table in tables:
            hook = table.register_forward_pre_hook(_told(told, threading.get_ident()), with_kwargs=True)
            hooks.callback(hook.remove)
        yield


def _told(positions: torch.Tensor, thread: int) -> Callable[..., Any]:
    def hook(table: torch.nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        return (args, given | {_POSITIONS: positions}) if threading.get_ident() == thread else None

    return hook
