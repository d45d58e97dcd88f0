"""Generate for many prompts on all machines of a Ray cluster. A job that is killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from draftgraph.errors import DraftgraphError, OptionError, require
from draftgraph.files import write_whole
from draftgraph.integrations.ray.rows import NUMBER, Generate

Progress = Callable[[int, int], None]
"""progress(rows that are done, all rows)."""
Row = Mapping[str, Any]


def generate_rows(
    rows: Sequence[Row],
    out: str | Path,
    *,
    target: str,
    draft_model: str | None = None,
    engine: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    column: str = "prompt",
    chat: bool = False,
    seed: int = 0,
    replicas: int = 1,
    cpus_per_replica: float = 1.0,
    gpus_per_replica: float = 0.0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Path:
    """Generate for every row, and write them with their answers to `out` as JSON lines, in the order of `rows`.

    Rows that are done are kept beside it, in `out` + ".rows", as they come. The same call goes on with what is missing, also
    after the driver or a machine was killed; no row is done twice or lost. Ray starts actors that died again.

    rows      mappings of JSON values. `Generate` says what is added to them, and what the options of an engine are.
    replicas  engines. cpus_per_replica, gpus_per_replica  what each of them reserves.
    batch_size  rows that an engine gets at a time; it decodes max_batch of them together.

    Returns `out`. Raises OptionError for rows or options that are not possible, or that differ from those of a job which was
    begun in the same place; DraftgraphError if a file cannot be written. What was done is then still there.
    """
    out = Path(out)
    require(replicas >= 1, "replicas", replicas, "an integer >= 1")
    require(batch_size >= 1, "batch_size", batch_size, "an integer >= 1")
    for number, row in enumerate(rows):
        if column not in row:
            raise OptionError(f"row {number} has no column {column!r}; it has {', '.join(map(repr, row))}")
    making = {
        "target": target, "draft_model": draft_model, "engine": dict(engine or {}), "params": dict(params or {}),
        "column": column, "chat": chat, "seed": seed,
    }  # fmt: skip
    journal = Journal(out.with_name(f"{out.name}.rows"), _fingerprint(rows, making))
    done = journal.read()
    missing = [{NUMBER: number, column: row[column]} for number, row in enumerate(rows) if number not in done]
    for answers in _batches(missing, making, replicas, cpus_per_replica, gpus_per_replica, batch_size):
        journal.add(answers)
        done |= {answer[NUMBER]: answer for answer in answers}
        if progress is not None:
            progress(len(done), len(rows))
    try:
        write_whole(out, "".join(_line({**row, **_answer(done[number])}) for number, row in enumerate(rows)))
    except OSError as error:
        raise DraftgraphError(f"cannot write {out}: {error.strerror}; the rows are in {journal.file}") from None
    journal.file.unlink(missing_ok=True)
    return out


class Journal:
    """Rows that are done, a JSON object per line, behind a line that says of which job. It survives a kill at any byte."""

    def __init__(self, file: Path, job: str) -> None:
        self.file, self.job = file, job

    def read(self) -> dict[int, dict[str, Any]]:
        """What is there, by number. A line that was cut off is dropped."""
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            self._write(_line({"job": self.job}).encode(), "wb")
            return {}
        whole = content[: content.rfind(b"\n") + 1]
        lines = [json.loads(line) for line in whole.splitlines()]
        if lines and lines[0] != {"job": self.job}:
            raise OptionError(
                f"{self.file} holds rows of another job: its prompts or options differ; write another `out`, or remove it"
            )
        self._write(whole or _line({"job": self.job}).encode(), "wb")
        return {row[NUMBER]: row for row in lines[1:]}

    def add(self, rows: Sequence[Row]) -> None:
        self._write("".join(map(_line, rows)).encode(), "ab")

    def _write(self, content: bytes, mode: str) -> None:
        try:
            with self.file.open(mode) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DraftgraphError(f"cannot write {self.file}: {error.strerror}; free the disk and call again") from None


def _batches(
    missing: Sequence[Row], making: Mapping[str, Any], replicas: int, cpus: float, gpus: float, batch_size: int
) -> Iterator[list[dict[str, Any]]]:
    """The answers to rows, batch by batch, in whatever order they come."""
    if not missing:
        return
    import ray.data

    dataset = ray.data.from_items(list(missing), override_num_blocks=-(-len(missing) // batch_size)).map_batches(
        Generate,
        fn_constructor_kwargs=dict(making),
        compute=ray.data.ActorPoolStrategy(size=replicas),
        num_cpus=cpus,
        num_gpus=gpus,
        batch_size=batch_size,
    )
    for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
        names = [name for name in batch if name != making["column"]]
        count = len(batch[NUMBER])
        yield [{name: _plain(batch[name][row]) for name in names} for row in range(count)]


def _plain(value: Any) -> Any:
    """A cell of a column as a JSON value."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _answer(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != NUMBER}


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _fingerprint(rows: Sequence[Row], making: Mapping[str, Any]) -> str:
    """What a job is told by: its rows and what makes its engines."""
    try:
        told = json.dumps([making, list(map(dict, rows))], sort_keys=True)
    except TypeError as error:
        raise OptionError(f"rows and options must be JSON values, so that a job can be resumed: {error}") from None
    return hashlib.sha256(told.encode()).hexdigest()
