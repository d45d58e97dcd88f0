"""Weights that are shared out over the processes of a torchrun job: how they are asked for, loaded and recognised."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from draftgraph.backends.hub import locate
from draftgraph.backends.load import as_dtype, folder_or_name, read_model
from draftgraph.errors import OptionError, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AUTO = "auto"
_LOADED: list[str] = []
"""Models of which this process has loaded its shard."""


def shards(module: object) -> int:
    """Ranks that hold the weights of a model between them; 1 if one does."""
    return int(getattr(module, "_tp_size", None) or 1)


def refuse_beside(backend: str, weights: str | None, ends: bool) -> None:
    """Raise OptionError for what does not go with a target in shards. ends  whether a drafter borrows its embeddings."""
    if backend not in ("auto", "torch") or weights is not None:
        asked = f"weights={weights!r}" if weights is not None else f"backend={backend!r}"
        raise OptionError(
            f"the target is shared out over several ranks, which torch does, and {asked} was asked for; leave one out"
        )
    if ends:
        raise OptionError(
            "the draft model borrows the target's embeddings and head, which are shared out over several ranks; use a draft "
            "model with weights of its own, or none"
        )


def refuse_shards(module: object, what: str) -> None:
    """Raise OptionError for a model in shards where one process runs it. what  it is asked to do."""
    if (count := shards(module)) > 1:
        raise OptionError(
            f"{type(module).__name__} is shared out over {count} ranks and cannot be {what}; load it whole, or give it to "
            "Engine.from_pretrained as the target"
        )


def refuse_plan(plan: object, device: object) -> None:
    """Raise OptionError for a plan that cannot be followed here."""
    if plan is None:
        return
    require(plan == AUTO, "tp_plan", plan, "'auto', which is the model's own plan, or leave it out")
    if device is not None:
        raise OptionError(f"tp_plan={plan!r} gives every rank its own device; leave device={device!r} out")
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise OptionError(
            f"tp_plan={plan!r} shares a model out over several processes, and this is one alone; start the program by "
            "torchrun --nproc-per-node 2 (or more), or leave tp_plan out"
        )


def load_shard(
    source: object, dtype: str | torch.dtype | None, trust_remote_code: bool, tp_plan: str
) -> PreTrainedModel:
    """This process's shard of the causal LM in a folder or on the hub, in eval mode. All ranks must come here.

    dtype  None is float32 on a CPU, and the checkpoint's own elsewhere.

    Raises ModelError, and OptionError for what is no folder of weights, or a second model in shards.
    """
    from transformers.distributed import DistributedConfig  # which not every start needs

    place = locate(folder_or_name(source))
    if place.base is not None or place.gguf is not None:
        kind = "an adapter" if place.base is not None else "a GGUF file"
        raise OptionError(
            f"tp_plan shares out the weights of a folder, and {place.title!r} is {kind}; leave tp_plan out"
        )
    if _LOADED:
        raise OptionError(
            f"{place.title!r} cannot be shared out: the other ranks serve {_LOADED[0]!r} until the program ends; load the model "
            "once, and give it to both engines"
        )
    _LOADED.append(place.title)
    wanted = as_dtype(dtype) or ("auto" if torch.cuda.is_available() else torch.float32)
    layout = DistributedConfig(tp_plan=tp_plan)
    model: PreTrainedModel = read_model(place, wanted, trust_remote_code, distributed_config=layout)
    return model
