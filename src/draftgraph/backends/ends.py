"""The two ends of a target that trained drafters borrow: its embeddings, and its head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from transformers import PretrainedConfig

from draftgraph.backends.end_weights import read_ends
from draftgraph.backends.load import Source, load_model
from draftgraph.backends.wrapped import opened

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Ends(Protocol):
    """What a drafter may ask of its target; every transformers model has it."""

    @property
    def config(self) -> PretrainedConfig: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def get_input_embeddings(self) -> Any: ...
    def get_output_embeddings(self) -> Any: ...
    def get_decoder(self) -> Any: ...


@dataclass(frozen=True)
class LoneEnds:
    """The ends of a target that another backend than torch runs; the layers between them are read when they are asked for."""

    config: PretrainedConfig
    embeddings: torch.nn.Module
    head: torch.nn.Module
    source: Source

    @property
    def _weight(self) -> torch.Tensor:
        return next(self.embeddings.parameters())

    @property
    def dtype(self) -> torch.dtype:
        return self._weight.dtype

    @property
    def device(self) -> torch.device:
        return self._weight.device

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embeddings

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def get_decoder(self) -> torch.nn.Module:
        """The target between its ends, read anew: who keeps a few layers of it lets the others go."""
        return cast(torch.nn.Module, _model_of(self.source).get_decoder())


def ends_of(source: Source) -> LoneEnds:
    """The ends of a model in a folder, in float32 on the CPU, or those of a loaded one. Raises ModelError if it has none.

    They are read out of its files where they lie there as they are; else the whole model is loaded, and let go again.
    """
    read = read_ends(source) if isinstance(source, str | Path) else None
    if read is not None:
        return LoneEnds(*read, source)
    model = _model_of(source)
    return LoneEnds(model.config, model.get_input_embeddings(), model.get_output_embeddings(), source)


def _model_of(source: Source) -> PreTrainedModel:
    return opened(load_model(source, torch.float32, "cpu")).model


def product_type(stored: torch.dtype, target: Ends) -> torch.dtype:
    """In which a drafter multiplies: as it is stored where that is bfloat16 and the CPU has it, else as the target.

    Its rounding changes no text, and half the bytes are half the time of a pass.
    """
    narrow = stored == torch.bfloat16 and target.dtype == torch.float32 and target.device.type == "cpu"
    return torch.bfloat16 if narrow and torch.ops.mkldnn._is_mkldnn_bf16_supported() else target.dtype
