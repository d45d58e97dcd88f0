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
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from draftgraph.backends.cache_argument import cache_name

if TYPE_CHECKING:
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
    """Whether a forward that is not told positions numbers them from its padding token on, and `generate` tells it others."""
    named = any(hasattr(module, "create_position_ids_from_input_ids") for module in model.modules())
    return named and _takes_positions(model) and _told_by_generate(model)


def _told_by_generate(model: PreTrainedModel) -> bool:
    """Ask the model's own preparation for `generate` whether it leaves positions that count from 0 as they are."""
    ids = torch.full((1, 3), 2)
    positions = torch.arange(3)[None]
    try:
        prepared = model.prepare_inputs_for_generation(
            ids,
            attention_mask=torch.ones_like(ids),
            position_ids=positions,
            use_cache=True,
            **{cache_name(): DynamicCache()},
        )
    except Exception:
        return False  # then the probe compares with what the forward does by itself
    given = prepared.get(_POSITIONS)
    return given is not None and torch.equal(given, positions)


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
