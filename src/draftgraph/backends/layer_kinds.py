"""Which earlier tokens the layers of a model read: all of them, a window, or a chunk. Its configuration says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig
from transformers.cache_utils import get_layer_types_and_kwargs

FULL, WINDOWED = "full_attention", "sliding_attention"
_CHUNKED, ELSEWHERE = "chunked_attention", "dummy"
READ = (FULL, WINDOWED, _CHUNKED)
"""Kinds whose layers read keys and values of single tokens, so that a mask can hide rejected ones."""
RECURRENT_ALONE = ("linear_attention", "conv")
RECURRENT = (*RECURRENT_ALONE, "hybrid", "hybrid_sliding")
"""Kinds whose layers have a recurrent state, without attention or beside it."""
INDEXED = "indexed_attention"
"""Layers that pick the tokens that they read by an index, which knows them by the order of their rows."""
ON_ONE_PATH = (*RECURRENT, INDEXED)
"""Kinds whose layers read one path: rows that follow each other in the text."""
CAUSES = {
    "minimax_m3_sparse": "picks the tokens that it reads by blocks of rows, and drafted rows are no blocks",
    "compressed_sparse_attention": "compresses blocks of rows in its cache, which cannot roll back rejected tokens",
    "heavily_compressed_attention": "compresses blocks of rows in its cache, which cannot roll back rejected tokens",
}
"""Why layers of other kinds cannot read a draft."""
_OTHER = "is not known here, and what its cache holds neither"


@dataclass(frozen=True)
class LayerKind:
    """What the layers of one kind read.

    name   in transformers' own words; masks of several kinds are given to the model by these names.
    span   tokens that a row reads at most, itself included; None: the whole text.
    chunk  whether the span is that of fixed chunks of the text (a row reads its own) instead of a window that moves with it.
    """

    name: str = FULL
    span: int | None = None
    chunk: bool = False

    def first_read(self, position: int) -> int:
        """The first position that a row at `position` reads."""
        if self.span is None:
            return 0
        return position // self.span * self.span if self.chunk else max(0, position - self.span + 1)


def layer_kinds(config: PretrainedConfig) -> list[LayerKind]:
    """Every kind of layer of a text configuration, once, in the order of the layers; kinds that cannot run are named too.

    Layers that read the cache of another layer are of its kind. Layers without attention are of none.
    """
    named, options = get_layer_types_and_kwargs(config)
    own = getattr(config, "layer_types", None) or named
    kinds: dict[LayerKind, None] = {}
    for number, (name, its) in enumerate(zip(named, options, strict=True)):
        if name != ELSEWHERE:
            kinds[_kind(name, its)] = None
        elif own[number] in READ:
            kinds[_shared(own[number], config, number)] = None
    return list(kinds) or [LayerKind()]


def _kind(name: str, options: dict[str, Any]) -> LayerKind:
    return LayerKind(name, options.get("sliding_window") if name in READ else None, name == _CHUNKED)


def _shared(name: str, config: PretrainedConfig, number: int) -> LayerKind:
    """The kind of a layer that has no cache of its own."""
    its = config.per_layer_config[number]
    spans = {WINDOWED: "sliding_window", _CHUNKED: "attention_chunk_size"}
    return LayerKind(name, getattr(its, spans[name]) if name in spans else None, name == _CHUNKED)


def why_one_path(kinds: Sequence[LayerKind]) -> str:
    """Why layers of these kinds read one path, in words; empty if they do not."""
    if any(kind.name in RECURRENT for kind in kinds):
        return "recurrent layers"
    return "layers with an index over the order of the rows" if any(kind.name == INDEXED for kind in kinds) else ""


def unreadable(kinds: Sequence[LayerKind]) -> str | None:
    """Why layers of these kinds cannot read drafts, in words; None if they can."""
    for kind in kinds:
        if kind.name not in (*READ, *ON_ONE_PATH):
            return f"its {kind.name} {CAUSES.get(kind.name, _OTHER)}"
    if len({kind.name for kind in kinds}) < len(kinds):
        spans = sorted({kind.span for kind in kinds if kind.span is not None})
        return f"its layers of one kind have windows of several lengths ({', '.join(map(str, spans))})"
    return None
