"""Any causal LM of transformers, unmodified: explicit positions, an additive 4-D mask, and the slot cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel

from draftgraph.backends.base import CacheHandle, Feed
from draftgraph.backends.cache_argument import cache_argument
from draftgraph.backends.cells import CellPool
from draftgraph.backends.check import Check
from draftgraph.backends.support import refuse_unsupported
from draftgraph.errors import DraftgraphError, LogitsError
from draftgraph.types import ROOT

PREFILL_CHUNK = 1024
"""Rows per pass while a long prompt is read; bounds the mask's memory, which is rows × slots."""


class HFModel:
    """`CausalLM` for a transformers model; the model itself is never changed.

    Raises ModelError, before any forward, if its cache cannot roll back or its attention cannot take a 4-D mask.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        refuse_unsupported(model)
        self.model = model
        self.name = type(model).__name__
        self.config = model.config.get_text_config(decoder=True)
        self.cache = CellPool(self.config.num_hidden_layers)
        self.cache_argument = cache_argument(model.forward)

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def context_window(self) -> int | None:
        window = getattr(self.config, "max_position_embeddings", None)
        return int(window) if window else None

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    def open(self, capacity: int) -> CacheHandle:
        self.cache.reserve(capacity)
        return CacheHandle()

    def forward(self, batch: Sequence[Feed]) -> list[torch.Tensor]:
        return self._pass([self._read_ahead(rows) for rows in batch])

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        kept = [text.nodes[node][-1] for node in nodes]
        self.cache.release({path[-1] for path in text.nodes} - set(kept))
        if kept:
            text.slots = np.append(text.slots, kept)
        text.nodes.clear()

    def close(self, text: CacheHandle) -> None:
        self.keep(text, ())
        self.cache.release(text.slots.tolist())
        text.slots = text.slots[:0]

    def _read_ahead(self, rows: Feed) -> Feed:
        """Read a long prompt in pieces; only its last piece needs logits."""
        committed = rows.committed
        while len(committed) > PREFILL_CHUNK:
            self._pass([Feed(rows.text, committed[:PREFILL_CHUNK])])
            committed = committed[PREFILL_CHUNK:]
        return replace(rows, committed=committed)

    def _pass(self, batch: Sequence[Feed]) -> list[torch.Tensor]:
        tokens = [token for rows in batch for token in (*rows.committed, *rows.tokens)]
        slots = self.cache.take(len(tokens))
        hidden = max(torch.finfo(self.model.dtype).min, torch.finfo(torch.float32).min)
        mask, positions = _lay_out(batch, slots, self.cache.high, hidden)
        self.cache.written = torch.tensor(slots, device=self.device)
        try:
            logits = self.model(
                input_ids=torch.tensor([tokens], device=self.device),
                attention_mask=torch.from_numpy(mask).to(self.device, self.model.dtype)[None, None],
                position_ids=torch.tensor([positions], device=self.device),
                use_cache=True,
                logits_to_keep=_wanted(batch),
                **{self.cache_argument: self.cache},
            ).logits[0]
        except BaseException:
            self.cache.wipe()
            raise
        if not np.isfinite(logits.sum(dtype=torch.float32).item()):
            self.cache.wipe()
            raise LogitsError(
                f"{self.name} returned NaN or infinite logits; the request was stopped, the engine is usable"
            )
        return list(logits.split([rows.num_logits for rows in batch]))


def _lay_out(
    batch: Sequence[Feed], slots: list[int], width: int, hidden: float
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], list[int]]:
    """Give every row its slot, its position and what it may read; enter the rows into their requests' state.

    Returns an additive mask f32[rows, width] (0 visible, `hidden` not) and the positions.
    """
    mask = np.full((len(slots), width), hidden, dtype=np.float32)
    positions: list[int] = []
    start = 0
    for rows in batch:
        text, fed = rows.text, len(rows.committed)
        mine = np.array(slots[start : start + fed + len(rows.tokens)], dtype=np.int64)
        mask[start : start + len(mine), text.slots] = 0.0
        positions.extend(range(len(text), len(text) + fed))
        if fed:
            mask[start : start + fed, mine[:fed]] = np.where(
                np.tri(fed, dtype=bool), np.float32(0.0), np.float32(hidden)
            )
            mask[start + fed : start + len(mine), mine[:fed]] = 0.0
            text.slots = np.append(text.slots, mine[:fed])
        for i, slot in enumerate(mine[fed:].tolist()):
            path = [*rows.ancestors(i), slot]
            mask[start + fed + i, path] = 0.0
            positions.append(len(text) + len(path) - 1)
            text.nodes.append(path)
        start += len(mine)
    return mask, positions


def _wanted(batch: Sequence[Feed]) -> int | torch.Tensor:
    """Which rows need logits: per request the last committed one and the drafted ones."""
    if len(batch) == 1:
        return batch[0].num_logits
    wanted: list[int] = []
    end = 0
    for rows in batch:
        end += len(rows.committed) + len(rows.tokens)
        wanted.extend(range(end - rows.num_logits, end))
    return torch.tensor(wanted)


def probe(model: HFModel) -> None:
    """Raise ModelError if the model does not honour masks, positions and slots; some architectures ignore them silently."""
    honours_masks(model).enforce()


@torch.inference_mode()
def honours_masks(model: HFModel) -> Check:
    """Check on six rows that the model honours masks, positions and slots.

    A small draft tree behind three tokens, in two passes with a rejected branch between them, must give the logits of
    plain forwards over its paths.
    """
    rule = "honours masks and positions"
    a, b, c, d = (token % model.vocab_size for token in (1, 2, 3, 5))
    text = model.open(8)
    try:
        model.forward([Feed(text, [a, b, c], [d, a], [ROOT, ROOT])])
        model.keep(text, [1])
        seen = model.forward([Feed(text, [], [b, c, d], [ROOT, ROOT, 1])])[0][[0, 2]].float()
        expected = torch.stack([_plain(model, [a, b, c, a, b]), _plain(model, [a, b, c, a, c, d])]).float()
    except DraftgraphError:
        raise
    except Exception as error:
        return Check(
            rule,
            "fail",
            f"{model.name} cannot run with explicit masks, positions and slots ({type(error).__name__}: {error})",
            "its drafts could not be verified. Models with ALiBi are of this kind; use another architecture",
        )
    finally:
        model.close(text)
    scale = float((expected - expected.mean(dim=1, keepdim=True)).abs().max()) + 1e-6
    tolerance = 1e-3 if model.model.dtype in (torch.float32, torch.float64) else 0.1
    change = float((seen - expected).abs().max())
    if change > tolerance * scale:
        return Check(
            rule,
            "fail",
            f"{model.name} does not honour explicit masks and positions (a drafted branch changes its logits by {change:.2g})",
            "its drafts could not be verified exactly. Models with ALiBi or relative position biases computed from the row "
            "order are of this kind; use another architecture",
        )
    return Check(rule, "pass", f"a draft tree gives the logits of plain forwards to {change:.1g}")


def _plain(model: HFModel, tokens: list[int]) -> torch.Tensor:
    """Logits f[V] after `tokens`, from a forward without cache or mask."""
    ids = torch.tensor([tokens], device=model.device)
    return model.model(input_ids=ids, use_cache=False).logits[0, -1]  # type: ignore[no-any-return]
