"""How a graph computes: what decides its logits beside the weights, so that it is part of every name and fingerprint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

QUANTISED = ("int8", "int4")
"""What weights can be quantised to."""
STORED = "stored"
"""Weights as the model has them."""
_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    """activations  "f32" or "bf16", of keys and values too; logits are float32 in both.

    weights  "stored": as the model has them; or one of QUANTISED.
    """

    activations: str = "f32"
    weights: str = STORED

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.activations]

    @property
    def exact(self) -> bool:
        """Whether greedy text does not depend on the width of passes. Quantised weights meet activations of 8 bits."""
        return self.activations == "f32" and self.weights == STORED

    @property
    def tolerance(self) -> float:
        """How far logits of one graph may be apart on two machines, as a share of their scale."""
        return 1e-3 if self.exact else 0.1

    @property
    def rounding(self) -> float:
        """How far logits may be from those in float32, as a share of their scale. Further, they say nothing.

        With 4 bits they are another model's, as whoever asks for them knows.
        """
        return math.inf if self.weights == "int4" else 0.5

    def __str__(self) -> str:
        return self.activations if self.weights == STORED else f"{self.weights} {self.activations}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def hints(self, threads: int) -> dict[str, Any]:
        """Properties of a compiled graph. The cache has the precision of the passes: by default it would be 8 bits."""
        return {
            "INFERENCE_PRECISION_HINT": self.activations,
            "KV_CACHE_PRECISION": self.activations,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }


def of_dtype(dtype: torch.dtype) -> Precision | None:
    """The precision that computes like a dtype; None if there is none."""
    return next((Precision(name) for name, known in _DTYPES.items() if known == dtype), None)
