"""How a graph computes: what decides its logits beside the weights, so that it is part of every name and fingerprint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Numerics:
    """precision  "f32" or "bf16", of activations, keys and values; logits are float32 in both.

    weights  "stored": as the model has them.
    """

    precision: str = "f32"
    weights: str = "stored"

    @property
    def dtype(self) -> torch.dtype:
        return {"f32": torch.float32, "bf16": torch.bfloat16}[self.precision]

    @property
    def tolerance(self) -> float:
        """How far logits may be from those of transformers in float32, as a share of their scale."""
        return {"f32": 1e-3, "bf16": 0.1}[self.precision]

    def __str__(self) -> str:
        return self.precision if self.weights == "stored" else f"{self.weights} {self.precision}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def hints(self, threads: int) -> dict[str, Any]:
        """Properties of a compiled graph. The cache in the precision of the passes: by default it would be 8 bits."""
        return {
            "INFERENCE_PRECISION_HINT": self.precision,
            "KV_CACHE_PRECISION": self.precision,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
