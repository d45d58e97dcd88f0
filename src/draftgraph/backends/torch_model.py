"""Any causal LM of transformers, unmodified: explicit positions, an additive 4-D mask, and the slot cache."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import proxy, ref

import numpy as np
import torch

from draftgraph.backends.alibi import biased, biased_layers
from draftgraph.backends.arithmetic import OwnArithmetic, rounding, rows_alone
from draftgraph.backends.base import EXACT, NEAR_TIES, CacheHandle, CausalLM, Feed, Scored
from draftgraph.backends.cache_argument import cache_argument
from draftgraph.backends.cell_forks import CellForks
from draftgraph.backends.cell_rows import enter, entering, led, mask_of, needs_lead, split, wanted
from draftgraph.backends.cells import CellPool, cell_numbers
from draftgraph.backends.check import Check
from draftgraph.backends.fingerprint import fingerprint
from draftgraph.backends.layer_kinds import LayerKind, layer_kinds
from draftgraph.backends.locks import lock_of
from draftgraph.backends.masks import Given, Mask, as_given, cell_positions, for_kinds
from draftgraph.backends.positions import numbers_from_padding, placed, position_tables
from draftgraph.backends.ragged import configs_of, lay_out_apart, named, pays, running
from draftgraph.backends.ragged_probe import attends_apart
from draftgraph.backends.rope import find_switch
from draftgraph.backends.row_masks import Shown, mask_holders
from draftgraph.backends.support import context_window, in_training, refuse_unsupported
from draftgraph.backends.taps import held_taps, tapped
from draftgraph.backends.wrapped import opened
from draftgraph.errors import LogitsError, ModelError, OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_ROWS, MOST_ROWS_OF_GPU = 256, 1024
"""Rows per pass while a long prompt is read. They bound the mask's memory and how long others wait; more are no faster here."""
_KEPT = "logits_to_keep"
"""The argument that names the rows whose logits are computed; some older models compute all."""


class TorchModel(CellForks):
    """`CausalLM` for a transformers model, or for an adapter around one; the model itself is never changed.

    Threads may share it: their passes take turns, and a cached text is touched by its own request only.
    Raises ModelError, before any forward, if its cache cannot roll back or its attention cannot take a 4-D mask.

    model    says what there is to know of it. adapter  what is called in its place, if there is one.
    """

    name: ClassVar[str] = "torch"
    most_rows = MOST_ROWS
    branches: ClassVar[bool] = True
    joins: ClassVar[bool] = True
    sizes: ClassVar[Sequence[int]] = ()

    def __init__(self, model: torch.nn.Module) -> None:
        inside = opened(model)
        refuse_unsupported(inside.model)
        self.model = inside.model
        self.adapter = None if inside.called is inside.model else inside.called
        self.class_name, self.remedy, self._lock = inside.name, inside.remedy, lock_of(inside.model)
        self.config = self.model.config.get_text_config(decoder=True)
        self.vocab_size, self.context_window = int(self.config.vocab_size), context_window(self.model)
        self._first: Callable[[], torch.Tensor | None] = lambda: None
        self.kinds = layer_kinds(self.config)
        self._forgets = all(kind.span is not None for kind in self.kinds)
        self._switch = find_switch(self.model, self.context_window)
        self._biased, self._holders = biased_layers(self.model), mask_holders(self.model)
        self._apart: bool | None = None  # not looked at yet
        self._configs, self._held_kinds = configs_of(self.model), [kind for _, _, kind in self._holders]
        self._tables, self._counts_from_0 = position_tables(self.model), numbers_from_padding(self.model)
        self.cache = CellPool(self.config.num_hidden_layers)
        if self.device.type != "cpu":
            self.most_rows = MOST_ROWS_OF_GPU
        self._selects = _KEPT in inspect.signature(self.model.forward).parameters
        self.cache_argument = cache_argument(inside.called.forward, self.model.forward)

    @property
    def model_name(self) -> str:
        """Its folder's name, or its class's."""
        return Path(self.model.name_or_path).name or str(self.model.__class__.__name__)

    @property
    def dtype(self) -> torch.dtype:
        return self._weight.dtype

    @property
    def device(self) -> torch.device:
        return self._weight.device

    @property
    def _weight(self) -> torch.Tensor:
        """The first weight, which tells type and device; finding it takes longer than the rest of a pass's preparations."""
        weight = self._first()
        if weight is None:  # not asked yet, or replaced
            weight = next(each for each in self.model.parameters() if each.is_floating_point())
            self._first = ref(weight)
        return weight

    @property
    def fingerprint(self) -> str:
        return f"{fingerprint(self.model)} {self.dtype} {named(self.model.config._attn_implementation)}"

    @property
    def switch(self) -> int | None:
        return None if self._switch is None else self._switch.length

    @property
    def landmarks(self) -> list[int]:
        """Lengths of text beyond which some layer begins to read otherwise."""
        spans = [kind.span for kind in (*self.kinds, *self._held_kinds) if kind.span is not None]
        return spans if self._switch is None else [*spans, self._switch.length]

    @property
    def numerics(self) -> str:
        whole = self.dtype == torch.float64 or (
            self.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
        )
        return EXACT if whole and self.rounding is None else NEAR_TIES

    @property
    def cell_bytes(self) -> int:
        return self.cache.cell_bytes or cell_numbers(self.config) * self.dtype.itemsize

    @property
    def rows_alone(self) -> Check:
        """Whether a row's result is its own in layers with arithmetic of their own."""
        return rows_alone(self.model, self.dtype, self.device)

    @cached_property
    def rounding(self) -> OwnArithmetic | None:
        """A layer that rounds what it reads to less than the model's own type, if there is one."""
        return rounding(self.model, self.dtype, self.device)

    def bitwise(self) -> CausalLM:
        """Raises OptionError: torch multiplies matrices of different height in different orders."""
        raise OptionError(
            "bitwise=True is not possible on torch, whose passes of different width round their last bits differently; write "
            "backend='openvino', or leave bitwise out"
        )

    def apart(self) -> CausalLM:
        """Raises OptionError: all texts lie in one cache, and a row reads all of it, others masked."""
        raise OptionError("rows of torch depend on the texts beside them in their last bits; write backend='openvino'")

    @property
    def called(self) -> torch.nn.Module:
        """What a pass calls."""
        return self.model if self.adapter is None else self.adapter

    def call(self, **inputs: Any) -> torch.Tensor:
        """Logits f[b, rows, V] of one forward of the model, uncompiled: as many numbers of rows would be compiled apart."""
        module = self.called
        run = module if module._compiled_call_impl is None else module._call_impl
        kept = None if self._selects else inputs.pop(_KEPT, None)
        logits: torch.Tensor = run(**inputs).logits  # type: ignore[no-untyped-call]
        if kept is None:
            return logits
        return logits[:, -kept:] if isinstance(kept, int) else logits[:, kept]

    def refuse_training(self) -> None:
        """Raise ModelError if dropout would make every pass another law."""
        found = in_training(self.called)
        if found is not None:
            raise ModelError(
                f"{self.class_name} is {found}: dropout would make every pass another law; write model.eval()"
            )

    def open(self, capacity: int) -> CacheHandle:
        kept = max(capacity if kind.span is None else kind.span for kind in self.kinds)
        return CacheHandle(min(capacity, kept + self.most_rows))

    def price_change(self, rows: float) -> None:
        """Nothing: sizes are not held longer than they are needed."""

    def settle(self) -> None:
        """Nothing: all passes are alike."""

    def expect(self, text: CacheHandle, length: int) -> None:
        if self._switch is not None and length > self._switch.length and not text.stretched:
            if self._switch.rereads:
                text.clear()
            text.stretched = True

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        with self._lock:
            if self.model.training or self.called.training:
                self.refuse_training()
            if self._apart is None and pays(feeds, self.cache.high, self.device.type == "cpu"):
                self._apart = attends_apart(self)
            held, others = held_taps(taps, self.config.num_hidden_layers)
            with entering(feeds), tapped(self.model, others) as states, self.cache.telling(held, states):
                if self._switch is None or len({feed.text.stretched for feed in feeds}) == 1:
                    return self.one_pass(feeds, states, self.kinds, self._apart)
                scored: dict[int, Scored] = {}
                for side in (False, True):  # one pass would stretch both
                    some = [feed for feed in feeds if feed.text.stretched is side]
                    found = self.one_pass(some, states, self.kinds, self._apart)
                    scored |= {id(feed): each for feed, each in zip(some, found, strict=True)}
                return [scored[id(feed)] for feed in feeds]

    def one_pass(
        self,
        feeds: Sequence[Feed],
        states: Mapping[str, torch.Tensor],
        kinds: Sequence[LayerKind],
        apart: bool | None,
        always: bool = False,
    ) -> list[Scored]:
        """One pass of the model. states  is filled with the taps while it runs. kinds  of its layers.

        apart  whether requests may attend to their own cells only; they do where that is faster, or `always`.
        """
        inputs, count = self.inputs(feeds), sum(feed.num_rows for feed in feeds)
        lead = self.switch is not None and needs_lead(feeds, self.switch)
        for feed in feeds if self._forgets else ():
            feed.text.forget(min(kind.first_read(len(feed.text)) for kind in self.kinds))
        slots = self.cache.find([feed.text for feed in feeds], count + lead)
        positions = self.enter(feeds, slots[lead:])
        if apart and not lead and (always or pays(feeds, self.cache.high, self.device.type == "cpu")):
            given, attending = self._attending_apart(feeds, kinds, positions)
        else:
            given, attending = self._attending(feeds, kinds, positions, slots, lead)
        if lead:
            inputs = {name: torch.cat([rows[:, :1], rows], dim=1) for name, rows in inputs.items()}
            positions = [cast(int, self.switch), *positions]
        self.cache.begin(slots, self.device)
        with placed(self._tables, positions, self.device), attending:
            logits = self.call(
                **inputs,
                attention_mask=None if self._biased else given,
                position_ids=torch.tensor([positions], device=self.device),
                use_cache=True,
                logits_to_keep=wanted(feeds, lead),
                **{self.cache_argument: self.cache},
            )[0]
        if not math.isfinite(logits.sum(dtype=torch.float32).item()):
            raise LogitsError(
                f"{self.class_name} returned NaN or infinite logits; the request was stopped, the engine is usable"
            )
        self.cache.end()
        return split(feeds, logits, {name: rows[:, lead:] for name, rows in states.items()})

    @property
    def _hidden(self) -> float:
        """What a mask adds to the scores of cells that are not read."""
        return max(torch.finfo(self.dtype).min, torch.finfo(torch.float32).min)

    def _attending(
        self,
        feeds: Sequence[Feed],
        kinds: Sequence[LayerKind],
        positions: Sequence[int],
        slots: Sequence[int],
        lead: int,
    ) -> tuple[Given, AbstractContextManager[Any]]:
        """Attention over all cells, of which masks hide those of other requests. lead  rows in front of them all."""
        hidden = self._hidden
        mask = self.mask_of(feeds, slots[lead:], hidden)
        masks = for_kinds([*kinds, *self._held_kinds], mask, hidden, positions, feeds)
        if lead:
            masks = [led(mask, slots[0], hidden) for mask in masks]
        given = as_given(kinds, masks[: len(kinds)], self.device, self.dtype)
        return given, self._placing(feeds, given, masks[len(kinds) :])

    def _attending_apart(
        self, feeds: Sequence[Feed], kinds: Sequence[LayerKind], positions: Sequence[int]
    ) -> tuple[Given, AbstractContextManager[Any]]:
        """Attention of every request over its own cells."""
        size = (self._hidden, self.cache.high, self.device, self.dtype)
        ragged = lay_out_apart(feeds, kinds, positions, *size)
        return ragged.given, running(self._configs, ragged)

    def enter(self, feeds: Sequence[Feed], slots: Sequence[int]) -> list[int]:
        """Enter the rows into their requests' state, each with its slot. Returns their positions."""
        return enter(feeds, slots)

    def mask_of(self, feeds: Sequence[Feed], slots: Sequence[int], hidden: float) -> Mask:
        """What rows that have been entered may read: an additive mask f32[rows, cells]."""
        return mask_of(feeds, self.cache.high, hidden)

    @property
    def own_masks(self) -> bool:
        """Whether rows read something else than their own text and nodes, or layers make masks which a pass exchanges."""
        return bool(self._biased or self._holders)

    def _placing(self, feeds: Sequence[Feed], given: Given, held: Sequence[Mask]) -> AbstractContextManager[Any]:
        """Where layers do not take the mask from the model's argument, it reaches them inside. held  that of every holder."""
        if self._holders:
            visible = [torch.from_numpy(mask == 0).to(self.device)[None, None] for mask in held]
            return Shown(self._holders, visible)
        if not self._biased:
            return nullcontext()
        assert isinstance(given, torch.Tensor)
        positions = torch.from_numpy(cell_positions(feeds, given.shape[-1])).to(self.device)
        return biased(self._biased, self.cache, given, positions)

    def inputs(self, feeds: Sequence[Feed]) -> dict[str, torch.Tensor]:
        """What the model reads, by the name of its argument: rows of all feeds behind each other."""
        tokens = [token for feed in feeds for token in (*feed.committed, *feed.tokens)]
        return {"input_ids": torch.tensor([tokens], device=self.device)}

    def plain(self, ids: torch.Tensor, count: int) -> torch.Tensor:
        told = {"position_ids": torch.arange(ids.shape[1], device=self.device)[None]} if self._counts_from_0 else {}
        with self._lock:
            return self.call(input_ids=ids.to(self.device), use_cache=False, logits_to_keep=count, **told)

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        if len(nodes):
            text.slots = np.append(text.slots, [text.nodes[node][-1] for node in nodes])
        text.nodes = []  # after `slots`: see CacheHandle.cells

    def close(self, text: CacheHandle) -> None:
        text.clear()
        self.cache.drop_unused()

    def release(self) -> None:
        """Give all memory back if no request is open."""
        with self._lock:
            self.cache.release()

    def hold_weakly(self) -> None:
        self.model = cast("PreTrainedModel", proxy(self.model))
