"""Positions that depend on the length of the whole text: rotary embeddings with factors for short and for long texts.

With "longrope" transformers takes the long factors for a whole pass as soon as its largest position needs them. A text is read
in several passes here, and drafts reach ahead of it. So its length decides, not the pass: see `TorchModel.expect`.

With "dynamic" the frequencies change with every length beyond `max_position_embeddings`, and stay changed for the next text.
No text gets there: it ends at the context window, which is the same number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, PretrainedConfig

from draftgraph.backends.cache_argument import cache_name
from draftgraph.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SWITCHING = "longrope"
_LENGTH = "original_max_position_embeddings"


@dataclass(frozen=True)
class Switch:
    """length  tokens of the longest text that is read with the short factors.
    rereads  whether `generate` reads a text that outgrows it anew; else what is cached stays as it is.
    """

    length: int
    rereads: bool


def find_switch(model: PreTrainedModel, window: int | None) -> Switch | None:
    """Where a model goes over to long factors; None if no text of its context window does.

    Raises ModelError if layers do so at several lengths, or if nobody can tell what `generate` does then.
    """
    lengths = switch_lengths(model.config.get_text_config(decoder=True))
    within = sorted(length for length in lengths if window is None or length < window)
    if not within:
        return None
    if len(within) > 1:
        raise ModelError(
            f"{type(model).__name__} goes over to long positions at several lengths of the text ({within}); one is possible"
        )
    return Switch(within[0], _rereads(model, within[0]))


def switch_lengths(config: PretrainedConfig) -> set[int]:
    """The lengths at which the layers of a text configuration go over to long factors."""
    given: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    by_layer = [each for each in given.values() if isinstance(each, dict) and "rope_type" in each]
    return {int(each[_LENGTH]) for each in (by_layer or [given]) if each.get("rope_type") == _SWITCHING}


def _rereads(model: PreTrainedModel, length: int) -> bool:
    """Ask the model's own preparation for `generate` what becomes of a cache at the switch."""
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), 0)
    ids = torch.zeros((1, length + 1), dtype=torch.long)
    try:
        prepared = model.prepare_inputs_for_generation(
            ids, attention_mask=torch.ones_like(ids), use_cache=True, **{cache_name(): cache}
        )
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} has positions for long texts ({_SWITCHING}), and what generate does where a text becomes "
            f"long cannot be told ({type(error).__name__}: {error}); set max_position_embeddings={length} in its configuration"
        ) from error
    return prepared.get(cache_name()) is None
