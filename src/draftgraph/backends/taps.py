"""Hidden states of a transformers model, taken while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from draftgraph.errors import ModelError, OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "hidden:"
HELD = ("keys:", "values:")
"""What a layer caches of a row, by its number from 0: keys as they are cached, heads behind each other."""


@contextmanager
def tapped(model: PreTrainedModel, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Hidden states f[1, rows, width] by name, of the forward that is run inside. For the names see `CausalLM.forward`.

    Raises OptionError for a name that the model does not have, ModelError if its layers cannot be found.
    """
    states: dict[str, torch.Tensor] = {}
    if not names:
        yield states
        return
    decoder, layers = decoder_layers(model)
    with ExitStack() as hooks:
        for name in dict.fromkeys(names):
            number = _number(name, len(layers))
            if number < len(layers):
                hook = layers[number].register_forward_pre_hook(_reads(name, states), with_kwargs=True)
            else:
                hook = decoder.register_forward_hook(_puts_out(name, states))
            hooks.callback(hook.remove)
        yield states


def decoder_layers(model: PreTrainedModel) -> tuple[torch.nn.Module, torch.nn.ModuleList]:
    """The part between embeddings and head, and its layers."""
    decoder = model.get_decoder()
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = [part for part in decoder.children() if isinstance(part, torch.nn.ModuleList) and len(part) == count]
    if len(lists) != 1 or decoder is model:
        raise ModelError(
            f"{model.__class__.__name__} has no list of {count} decoder layers that hidden states could be taken from; use a "
            "drafter without taps"
        )
    return decoder, lists[0]


def held_taps(names: Sequence[str], layers: int) -> tuple[dict[tuple[int, int], str], list[str]]:
    """The taps of keys (0) and values (1) among these, by layer and part, and the others.

    Raises OptionError for a layer that is not there.
    """
    places = {name: _held_place(name, layers) for name in names}
    held = {place: name for name, place in places.items() if place is not None}
    return held, [name for name, place in places.items() if place is None]


def _held_place(name: str, layers: int) -> tuple[int, int] | None:
    for part, prefix in enumerate(HELD):
        number = name.removeprefix(prefix)
        if number != name:
            if not (number.isascii() and number.isdigit()) or int(number) >= layers:
                raise OptionError(
                    f"taps={name!r} is not possible; write '{prefix}0' to '{prefix}{layers - 1}', of the layers that cache keys"
                )
            return int(number), part
    return None


def _number(name: str, layers: int) -> int:
    if name.startswith(HELD):
        raise OptionError(
            f"taps={name!r} is not possible here: this backend gives hidden states, and no keys and values; write "
            "backend='torch' for a model of attention alone, or use another drafter"
        )
    number = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or not (number.isascii() and number.isdigit()) or int(number) > layers:
        raise OptionError(
            f"taps={name!r} is not possible; write '{PREFIX}0' (what the first layer reads) to '{PREFIX}{layers}' (what the "
            "head reads)"
        )
    return int(number)


def _reads(name: str, states: dict[str, torch.Tensor]) -> Callable[..., None]:
    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states[name] = args[0] if args else kwargs["hidden_states"]

    return hook


def _puts_out(name: str, states: dict[str, torch.Tensor]) -> Callable[..., None]:
    def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states[name] = output[0]

    return hook
