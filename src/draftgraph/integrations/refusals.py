"""What a request of transformers' `generate` may ask of `custom_generate`; everything else is refused here, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    MaxLengthCriteria,
    PreTrainedModel,
    StoppingCriteriaList,
)

from draftgraph.backends.cache_argument import cache_names
from draftgraph.backends.support import in_training
from draftgraph.errors import OptionError
from draftgraph.sampling.generation_config import OTHER_MEANS, OTHER_TEXTS, fields_of, unsupported

_PREPARED = {"attention_mask", "position_ids", "cache_position", *cache_names(), "use_cache", "logits_to_keep"}
"""Model inputs that `generate` prepares; the engine makes its own from the prompt."""


def left_padding(ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor | None) -> list[int]:
    """How many tokens of each row are left padding; refuses any other mask, and positions of the user's own."""
    if ids.shape[1] == 0:
        raise _refusal("a prompt without tokens", "pass at least one, e.g. the tokenizer's bos_token_id")
    mask = torch.ones_like(ids) if mask is None else mask.to(ids.device) != 0
    if mask.shape != ids.shape:
        raise _refusal(f"an attention_mask of shape {list(mask.shape)}", f"write one of shape {list(ids.shape)}")
    start = mask.int().argmax(dim=1)
    expected = torch.arange(ids.shape[1], device=ids.device)[None] - start[:, None]
    if not torch.equal(mask.bool(), expected >= 0):
        raise _refusal(
            "an attention_mask with gaps or with padding on the right", "pad on the left: padding_side='left'"
        )
    if positions is not None and not bool(((positions.to(ids.device) == expected) | (expected < 0)).all()):
        raise _refusal("position_ids of your own", "leave them out; positions count the unpadded tokens from 0")
    return start.tolist()


def _refusal(asked: str, instead: str) -> OptionError:
    return OptionError(f"custom_generate cannot honour {asked}; {instead}")


_PLAIN = "leave it out, or call generate without custom_generate"
_OURS = "write the drafter into custom_generate(...) instead, e.g. custom_generate(draft_model=drafter)"
_WORDS = {"plain": _PLAIN, "ours": "custom_generate", "drafter": _OURS}


def refuse_config(config: GenerationConfig) -> None:
    for asked, instead in unsupported(fields_of(config), (OTHER_TEXTS, OTHER_MEANS), _WORDS):
        raise _refusal(asked, instead)


def refuse_inputs(model: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
    if getattr(model.config, "is_encoder_decoder", False):
        raise _refusal(
            f"an encoder-decoder ({type(model).__name__})", "it decodes causal (decoder-only) language models"
        )
    for name in cache_names():
        cache = inputs.get(name)
        if cache is not None and (getattr(cache, "_is_user_defined", False) or _is_used(cache)):
            raise _refusal(name, "it has a cache of its own; pass the whole text as input_ids")
    if inputs.get("assistant_model") is not None:
        raise _refusal("assistant_model beside a drafter of its own", _OURS)
    if inputs.get("synced_gpus"):
        raise _refusal("synced_gpus", "ranks draft and accept different lengths; write synced_gpus=False")
    for name, value in inputs.items():
        if name not in _PREPARED and value is not None and value is not False:
            raise _refusal(name, f"the prompt is input_ids and attention_mask; {_PLAIN}")


def refuse_batch(rows: int, config: GenerationConfig, criteria: StoppingCriteriaList, streamer: Any | None) -> None:
    if streamer is not None and rows > 1:
        raise _refusal(f"a streamer for {rows} rows", "its rows end at different times; stream one prompt per call")
    if rows > 1 and config._pad_token_tensor is None and any(type(one) is not MaxLengthCriteria for one in criteria):
        raise _refusal(f"{rows} rows without pad_token_id", "rows that end early are padded; write pad_token_id=...")


def refuse_training(model: PreTrainedModel, draft_model: object) -> None:
    for name, one in (("the model", model), ("the drafter", draft_model)):
        found = in_training(one) if isinstance(one, torch.nn.Module) else None
        if found is not None:
            raise _refusal(f"{name} {found}", "dropout would make every forward another law; call .eval() first")


def refuse_length(window: int | None, prompt: int, length: int) -> None:
    """`length` is that of the longest row in the end, its prompt included."""
    if window is not None and prompt < window < length:
        raise _refusal(
            f"max_new_tokens={length - prompt} (or the max_length that amounts to it)",
            f"with a prompt of {prompt} tokens that is beyond the context window of {window}; "
            f"write max_new_tokens={window - prompt}",
        )


def _is_used(cache: Any) -> bool:
    """Whether a cache holds something already. One of recurrent layers alone has no length."""
    try:
        return bool(cache.get_seq_length() > 0)
    except ValueError:
        return bool(cache.has_previous_state())
