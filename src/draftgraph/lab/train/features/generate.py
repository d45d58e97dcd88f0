"""Answers of a target to many prompts at once: the only place that knows how they are decoded.

Prompts are padded on the left, so that all rows write the same column of the cache. A step is one decoding pass for all rows;
on a GPU it is captured once per batch and replayed. Rows that have ended run on, and what they say then is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from draftgraph.backends.cache_argument import cache_argument
from draftgraph.lab.train.features.answers import Answer

Asked = tuple[Sequence[int], float]
"""Prompt token ids, and the temperature of the answer."""
READ_AT_ONCE = 1 << 16
"""Padded prompt tokens per pass."""
COLUMNS = 64
"""The cache's length is a multiple of it, for the attention kernels."""
GROUPED = "draftgraph_grouped"


@torch.inference_mode()
def answer_all(
    model: PreTrainedModel,
    asked: Sequence[Asked],
    most: int,
    eos: Sequence[int],
    captured: bool,
    enough: Callable[[], bool] = lambda: False,
) -> list[Answer]:
    """The answers of a model to prompts, of at most `most` tokens each, drawn by torch's own generator.

    captured  whether a step is captured as a CUDA graph. enough  asked between steps: True ends all answers there.
    """
    usual = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register(GROUPED, _grouped_attention)
    model.config._attn_implementation = GROUPED
    try:
        decoding = _Decoding(model, asked, most)
        step = decoding.captured() if captured else decoding.step
        ended = torch.zeros(len(asked), dtype=torch.bool, device=model.device)
        ends = torch.tensor(list(eos), device=model.device)
        for number in range(most - 1):
            step()
            if number % 16 == 15:
                ended = torch.isin(decoding.drawn[:, : number + 2], ends).any(dim=1)
                if bool(ended.all()) or enough():
                    break
        drawn = decoding.drawn[:, : number + 2] if most > 1 else decoding.drawn
        return [_answer(given, row, set(eos)) for given, row in zip(asked, drawn.cpu().numpy(), strict=True)]
    finally:
        model.config._attn_implementation = usual
        if captured:
            torch.cuda.empty_cache()  # a graph's memory is its own until then


def _answer(asked: Asked, drawn: np.ndarray[Any, Any], eos: set[int]) -> Answer:
    """An answer up to its end."""
    ends = [i for i, token in enumerate(drawn.tolist()) if token in eos]
    kept = drawn[: ends[0] + 1] if ends else drawn
    return Answer(np.concatenate([asked[0], kept]).astype(np.int32), len(asked[0]), asked[1])


def _grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one query per row: heads that share keys become rows of one head, so that no key is copied."""
    if query.shape[2] != 1:
        whole = module, query, key, value, attention_mask
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(*whole, scaling=scaling, **options)
        return plain
    shared = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):  # what takes a mask, and can be captured
        out = torch.nn.functional.scaled_dot_product_attention(shared, key, value, attention_mask, scale=scaling)
    return out.reshape(query.shape[0], 1, query.shape[1], -1), None


@dataclass
class _Place:
    """Where a pass writes: rows of prompts from column 0 on, or one column of all rows."""

    rows: int
    columns: int
    column: torch.Tensor
    prompt: slice | None = None


class _Columns(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values f[rows, heads, columns, width] of one layer; a pass writes the columns that `place` says."""

    def __init__(self, place: _Place) -> None:
        super().__init__()
        self.place = place
        self.held: list[torch.Tensor] = []

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shapes = [
            (self.place.rows, part.shape[1], self.place.columns, part.shape[3]) for part in (key_states, value_states)
        ]
        self.held = [part.new_zeros(shape) for part, shape in zip((key_states, value_states), shapes, strict=True)]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        if not self.held:
            self.lazy_initialization(key_states, value_states)
        prompt = self.place.prompt
        if prompt is not None:
            for held, states in zip(self.held, (key_states, value_states), strict=True):
                held[prompt, :, : states.shape[2]] = states
            return key_states, value_states
        for held, states in zip(self.held, (key_states, value_states), strict=True):
            held.index_copy_(2, self.place.column, states)
        return self.held[0], self.held[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.place.columns, 0

    def get_seq_length(self) -> int:
        return self.place.columns

    def get_max_length(self) -> int:
        return self.place.columns

    get_max_cache_shape = get_max_length


class _Decoding:
    """A batch that is decoded. drawn  i64[rows, most] its tokens so far, of which the first is there."""

    def __init__(self, model: PreTrainedModel, asked: Sequence[Asked], most: int) -> None:
        self.model, device = model, model.device
        longest = max(len(prompt) for prompt, _ in asked)
        columns = -(-(longest + most) // COLUMNS) * COLUMNS
        self.place = _Place(len(asked), columns, torch.tensor([longest], device=device))
        layers = model.config.get_text_config(decoder=True).num_hidden_layers
        self.cache = Cache(layers=[_Columns(self.place) for _ in range(layers)])
        self.argument = cache_argument(model.forward)
        self.temperatures = torch.tensor([temperature for _, temperature in asked], device=device)[:, None]
        self.drawn = torch.zeros(len(asked), most, dtype=torch.long, device=device)
        self.number = torch.zeros(1, dtype=torch.long, device=device)
        self.positions = torch.tensor([[len(prompt)] for prompt, _ in asked], device=device)
        self.mask = torch.full(
            (len(asked), 1, 1, columns), torch.finfo(model.dtype).min, dtype=model.dtype, device=device
        )
        self._read(asked, longest)

    def _read(self, asked: Sequence[Asked], longest: int) -> None:
        """Read the prompts, and draw the first tokens."""
        ids = np.zeros((len(asked), longest), dtype=np.int64)
        for row, (prompt, _) in enumerate(asked):
            ids[row, longest - len(prompt) :] = prompt
        tokens, device = torch.from_numpy(ids).to(self.model.device), self.model.device
        padding = longest - self.positions
        place = torch.arange(longest, device=device)[None]
        real = place >= padding
        self.mask[:, 0, 0, :longest].masked_fill_(real, 0.0)
        causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        own = torch.eye(
            longest, dtype=torch.bool, device=device
        )  # a row of padding reads itself, so that nothing is NaN
        rows = max(1, READ_AT_ONCE // longest)
        for start in range(0, len(asked), rows):
            part = slice(start, start + rows)
            self.place.prompt = part
            visible = (causal & real[part, None, :]) | own
            mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=device)
            mask.masked_fill_(~visible, torch.finfo(self.model.dtype).min)
            positions = (place - padding[part]).clamp(min=0)
            logits = self._pass(tokens[part], mask[:, None], positions)
            self.drawn[part, 0] = _draw(logits, self.temperatures[part])
        self.place.prompt = None

    def _pass(self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{self.argument: self.cache},
        ).logits
        return logits[:, -1]

    def step(self) -> None:
        """One token for every row; all state lies on the device, so that a step can be captured."""
        self.mask.index_fill_(3, self.place.column, 0.0)
        tokens = self.drawn.index_select(1, self.number)
        following = _draw(self._pass(tokens, self.mask, self.positions), self.temperatures)
        self.number += 1
        self.drawn.index_copy_(1, self.number, following[:, None])
        self.place.column += 1
        self.positions += 1

    def captured(self) -> Callable[[], None]:
        """The step as a CUDA graph. It has been run a few times then, and what that wrote is taken back."""
        kept = [tensor.clone() for tensor in self._moving]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.step()
            self.step()
        torch.cuda.current_stream().wait_stream(side)
        self._take_back(kept)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self._take_back(kept)
        return graph.replay

    @property
    def _moving(self) -> list[torch.Tensor]:
        """What a step changes, but for columns that it writes again."""
        return [self.mask, self.number, self.drawn, self.place.column, self.positions]

    def _take_back(self, kept: Sequence[torch.Tensor]) -> None:
        for tensor, old in zip(self._moving, kept, strict=True):
            tensor.copy_(old)


def _draw(logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    """One token per row i64[n] from logits f[n, V] at temperatures f[n, 1]: exponential races; 0 is the likeliest token."""
    scaled = logits.float() / temperatures.clamp(min=1e-6)
    races = scaled - torch.empty_like(scaled).exponential_().log_()
    return torch.where(temperatures > 0, races, logits.float()).argmax(dim=-1)
