"""The models that are measured, loaded once for everybody, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from draftgraph.backends.choice import AUTO, Loading
from draftgraph.errors import OptionError
from draftgraph.lab.loading import load


@dataclass(frozen=True)
class Models:
    """A target and perhaps a drafter. source, drafter_source  where they came from.

    drafter  None as well for a trained one, which engines read from its source.
    window   positions that all models can read; None if none says.
    trusted  whether their own code may run.
    backend, weights  what runs them in draftgraph, and what they are quantised to there. Everybody else has the stored weights.
    """

    source: str
    drafter_source: str | None
    target: PreTrainedModel
    drafter: PreTrainedModel | None
    tokenizer: Any
    window: int | None
    trusted: bool = False
    backend: str = AUTO
    weights: str | None = None

    @classmethod
    def load(
        cls,
        target: str | Path,
        drafter: str | Path | None,
        dtype: str | None = None,
        device: str | None = None,
        trusted: bool = False,
        backend: str = AUTO,
        weights: str | None = None,
    ) -> Models:
        """Models from folders or hub names. trusted  whether their own code may run. backend, weights  see the class.

        Raises ModelError or PairError if the engine could not run them, OptionError without a tokenizer.
        """
        Loading(dtype, device, trusted, backend, weights=weights)  # refuses what cannot be, before anything is loaded
        models = load(target, drafter, dtype, device, trusted)
        if models.tokenizer is None:
            raise OptionError("the target has no tokenizer files, so no prompt can be read; add them to its folder")
        sources = str(target), None if drafter is None else str(drafter)
        known = models.target, models.drafter, models.tokenizer, models.window
        return cls(*sources, *known, trusted, backend, weights)

    @property
    def made_of(self) -> tuple[str, str | None, dict[str, Any]]:
        """What users give an engine: the sources, in the precision and on the device of the models that were loaded."""
        loading = {"dtype": self.dtype_name, "device": str(self.target.device), "trust_remote_code": self.trusted}
        return self.source, self.drafter_source, loading | {"backend": self.backend, "weights": self.weights}

    @property
    def dtype(self) -> torch.dtype:
        return self.target.dtype  # type: ignore[no-any-return]

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def to_dict(self) -> dict[str, Any]:
        return {
            "target": self.source,
            "drafter": self.drafter_source,
            "target_parameters": _parameters(self.target),
            "drafter_parameters": None if self.drafter is None else _parameters(self.drafter),
            "dtype": self.dtype_name,
            "device": str(self.target.device),
            "window": self.window,
            "backend": self.backend,
            "weights": self.weights,
        }


def _parameters(model: PreTrainedModel) -> int:
    """Shared weights count once."""
    return sum(weight.numel() for weight in model.parameters())
