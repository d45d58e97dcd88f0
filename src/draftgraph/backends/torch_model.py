"""Any causal LM of transformers, unmodified: explicit positions, an additive 4-D mask, and the slot cache."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import PreTrainedModel

from draftgraph.backends.base import CacheHandle, Feed
from draftgraph.backends.cache_argument import cache_argument
from draftgraph.backends.cells import CellPool
from draftgraph.backends.check import Check
from draftgraph.backends.support import in_training, refuse_unsupported
from draftgraph.backends.wrapped import opened
from draftgraph.errors import LogitsError, ModelError
from draftgraph.types import ROOT

PREFILL_CHUNK = 1024
"""Rows per pass while a long prompt is read; bounds the mask's memory, which is rows × slots."""


UNVERIFIABLE = (
    "its drafts could not be verified exactly. Models with ALiBi, or with position biases computed from the order of the rows, "
    "are of this kind; use another architecture"
)
_LOCKS: WeakKeyDictionary[PreTrainedModel, threading.RLock] = WeakKeyDictionary()
_REGISTRY = threading.RLock()


def _lock_of(model: PreTrainedModel) -> threading.RLock:
    """One lock for a model, however many engines use it. Whoever holds it waits for nothing else."""
    with _REGISTRY:
        return _LOCKS.setdefault(model, threading.RLock())


class HFModel:
    """`CausalLM` for a transformers model, or for an adapter around one; the model itself is never changed.

    Threads may share it: their passes take turns, and a cached text is touched by its own request only.
    Raises ModelError, before any forward, if its cache cannot roll back or its attention cannot take a 4-D mask.

    model    says what there is to know of it. adapter  what is called in its place, if there is one.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        inside = opened(model)
        refuse_unsupported(inside.model)
        self.model = inside.model
        self.adapter = None if inside.called is inside.model else inside.called
        self.name, self.remedy = inside.name, inside.remedy
        self._lock = _lock_of(inside.model)
        self.config = self.model.config.get_text_config(decoder=True)
        self.cache = CellPool(self.config.num_hidden_layers)
        self.cache_argument = cache_argument(inside.called.forward, self.model.forward)

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

    @property
    def called(self) -> torch.nn.Module:
        """What a pass calls."""
        return self.model if self.adapter is None else self.adapter

    def call(self, **inputs: Any) -> torch.Tensor:
        """Logits f[rows, V] of one forward of the model, uncompiled: as many numbers of rows would be compiled apart."""
        module = self.called
        run = module if module._compiled_call_impl is None else module._call_impl
        logits: torch.Tensor = run(**inputs).logits[0]  # type: ignore[no-untyped-call]
        return logits

    def refuse_training(self) -> None:
        """Raise ModelError if dropout would make every pass another law."""
        found = in_training(self.called)
        if found is not None:
            raise ModelError(f"{self.name} is {found}: dropout would make every pass another law; write model.eval()")

    def open(self, capacity: int) -> CacheHandle:
        return CacheHandle(capacity)

    def forward(self, batch: Sequence[Feed]) -> list[torch.Tensor]:
        return self._pass([self._read_ahead(rows) for rows in batch])

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        if len(nodes):
            text.slots = np.append(text.slots, [text.nodes[node][-1] for node in nodes])
        text.nodes = []  # after `slots`: see CacheHandle.cells

    def close(self, text: CacheHandle) -> None:
        text.clear()
        self.cache.drop_unused()

    def _read_ahead(self, rows: Feed) -> Feed:
        """Read a long prompt in pieces; only its last piece needs logits."""
        committed = rows.committed
        while len(committed) > PREFILL_CHUNK:
            self._pass([Feed(rows.text, committed[:PREFILL_CHUNK])])
            committed = committed[PREFILL_CHUNK:]
        return replace(rows, committed=committed)

    def _pass(self, batch: Sequence[Feed]) -> list[torch.Tensor]:
        with self._lock:
            if self.model.training or self.called.training:
                self.refuse_training()
            tokens = [token for rows in batch for token in (*rows.committed, *rows.tokens)]
            slots = self.cache.find([rows.text for rows in batch], len(tokens))
            hidden = max(torch.finfo(self.model.dtype).min, torch.finfo(torch.float32).min)
            mask, positions = _lay_out(batch, slots, self.cache.high, hidden)
            self.cache.begin(slots, self.device)
            logits = self.call(
                input_ids=torch.tensor([tokens], device=self.device),
                attention_mask=torch.from_numpy(mask).to(self.device, self.model.dtype)[None, None],
                position_ids=torch.tensor([positions], device=self.device),
                use_cache=True,
                logits_to_keep=_wanted(batch),
                **{self.cache_argument: self.cache},
            )
            if not np.isfinite(logits.sum(dtype=torch.float32).item()):
                raise LogitsError(
                    f"{self.name} returned NaN or infinite logits; the request was stopped, the engine is usable"
                )
            self.cache.end()
        return list(torch.split(logits, [rows.num_logits for rows in batch]))


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
    plain forwards over its paths. A model in training mode is switched to eval for as long as that takes.
    """
    rule = "honours masks and positions"
    advice = UNVERIFIABLE if model.adapter is None else model.remedy
    try:
        seen, expected = _probed(model)
    except (LogitsError, ModelError):
        raise
    except Exception as error:
        found = f"{model.name} cannot run with explicit masks, positions and slots ({type(error).__name__}: {error})"
        return Check(rule, "fail", found, advice)
    scale = float((expected - expected.mean(dim=1, keepdim=True)).abs().max()) + 1e-6
    tolerance = 1e-3 if model.model.dtype in (torch.float32, torch.float64) else 0.1
    change = float((seen - expected).abs().max())
    if change > tolerance * scale:
        found = f"{model.name} does not honour explicit masks and positions (a drafted branch changes its logits by"
        return Check(rule, "fail", f"{found} {change:.2g})", advice)
    return Check(rule, "pass", f"a draft tree gives the logits of plain forwards to {change:.1g}")


def _probed(model: HFModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits f[2, V] of two nodes of a draft tree: by passes over rows, and by plain forwards over their paths."""
    a, b, c, d = (token % model.vocab_size for token in (1, 2, 3, 5))
    text = model.open(8)
    try:
        with _evaluating(model.called):
            model.forward([Feed(text, [a, b, c], [d, a], [ROOT, ROOT])])
            model.keep(text, [1])
            seen = model.forward([Feed(text, [], [b, c, d], [ROOT, ROOT, 1])])[0][[0, 2]].float()
            plain = [_plain(model, [a, b, c, a, b]), _plain(model, [a, b, c, a, c, d])]
    finally:
        model.close(text)
    return seen, torch.stack(plain).float()


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Every module in eval mode for a while, then each in the mode that it had."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _plain(model: HFModel, tokens: list[int]) -> torch.Tensor:
    """Logits f[V] after `tokens`, from a forward without cache or mask."""
    with model._lock:
        ids = torch.tensor([tokens], device=model.device)
        return model.call(input_ids=ids, use_cache=False)[-1]
