"""Why models that the probe refuses cannot read drafts, in words. Nothing here decides whether a model runs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ADVICE = "use another architecture"
_OWN_INTERFACE = "its forward is older than transformers' caches and masks, and takes none of them for rows of a draft"
_BY_MODEL_TYPE = {
    "moshi": "its configuration names a window that its own masks leave out, so that what generate reads depends on the cache",
    "dory": "it runs layers in loops that read the cache past its interface",
    "cpmant": "it computes positions and segments of the whole text in every pass",
    **dict.fromkeys(("openai-gpt", "reformer", "xlm", "xlnet", "prophetnet"), _OWN_INTERFACE),
}
"""Classes that are known to fail the probe."""
_ROW_ORDER = "it numbers positions by the order of the rows (its forward takes no position_ids), and rows of a draft have another"


def cause_of(model: PreTrainedModel) -> str:
    """Why a model has failed the probe; empty if that is not known."""
    named = _BY_MODEL_TYPE.get(model.config.get_text_config(decoder=True).model_type)
    if named is not None:
        return named
    return "" if "position_ids" in inspect.signature(type(model).forward).parameters else _ROW_ORDER
