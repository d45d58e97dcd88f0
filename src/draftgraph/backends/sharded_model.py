"""A transformers model in shards (tensor parallel): rank 0 decodes, and tells the others every pass before it makes it.

The engine, its drafter and all draws are those of rank 0. What a pass needs is told, no logits are: every rank enters the same
rows into cells of its own heads, and makes its part of every product. transformers' plan adds the parts up.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist

from draftgraph.backends.base import CacheHandle, Feed, Scored
from draftgraph.backends.cells import CellPool, Memory
from draftgraph.backends.check import Check
from draftgraph.backends.fingerprint import fingerprint
from draftgraph.backends.layer_kinds import LayerKind
from draftgraph.backends.ragged import named
from draftgraph.backends.ranks import ranks_of
from draftgraph.backends.recurrent_model import reads_one_path
from draftgraph.backends.shards import shards
from draftgraph.backends.taps import held_taps
from draftgraph.backends.torch_model import TorchModel
from draftgraph.backends.wrapped import opened
from draftgraph.errors import LogitsError, ModelError, OptionError, first_line


@dataclass(frozen=True)
class Pass:
    """One pass over cells, before its rows are entered.

    given  the arguments of `one_pass`, pickled. cells, capacity, high  of the leader's pool. fresh  whether that is empty.
    """

    given: bytes
    cells: Sequence[int]
    capacity: int
    high: int
    fresh: bool


@dataclass(frozen=True)
class Plain:
    """One forward without cells. inputs  of `call`."""

    inputs: Mapping[str, Any]


def sharded_model(module: torch.nn.Module) -> ShardedModel:
    """What runs a model in shards, for rank 0. The other ranks never come back: they make its passes, and end with it.

    All ranks must come here. Raises ModelError, on every rank alike, for a model that cannot run.
    """
    model = ShardedModel(module)
    if model.ranks.rank:
        model.follow()
        raise SystemExit(0)
    return model


class ShardedModel(TorchModel):
    """`CausalLM` for a transformers model that `tp_plan="auto"` has shared out."""

    def __init__(self, model: torch.nn.Module) -> None:
        refuse_unfit(model)
        super().__init__(model)
        self.ranks = ranks_of(self.model)
        self._pending = b""

    @property
    def fingerprint(self) -> str:
        """That of the first rank's shard, and how many there are."""
        own = f"{fingerprint(self.model)} {self.dtype} {named(self.model.config._attn_implementation)}"
        return f"{own} {self.ranks.count} ranks"

    @property
    def rows_alone(self) -> Check:
        """Layers are torch's own, in shards: others are refused."""
        return Check("rows are independent", "pass", "a row's result is its own")

    @property
    def rounding(self) -> None:
        """None: see `rows_alone`."""
        return

    def refresh(self) -> None:
        raise ModelError(
            f"the other ranks hold their shards of {self.class_name}, and change nothing while they serve; start the program "
            "anew with the new weights"
        )

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        held, _ = held_taps(taps, self.config.num_hidden_layers)
        if held:
            raise OptionError(f"taps {sorted(held.values())} are shared out over the ranks; read 'hidden:…' instead")
        return super().forward(feeds, taps)

    def one_pass(
        self,
        feeds: Sequence[Feed],
        states: Mapping[str, torch.Tensor],
        kinds: Sequence[LayerKind],
        apart: bool | None,
        always: bool = False,
    ) -> list[Scored]:
        if not self.ranks.rank:
            self._pending = pickle.dumps((list(feeds), list(kinds), apart, always))
        return super().one_pass(feeds, states, kinds, apart, always)

    def call(self, **inputs: Any) -> torch.Tensor:
        if self.ranks.rank:
            return super().call(**inputs)
        with self.ranks.told(self._order(inputs)), torch.no_grad():
            return super().call(**inputs)

    def _order(self, inputs: Mapping[str, Any]) -> Pass | Plain:
        if not inputs["use_cache"]:
            return Plain(
                {name: each.cpu() if isinstance(each, torch.Tensor) else each for name, each in inputs.items()}
            )
        pool = self.cache
        fresh = all(held is None for layer in pool.memory.tensors for held in layer)
        return Pass(self._pending, pool.written.tolist(), pool.capacity, pool.high, fresh)

    @torch.inference_mode()
    def follow(self) -> None:
        """Make the passes that rank 0 makes, until it ends. Raises ModelError if it dies."""
        self.cache = self._told = _ToldPool(self.config.num_hidden_layers)
        for order in self.ranks.orders():
            try:
                self._obey(order)
            except LogitsError:
                continue  # rank 0 has seen the same logits, and says so
            except Exception as error:
                raise ModelError(
                    f"rank {self.ranks.rank} could not make a pass of rank 0: {first_line(error)}"
                ) from error

    def _obey(self, order: Pass | Plain) -> None:
        if isinstance(order, Plain):
            there = {n: x.to(self.device) if isinstance(x, torch.Tensor) else x for n, x in order.inputs.items()}
            self.call(**there)
            return
        self._told.tell(order)
        feeds, kinds, apart, always = pickle.loads(order.given)
        self.one_pass(feeds, {}, kinds, apart, always)


class _ToldPool(CellPool):
    """The cells of a follower are those that the leader has found."""

    def tell(self, order: Pass) -> None:
        self._cells, self.capacity, self.high = list(order.cells), order.capacity, order.high
        if order.fresh:
            self.memory = Memory([[None, None] for _ in self.layers])

    def find(self, handles: Sequence[CacheHandle], count: int) -> list[int]:
        return self._cells


def refuse_unfit(module: torch.nn.Module) -> None:
    """Raise ModelError for a model whose shards cannot be told what to do."""
    inside = opened(module)
    model, config = inside.model, inside.model.config
    layout = getattr(config, "distributed_config", None)
    others = [
        name for name in ("pp_size", "fsdp_size", "dp_replicate_size", "ep_size") if (getattr(layout, name, 1) or 1) > 1
    ]
    if others:
        raise ModelError(
            f"{inside.name} is shared out by {', '.join(others)} as well; only tp_plan='auto' alone can run"
        )
    if inside.called is not model or getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{inside.name} has an adapter, or quantised weights, and shards of these were never tried; "
            "merge the adapter, or load the weights in bfloat16"
        )
    if reads_one_path(module):
        raise ModelError(
            f"{inside.name} has layers that read one path, whose states are not shared out; leave tp_plan out"
        )
    text, count = config.get_text_config(decoder=True), shards(model)
    if dist.is_initialized() and dist.get_world_size() != count:
        raise ModelError(
            f"{inside.name} is shared out over {count} of {dist.get_world_size()} processes, and rank 0 leads them all; start as "
            "many as shall share it"
        )
    heads = {name: getattr(text, name, None) for name in ("num_attention_heads", "num_key_value_heads")}
    odd = [f"{name}={size}" for name, size in heads.items() if size is not None and cast(int, size) % count]
    if odd:
        raise ModelError(
            f"{inside.name} has {' and '.join(odd)}, which {count} ranks cannot share equally; take another number"
        )
