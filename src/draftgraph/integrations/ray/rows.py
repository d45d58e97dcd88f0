"""A class for Ray Data's `map_batches`: prompts in, texts out. Each actor has an engine of its own."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from draftgraph.engine.engine import Engine
from draftgraph.errors import DraftgraphError, OptionError, require
from draftgraph.request.result import Result
from draftgraph.sampling.params import SamplingParams
from draftgraph.values import as_integer

COLUMNS = ("text", "token_ids", "finish_reason", "seed", "tokens_per_call", "lossless", "error")
"""What is added to rows."""
NUMBER = "number"
"""The column with the number of a row, from which its seed is made."""


class Generate:
    """Callable for `dataset.map_batches(Generate, fn_constructor_kwargs={...}, compute=ActorPoolStrategy(size=2))`.

    It adds the columns text, token_ids (i64 arrays), finish_reason, seed, tokens_per_call, lossless and error to those of the
    dataset. A row that fails has its error and the text before it, and "" for finish_reason; the others go on.

    target, draft_model, engine  as in `Engine.from_pretrained`; `engine` holds its further arguments.
    params  fields of SamplingParams for every row, without a seed.
    column  the column of prompts. chat  whether its values are messages, for the model's chat template.
    seed    with the column "number" of a row it makes the seed of that row. So rows have the same text on any number of
            replicas, and after a restart, with a fixed budget or rule="agree". Rows that are sampled need that column.
    """

    def __init__(
        self,
        target: str,
        draft_model: str | None = None,
        *,
        engine: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        column: str = "prompt",
        chat: bool = False,
        seed: int = 0,
    ) -> None:
        possible = "a mapping of fields of SamplingParams"
        require(params is None or isinstance(params, Mapping), "params", params, possible)
        self.params = SamplingParams().with_options(**(params or {}))
        if self.params.seed is not None:
            raise OptionError(
                "params may not hold a seed, which would be that of all rows; write seed=... beside params"
            )
        require(as_integer(seed) is not None, "seed", seed, "an integer")
        for name in ("target", "draft_model"):
            require(
                name not in (engine or {}), f"engine[{name!r}]", (engine or {}).get(name), f"{name}=... beside engine"
            )
        self.column, self.chat, self.seed = column, chat, seed
        self.engine = Engine.from_pretrained(target, draft_model=draft_model, **(engine or {}))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        if self.column not in batch:
            raise OptionError(f"the rows have no column {self.column!r}; they have {', '.join(map(repr, batch))}")
        prompts = [each.tolist() if isinstance(each, np.ndarray) else each for each in batch[self.column]]
        rows = asyncio.run(self._decoded(prompts, self._numbers(batch, len(prompts))))
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in COLUMNS}
        return batch | columns | {"token_ids": _ragged(columns["token_ids"])}

    def _numbers(self, batch: Mapping[str, np.ndarray], count: int) -> Sequence[int]:
        if NUMBER in batch:
            return [int(number) for number in batch[NUMBER]]
        if self.params.temperature != 0:
            raise OptionError(f"rows that are sampled need a column {NUMBER!r}, from which their seeds are made")
        return range(count)

    async def _decoded(self, prompts: Sequence[Any], numbers: Sequence[int]) -> list[dict[str, Any]]:
        places = asyncio.Semaphore(self.engine.serving.max_batch)

        async def row(prompt: Any, seed: int) -> dict[str, Any]:
            async with places:
                try:
                    asked = self.engine.chat_prompt(prompt) if self.chat else prompt
                    return told(await self.engine.agenerate(asked, self.params.with_options(seed=seed)))
                except DraftgraphError as error:
                    return failed(error, seed)

        return await asyncio.gather(
            *(row(prompt, seed_of(self.seed, number)) for prompt, number in zip(prompts, numbers, strict=True))
        )


def told(result: Result) -> dict[str, Any]:
    """The columns of a row that was decoded, or of what there is of it."""
    return {
        "text": result.text,
        "token_ids": list(result.token_ids),
        "finish_reason": result.finish_reason or "",
        "seed": result.seed,
        "tokens_per_call": result.stats.mean_acceptance_length,
        "lossless": result.stats.lossless,
        "error": "",
    }


def failed(error: DraftgraphError, seed: int) -> dict[str, Any]:
    """The columns of a row that failed, with the text before its error."""
    said = f"{type(error).__name__}: {error}"
    if error.partial is not None:
        return told(error.partial) | {"error": said}
    nothing = {"text": "", "token_ids": [], "finish_reason": "", "tokens_per_call": 0.0, "lossless": True}
    return nothing | {"seed": seed, "error": said}


def seed_of(seed: int, number: int) -> int:
    """The seed of a row, below 2 ** 63: rows with neighbouring numbers have nothing in common."""
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _ragged(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Lists of different lengths as a column."""
    column = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):
        column[number] = np.asarray(row, dtype=np.int64)
    return column
