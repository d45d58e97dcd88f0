"""A causal LM on OpenVINO's paged attention: the seam's verbs over one compiled graph."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch

from draftgraph.backends.base import EXACT, NEAR_TIES, CacheHandle, Feed, Likely, Scored
from draftgraph.backends.buckets import Buckets
from draftgraph.backends.openvino.chains import (
    FIRST_ROWS,
    MOST_STEPS,
    TOKENS,
    Chains,
    is_small,
    lay_out_chain,
    weight_bytes,
)
from draftgraph.backends.openvino.compiled import Compiled
from draftgraph.backends.openvino.huge_pages import HugePages
from draftgraph.backends.openvino.layout import LEAST_ASKED, lay_out
from draftgraph.backends.openvino.pool import BlockPool
from draftgraph.backends.openvino.precision import Precision
from draftgraph.backends.openvino.text import PagedText, Rows, enter
from draftgraph.backends.steadiness import steady
from draftgraph.errors import LogitsError, ModelError, OptionError
from draftgraph.types import ROOT

MOST_ROWS = 256
"""Rows per pass while a long prompt is read. Twice as many take 6 to 10 % less time per token, and let whoever decodes beside
them wait for almost twice as long."""
SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
"""Numbers of rows that passes are padded to."""
WASTE, WASTE_ROUNDED = 6, 16
"""Rows that cost about as much as a change of size, until it is measured: 2 to 6 in float32, 10 to 24 elsewhere."""

FoundOnce = Callable[[Sequence[int], Callable[[], int]], int]
"""found_once(possible answers, look) -> one of them."""


@dataclass(frozen=True)
class About:
    """What there is to know of a model beside its graph.

    name        of its folder, or of its class where it came as a loaded model.
    class_name  of transformers.
    window      tokens that it can read.
    weights     a hash of its weights.
    version     of OpenVINO.
    checked     what a comparison with transformers found.
    """

    name: str
    class_name: str
    vocab_size: int
    window: int | None
    weights: str
    version: str
    checked: str = ""


class OpenVinoModel:
    """`CausalLM` on OpenVINO. Passes of threads that share it take turns; a cached text is touched by its own request only.

    about       what there is to know beside the graph. precision  in which it computes.
    found_once  says from which rows on passes agree bit for bit: by looking, or by what an earlier process has kept.
    """

    name: ClassVar[str] = "openvino"
    most_rows = MOST_ROWS
    joins: ClassVar[bool] = True
    forks: ClassVar[bool] = True
    sizes: Sequence[int] = SIZES
    _least_asked = LEAST_ASKED

    def __init__(self, graph: Any, about: About, precision: Precision, threads: int) -> None:
        """Compiles a graph on paged attention. Raises whatever OpenVINO raises where it cannot."""
        self.about, self.precision = about, precision
        self._compiled = Compiled(graph, precision, threads, HugePages(weight_bytes(graph)))
        self.pool = BlockPool(self._compiled.shapes, self._compiled.kind, self._compiled.attach)
        self._chains = Chains(graph, precision, threads, self.pool) if is_small(graph) else None
        self._buckets, self._turn = Buckets(self.sizes, WASTE if precision.exact else WASTE_ROUNDED), threading.Lock()
        self._narrowest: int | None = None  # rows from which on passes agree bit for bit; not looked for yet
        self.found_once: FoundOnce = _found_now

    @property
    def model_name(self) -> str:
        return self.about.name

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes; its logits are float32."""
        return self.precision.dtype

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def vocab_size(self) -> int:
        return self.about.vocab_size

    @property
    def context_window(self) -> int | None:
        return self.about.window

    @property
    def fingerprint(self) -> str:
        return f"{self.about.weights} openvino {self.about.version} {self.precision}"

    @property
    def branches(self) -> bool:
        return True

    @property
    def switch(self) -> int | None:
        """None: models that read long texts otherwise are refused."""
        return None

    @property
    def landmarks(self) -> Sequence[int]:
        """None: models with windows are refused."""
        return ()

    @property
    def numerics(self) -> str:
        return EXACT if self.precision.exact else NEAR_TIES

    @property
    def cell_bytes(self) -> int:
        return self.pool.cell_bytes

    def bitwise(self) -> OpenVinoModel:
        # which is a model like this one, in other passes
        from draftgraph.backends.openvino.bitwise import NARROWEST, BitwiseModel

        if self._narrowest is None:
            self._narrowest = self.found_once(
                (*NARROWEST, 0), lambda: next((rows for rows in NARROWEST if steady(BitwiseModel(self, rows))), 0)
            )
        if not self._narrowest:
            raise OptionError(
                f"bitwise=True is not possible for {self.about.class_name} on this CPU: passes of different width round "
                "differently here; write bitwise=False"
            )
        return BitwiseModel(self, self._narrowest)

    def apart(self) -> OpenVinoModel:
        """Where a chain is one pass, passes of one text each; else those of `bitwise`, in which texts are read together."""
        from draftgraph.backends.openvino.apart import ApartModel  # which is a model like this one, in other passes

        return self.bitwise() if self._chains is None else ApartModel(self, self._chains)

    def refuse_training(self) -> None:
        """Nothing: a graph has no training mode."""

    def open(self, capacity: int) -> CacheHandle:
        text = PagedText(capacity)
        self.pool.expect(text)
        return text

    def share(self, text: CacheHandle, other: CacheHandle, count: int) -> int:
        """Full blocks become blocks of both texts; what is left of the last one is copied."""
        text, other = cast(PagedText, text), cast(PagedText, other)
        with self._turn:
            count = min(count, other.read - len(other.moved))
            return 0 if count <= 0 or text.blocks or text.length else self.pool.share(text, other, count)

    def fork(self, text: CacheHandle, nodes: Sequence[int]) -> CacheHandle:
        """The text's blocks become blocks of both, as in `share`; the nodes are read again with the next tokens."""
        text, other = cast(PagedText, text), PagedText(text.room)
        with self._turn:
            self._settle([text])
            if text.read:
                self.pool.share(other, text, text.read)
        other.unread = [*text.unread, *(text.drafted[node] for node in nodes)]
        other.length += len(other.unread)
        return other

    def refresh(self) -> None:
        raise ModelError(
            f"OpenVINO computes {self.about.name} with a copy of its weights, and would go on with the old ones; write "
            "backend='torch', or make a new engine"
        )

    def price_change(self, rows: float) -> None:
        self._buckets.waste = rows

    def settle(self) -> None:
        with self._turn:
            self._compiled.settle()

    def expect(self, text: CacheHandle, length: int) -> None:
        """Nothing: a text of any length is read in one way."""

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        self._refuse_taps(taps)
        with self._turn:
            texts = [cast(PagedText, feed.text) for feed in feeds]
            self._settle(texts)
            with self.pool.entering(texts):
                entered = self._enter(feeds, texts)
                likely = feeds[0].likely if len(feeds) == 1 and not taps else None
                if self._chains is not None and likely is not None:
                    return [self._read_on(likely, texts[0], entered[0][0], self._chains)]
                return self._score(entered, taps)

    def _refuse_taps(self, taps: Sequence[str]) -> None:
        if taps and not self._compiled.has(taps):
            raise ModelError(
                f"{self.about.class_name} was converted for OpenVINO without hidden states {tuple(taps)}; write backend='torch'"
            )

    def _settle(self, texts: Sequence[PagedText]) -> None:
        """Copy kept nodes to where they belong."""
        for text in texts:
            if text.moved:
                self.pool.move(text, text.moved, text.read - len(text.moved))
                text.moved = []

    def _read_on(self, likely: Likely, text: PagedText, rows: Rows, chains: Chains) -> Scored:
        """A pass that goes on with likely tokens, where the rows of the feed and the window allow it."""
        wanted = min(1 + likely.count, MOST_STEPS)
        cells = rows.past + len(rows.tokens)
        if (
            len(rows.tokens) > FIRST_ROWS
            or len(rows.asked) > 1
            or cells + MOST_STEPS > (self.context_window or math.inf)
        ):
            return self._score([(rows, text.blocks)], ())[0]
        steps, compiled = chains.of(wanted, bool(likely.quantiles))
        self.pool.allot([(text, cells + steps)])
        compiled.run(lay_out_chain(rows, text.blocks, steps, likely))
        logits = self._logits(compiled, wanted)
        tokens: list[int] = compiled.output(TOKENS)[0, : wanted - 1].tolist()
        last = len(text.nodes) - 1 if text.laid else ROOT
        enter(Feed(text, (), tokens, [last, *range(len(text.nodes), len(text.nodes) + len(tokens) - 1)]), text)
        return Scored(logits, likely=tokens)

    def _logits(self, compiled: Compiled, count: int) -> torch.Tensor:
        """The first rows that the last pass gave."""
        given = compiled.output()[:count].copy()  # the next pass overwrites what it gave
        if not _finite(given):
            raise LogitsError(
                f"{self.about.class_name} returned NaN or infinite logits; the request was stopped, the engine is usable"
            )
        return torch.from_numpy(given)

    def _score(self, batch: Sequence[tuple[Rows, Sequence[int]]], taps: Sequence[str]) -> list[Scored]:
        """One pass. batch  rows, each with its blocks."""
        size = self._buckets.size(sum([len(rows.tokens) for rows, _ in batch]))
        self._compiled.run(lay_out(batch, size, self._least_asked))
        counts = [len(rows.asked) for rows, _ in batch]
        logits = self._logits(self._compiled, sum(counts))
        parts = [logits] if len(batch) == 1 else torch.split(logits, counts)
        if not taps:
            return [Scored(part) for part in parts]
        states = self._states([rows for rows, _ in batch], taps)
        return [Scored(part, state) for part, state in zip(parts, states, strict=True)]

    def _enter(self, feeds: Sequence[Feed], texts: Sequence[PagedText]) -> list[tuple[Rows, list[int]]]:
        """What every request feeds, with its blocks."""
        batch = [enter(feed, text) for feed, text in zip(feeds, texts, strict=True)]
        self.pool.allot([(text, rows.past + len(rows.tokens)) for text, rows in zip(texts, batch, strict=True)])
        return [(rows, text.blocks) for rows, text in zip(batch, texts, strict=True)]

    def _states(self, batch: Sequence[Rows], taps: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """Hidden states of the rows of every feed."""
        starts = np.cumsum([0, *(len(rows.tokens) for rows in batch)])
        given = {name: self._compiled.output(name) for name in taps}
        return [
            {name: torch.from_numpy(rows_of[[start + row for row in rows.fed]]) for name, rows_of in given.items()}
            for rows, start in zip(batch, starts.tolist(), strict=False)
        ]

    @torch.inference_mode()
    def plain(self, ids: torch.Tensor, count: int) -> torch.Tensor:
        """By texts that are read from their beginning, without drafts."""
        return torch.stack([self._read(text, count) for text in ids.tolist()])

    def _read(self, ids: Sequence[int], count: int) -> torch.Tensor:
        text = self.open(len(ids))
        end = len(ids) - count + 1
        try:
            for start in range(0, end - 1, self.most_rows):
                self.forward([Feed(text, ids[start : min(start + self.most_rows, end - 1)])])
            return self.forward([Feed(text, ids[end - 1 : end], ids[end:], range(ROOT, count - 2))])[0].logits
        finally:
            self.close(text)

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        cast(PagedText, text).keep(nodes)

    def close(self, text: CacheHandle) -> None:
        text.clear()
        if self._turn.acquire(blocking=False):  # else a pass is under way, perhaps in this very thread
            try:
                self.pool.drop_unused()
            finally:
                self._turn.release()

    def hold_weakly(self) -> None:
        """Nothing: it holds no model of anybody's."""


def _found_now(answers: Sequence[int], look: Callable[[], int]) -> int:
    """Of a graph that nothing is kept of."""
    return look()


def _finite(rows: npt.NDArray[np.float32]) -> bool:
    """Whether all entries are finite. The largest and the smallest tell: both are NaN where any entry is."""
    return math.isfinite(rows.max()) and math.isfinite(rows.min())
