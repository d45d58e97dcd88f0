"""A model whose passes belong to one text each, and are as wide as that text says: its rows are the same in any company.

It is for drafters whose rows are rounded, for else a seed would not give its text again. A chain stays one pass, which `bitwise`
does not know, for its rows are read one by one.
"""

from __future__ import annotations

from typing import ClassVar

from draftgraph.backends.base import CacheHandle
from draftgraph.backends.buckets import Buckets
from draftgraph.backends.openvino.chains import Chains
from draftgraph.backends.openvino.model import OpenVinoModel


class ApartModel(OpenVinoModel):
    """The same graph and memory as another model of this process, in other passes."""

    joins: ClassVar[bool] = False

    def __init__(self, model: OpenVinoModel, chains: Chains) -> None:
        self.base = model  # others of this process that want it find it running
        self.about, self.precision, self.pool = model.about, model.precision, model.pool
        self._compiled, self._turn, self._chains = model._compiled, model._turn, chains
        self._buckets = Buckets(self.sizes, 0.0)  # never wider than a text needs, whatever was read before

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} apart"

    def apart(self) -> ApartModel:
        return self

    def bitwise(self) -> OpenVinoModel:
        return self.base.bitwise()

    def share(self, text: CacheHandle, other: CacheHandle, count: int) -> int:
        """0: another text was read in passes of its own, and other widths need not give the same bits."""
        return 0

    def price_change(self, rows: float) -> None:
        """Nothing: sizes look at one pass alone."""
