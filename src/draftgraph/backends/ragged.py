"""Attention of a pass in which every request reads its own cells only, and not all cells of the pool behind a mask.

The model's own attention function runs as it is, over fewer cells: requests of about the same size are gathered into a batch,
f[requests, heads, rows, width] against f[requests, heads, cells, width]. So whatever the function knows (grouped heads, caps,
sinks) is known here. transformers looks that function up by a name in the configuration. While a pass runs, the name is that of a
function here, which does the gathering in the thread of the pass, and calls the model's own one in any other.

The masks that the model hands on are not read. They are NaN, so that layers which read them past the function are noticed; which
kind of layer is asking is told by their memory.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from draftgraph.backends.base import Feed
from draftgraph.backends.layer_kinds import LayerKind
from draftgraph.backends.masks import Given, Mask, cut

_NAMES = {base: f"draftgraph_{base}" for base in ("sdpa", "eager")}
"""What configurations say while a pass runs, by what they say else."""
_COPY, _CALL, _CALL_ELSEWHERE = 12, 2000, 300_000
"""What a copy of a cell and a call of the function cost, in rows × cells. Cells are copied to gather them, and again for heads
that share them where there are several rows. Off the CPU arithmetic is cheap beside a call."""
_MOST_CELLS = 2048
"""Cells of a call, unless one request has more: copies that leave the processor's caches cost more than calls."""
_NAME_FIELD = "_attn_implementation_internal"
_RUNNING = threading.local()


class UnknownMaskError(Exception):
    """A layer asks with a mask that was not given to it."""


def named(attention: str | None) -> str | None:
    """What a configuration says of its attention, whether or not a pass is running."""
    return next((base for base, name in _NAMES.items() if name == attention), attention)


@dataclass(frozen=True)
class Own:
    """What one request reads in a pass, after its rows were entered into its state.

    first      its first row in the pass. rows  how many it has.
    cells      i64[c] its cells: the text's, then its nodes'.
    mask       f32[rows, c] what every row reads.
    positions  i64[c] of the cells.
    """

    first: int
    rows: int
    cells: npt.NDArray[np.int64]
    mask: Mask
    positions: npt.NDArray[np.int64]


def own(feed: Feed, first: int, hidden: float) -> Own:
    """The cells of one request, and which of its rows reads which."""
    text, fed, new = feed.text, len(feed.committed), len(feed.tokens)
    kept, cells = len(text.slots), text.cells()
    mask = np.full((fed + new, len(cells)), hidden, dtype=np.float32)
    mask[:, : kept - fed] = 0.0
    mask[:fed, kept - fed : kept] = np.where(np.tri(fed, dtype=bool), np.float32(0.0), np.float32(hidden))
    mask[fed:, kept - fed : kept] = 0.0
    column = {path[-1]: kept + node for node, path in enumerate(text.nodes)}
    for row, path in enumerate(text.nodes[len(text.nodes) - new :], fed):
        mask[row, [column[cell] for cell in path]] = 0.0
    length = len(text)
    nodes = [length + len(path) - 1 for path in text.nodes]
    return Own(first, fed + new, cells, mask, np.array([*range(text.forgotten, length), *nodes], dtype=np.int64))


def pays(feeds: Sequence[Feed], high: int, on_cpu: bool) -> bool:
    """Whether attention over own cells is expected to be faster than over all `high` cells."""
    sizes = [(feed.num_rows, len(feed.text.slots) + len(feed.text.nodes)) for feed in feeds]
    call = _CALL if on_cpu else _CALL_ELSEWHERE
    rows = sum(count for count, _ in sizes)
    together = high * (rows + (_COPY if rows > 1 else 0))
    if together < call + sum(_price(1, *size, 0) for size in sizes):
        return False
    apart = sum(_price(len(group), *_largest([sizes[i] for i in group]), call) for group in grouped(sizes, call))
    return apart < together


def grouped(sizes: Sequence[tuple[int, int]], call: int) -> list[list[int]]:
    """Requests of (rows, cells) that are computed together: each joins the last group if padding costs less than a call."""
    groups: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        if groups:
            last = [sizes[j] for j in groups[-1]]
            largest = _largest([*last, sizes[i]])
            apart = _price(len(last), *_largest(last), call) + _price(1, *sizes[i], call)
            fits = largest[1] * (len(last) + 1) <= _MOST_CELLS
            if fits and _price(len(last) + 1, *largest, call) <= apart:
                groups[-1].append(i)
                continue
        groups.append([i])
    return groups


def _largest(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(rows for rows, _ in sizes), max(cells for _, cells in sizes)


def _price(count: int, rows: int, cells: int, call: int) -> int:
    return count * cells * (rows + (2 if rows > 1 else 1) * _COPY) + call


@dataclass(frozen=True)
class _Group:
    """Requests that are computed in one call, padded to the same sizes.

    shape  requests, rows and cells of each.
    rows   i64[requests × rows] of the pass; cells  i64[requests × cells] of the pool.
    masks  f[requests, 1, rows, cells], one for every kind of layer.
    """

    shape: tuple[int, int, int]
    rows: torch.Tensor
    cells: torch.Tensor
    masks: Sequence[torch.Tensor]
    _places: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def gathered(self, states: torch.Tensor) -> torch.Tensor:
        """f[requests, heads, cells, width] of states f[1, heads, cells of the pool, width]."""
        count, _, cells = self.shape
        _, heads, held, width = states.shape
        if states.stride()[2:] != (width, 1) or states.stride(1) % width:
            return states[0].index_select(1, self.cells).view(heads, count, cells, width).transpose(0, 1)
        # A part of a tensor would be copied whole before anything is picked from it. So all its heads are rows of one matrix.
        step = states.stride(1) // width
        if (heads, step) not in self._places:
            first = step * torch.arange(heads, device=self.cells.device)
            self._places[heads, step] = (self.cells.view(count, 1, cells) + first[:, None]).view(-1)
        matrix = states.as_strided(((heads - 1) * step + held, width), (width, 1), states.storage_offset())
        return matrix.index_select(0, self._places[heads, step]).view(count, heads, cells, width)


@dataclass
class Ragged:
    """The attention of one pass.

    given  what the model is given for masks, by the kind of layer if there are several.
    """

    groups: Sequence[_Group]
    order: torch.Tensor | None
    given: Given
    _kinds: Mapping[int, int] = field(default_factory=dict)

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        attention: Callable[..., Any],
        options: Mapping[str, Any],
    ) -> torch.Tensor:
        """f[1, rows, heads, width] from query f[1, heads, rows, width], key and value f[1, heads, cells, width]."""
        kind = None if mask is None else self._kinds.get(mask.untyped_storage().data_ptr())
        if kind is None:
            raise UnknownMaskError(type(module).__name__)
        parts = []
        for group in self.groups:
            count, rows, _ = group.shape
            picked = query[0].transpose(0, 1).index_select(0, group.rows)
            q = picked.view(count, rows, *picked.shape[1:]).transpose(1, 2)
            k, v = (group.gathered(states) for states in (key, value))
            out = attention(module, q, k, v, group.masks[kind], **options)[0]
            parts.append(out.reshape(count * rows, *out.shape[2:]))
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (whole if self.order is None else whole.index_select(0, self.order))[None]


def lay_out_apart(
    feeds: Sequence[Feed],
    kinds: Sequence[LayerKind],
    positions: Sequence[int],
    hidden: float,
    high: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Ragged:
    """The attention of a pass whose rows were entered into their requests' state. positions  of all rows."""
    requests, first = [], 0
    for feed in feeds:
        requests.append(own(feed, first, hidden))
        first += feed.num_rows
    call = _CALL if device.type == "cpu" else _CALL_ELSEWHERE
    numbers = grouped([(each.rows, len(each.cells)) for each in requests], call)
    groups = [_padded([requests[i] for i in group], kinds, positions, hidden, device, dtype) for group in numbers]
    place, padded = np.empty(first, dtype=np.int64), 0
    for group, made in zip(numbers, groups, strict=True):
        for i in group:
            place[requests[i].first : requests[i].first + requests[i].rows] = range(padded, padded + requests[i].rows)
            padded += made.shape[1]
    in_order = padded == first and bool((place == np.arange(first)).all())
    masks = [torch.full((1,), torch.nan, dtype=dtype, device=device) for _ in kinds]
    shown = [mask.expand(1, 1, first, high) for mask in masks]
    return Ragged(
        groups,
        None if in_order else torch.from_numpy(place).to(device),
        shown[0] if len(kinds) == 1 else {kind.name: mask for kind, mask in zip(kinds, shown, strict=True)},
        {mask.untyped_storage().data_ptr(): number for number, mask in enumerate(masks)},
    )


def _padded(
    requests: Sequence[Own],
    kinds: Sequence[LayerKind],
    positions: Sequence[int],
    hidden: float,
    device: torch.device,
    dtype: torch.dtype,
) -> _Group:
    """Requests as one batch. What only fills it reads and is read as the mask hides it: nobody reads the result."""
    rows, cells = max(each.rows for each in requests), max(len(each.cells) for each in requests)
    read = np.array([each.first for each in requests])[:, None].repeat(rows, 1)
    held = np.array([each.cells[0] for each in requests])[:, None].repeat(cells, 1)
    masks = np.full((len(kinds), len(requests), rows, cells), hidden, dtype=np.float32)
    for i, each in enumerate(requests):
        end, count = each.first + each.rows, len(each.cells)
        read[i, : each.rows] = range(each.first, end)
        held[i, :count] = each.cells
        at = np.asarray(positions[each.first : end])
        for number, kind in enumerate(kinds):
            masks[number, i, : each.rows, :count] = cut(kind, each.mask, hidden, at, each.positions)
    given = [torch.from_numpy(mask[:, None]).to(device, dtype) for mask in masks]
    flat = [torch.from_numpy(places.reshape(-1)).to(device) for places in (read, held)]
    return _Group((len(requests), rows, cells), flat[0], flat[1], given)


@contextmanager
def running(configs: Sequence[Any], ragged: Ragged) -> Iterator[None]:
    """While the model runs inside, its layers attend to the cells of their own requests. configs  of its layers."""
    _functions()
    before = [getattr(config, _NAME_FIELD) for config in configs]
    _RUNNING.ragged = ragged
    try:
        for config, base in zip(configs, before, strict=True):
            setattr(config, _NAME_FIELD, _NAMES.get(base, base))
        yield
    finally:
        _RUNNING.ragged = None
        for config, base in zip(configs, before, strict=True):
            setattr(config, _NAME_FIELD, base)


def configs_of(model: torch.nn.Module) -> list[Any]:
    """The configurations in which the layers of a model look up their attention."""
    found = {
        id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None
    }
    return [config for config in found.values() if named(getattr(config, _NAME_FIELD, None)) in _NAMES]


def _attention(base: str) -> Callable[..., Any]:
    """The function that stands in for the model's own one named `base`."""

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        written_in = vars(sys.modules[type(module).__module__])
        known = written_in.get("ALL_ATTENTION_FUNCTIONS") or _functions()
        own_one = known.get_interface(base, written_in.get("eager_attention_forward"))
        ragged: Ragged | None = getattr(_RUNNING, "ragged", None)
        if ragged is None:  # in another thread than that of the pass
            seen: tuple[torch.Tensor, torch.Tensor | None] = own_one(
                module, query, key, value, attention_mask, **options
            )
            return seen
        return ragged.attend(module, query, key, value, attention_mask, own_one, options), None

    return attend


@cache
def _functions() -> Any:
    """The attention functions of transformers by name, with ours among them.

    They are imported here: that takes seconds, and models which run elsewhere need none of them.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for base, name in _NAMES.items():
        ALL_ATTENTION_FUNCTIONS.register(name, _attention(base))
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return ALL_ATTENTION_FUNCTIONS
