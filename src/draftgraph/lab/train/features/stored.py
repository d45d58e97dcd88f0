"""The target's hidden states of all answers, on disk, so that the target reads every answer once and not in every epoch.

A part is a file of answers of similar length: rows of numbers, features first, then what the decoder puts out. It is written
whole or not at all, and its name says what it was read from, so that a killed run goes on with what is there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from draftgraph.backends.feature_files import TargetSizes
from draftgraph.backends.taps import PREFIX
from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.batches import Batch, grouped, make_batch
from draftgraph.lab.train.features.ending import Ending, ending_of
from draftgraph.lab.train.features.reading import LiveReading, chances_of
from draftgraph.lab.train.features.unroll import Read, embedded_of, read_target, with_head
from draftgraph.lab.train.whole_files import write_bytes

PART_ROWS = 12_288
"""Rows of a part, about: a few seconds of reading, which a killed run loses."""
READ_ROWS = 2048
"""Padded rows per pass of the target."""
SPARE_BYTES = 1 << 30
"""Room that is left on the disk."""
TOLD = 10
"""How often progress is told."""


@dataclass(frozen=True)
class Part:
    """answers  of similar length. file  that holds their states."""

    answers: Sequence[Answer]
    file: Path

    @property
    def rows(self) -> int:
        return sum(len(answer.ids) for answer in self.answers)


@dataclass
class StoredReading:
    """Reads answers from disk, and those that are not there live.

    folder   of the parts. answers  that are kept. live  how they are read.
    features  numbers of a row that the drafter reads.
    tell     hears a line about what is done.
    placed   states [n, width] by answer, as they lie in the files.
    """

    folder: Path
    answers: Sequence[Answer]
    live: LiveReading
    features: int
    tell: Callable[[str], None] = lambda line: None
    placed: dict[bytes, torch.Tensor] = field(default_factory=dict)
    ending: Ending | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What is kept of a row: the taps that the drafter reads, and the decoder's output."""
        layers = self.live.target.config.get_text_config(decoder=True).num_hidden_layers
        return (*self.live.taps, f"{PREFIX}{layers}")

    def fill(self) -> None:
        """Read what is not there yet. Raises TrainingError where the disk does not allow it.

        Where it has not room enough, or the target does not allow it, answers are read live.
        """
        if self.placed:
            return
        self.ending = ending_of(self.live.target)
        if self.ending is None:
            self.tell("hidden states of this target cannot be kept: it is read anew in every epoch")
            return
        parts = list(self._parts())
        few = self._states(parts[0].answers[:1])
        width, dtype = few.shape[1], few.dtype
        size = width * dtype.itemsize
        self._clear({part.file for part in parts})
        missing = [part for part in parts if not _whole(part, size)]
        if self._has_room(sum(part.rows for part in missing) * size):
            self._write(missing, sum(part.rows for part in parts) * size)
            for part in parts:
                self._place(part, width, dtype)

    def read(self, answers: Sequence[Answer], batch: Batch) -> Read:
        """See `Reading`."""
        states = self._stored(answers, batch)
        if states is None or self.ending is None:
            return self.live.read(answers, batch)
        features, last = states[..., : self.features], states[..., self.features :]
        with with_head(self.live.target, self.live.head):
            logits = self.ending.logits(last)
        return Read(logits, features, embedded_of(self.live.target, batch.tokens))

    def chances(self, answers: Sequence[Answer], batch: Batch) -> torch.Tensor:
        """See `Reading`."""
        states = self._stored(answers, batch)
        if states is None or self.ending is None:
            return self.live.chances(answers, batch)
        return chances_of(self.ending.logits(states[..., self.features :]), batch)

    def forget(self) -> None:
        """Delete what is kept."""
        self.placed.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _clear(self, wanted: set[Path]) -> None:
        """Make the folder, and delete what other answers or half-written parts have left there. Raises TrainingError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in set(self.folder.iterdir()) - wanted:
                file.unlink()
        except OSError as error:
            raise TrainingError(
                f"cannot use {self.folder}: {error.strerror}; delete it, then run the same command"
            ) from error

    def _has_room(self, needed: int) -> bool:
        free = shutil.disk_usage(self.folder).free
        if needed + SPARE_BYTES > free:
            self.tell(
                f"hidden states would take {_told(needed)} in {self.folder}, where {_told(free)} are free: the target is read "
                "anew in every epoch, which takes several times as long"
            )
        return needed + SPARE_BYTES <= free

    def _write(self, missing: Sequence[Part], whole: int) -> None:
        """Read and write parts; `whole` bytes are told as what all of them take."""
        if missing:
            self.tell(f"hidden states take {_told(whole)} in {self.folder} until training has ended")
        rows, done = sum(part.rows for part in missing), 0
        for part in missing:
            write_bytes(part.file, _bytes(self._states(part.answers)))
            before, done = done, done + part.rows
            if TOLD * done // rows > TOLD * before // rows:
                self.tell(f"hidden states: {done:,} of {rows:,} rows are read")

    def _parts(self) -> Iterator[Part]:
        """All answers, sorted by length. A name holds the number of the part, and a digest of all that its numbers hang on."""
        pending: list[Answer] = []
        ordered = sorted(self.answers, key=lambda answer: len(answer.ids))
        number = 0
        for answer in ordered:
            pending.append(answer)
            if sum(len(each.ids) for each in pending) >= PART_ROWS or answer is ordered[-1]:
                yield Part(pending, self.folder / f"{number:05}-{self._digest(pending)}.bin")
                pending, number = [], number + 1

    def _digest(self, answers: Sequence[Answer]) -> str:
        digest = hashlib.blake2b(digest_size=12)
        digest.update(repr((self.names, self.live.target.dtype, TargetSizes.of(self.live.target))).encode())
        for answer in answers:
            digest.update(_key(answer))
        return digest.hexdigest()

    def _states(self, answers: Sequence[Answer]) -> torch.Tensor:
        """Rows [n, width] of answers, one behind the other, as training would read them."""
        device = self.live.target.device
        found: dict[bytes, torch.Tensor] = {}
        for group in grouped(answers, READ_ROWS):
            batch = make_batch(group, device)
            with torch.autocast(device.type, dtype=torch.bfloat16), with_head(self.live.target, _nothing(device)):
                states = read_target(self.live.target, batch.tokens, self.names)[1].cpu()
            found |= {_key(answer): row[: len(answer.ids)] for answer, row in zip(group, states, strict=True)}
        return torch.cat([found[_key(answer)] for answer in answers])

    def _place(self, part: Part, width: int, dtype: torch.dtype) -> None:
        numbers = torch.from_numpy(np.memmap(part.file, np.uint8, mode="c")).view(dtype).view(part.rows, width)
        rows = numbers.split([len(answer.ids) for answer in part.answers])  # type: ignore[no-untyped-call]
        self.placed |= {_key(answer): row for answer, row in zip(part.answers, rows, strict=True)}

    def _stored(self, answers: Sequence[Answer], batch: Batch) -> torch.Tensor | None:
        """States [b, T, width] on the target's device, zeros where there is no token; None if some are not there."""
        found = [self.placed.get(_key(answer)) for answer in answers]
        first = next((rows for rows in found if rows is not None), None)
        if first is None or any(rows is None for rows in found):
            return None
        states = first.new_zeros(*batch.tokens.shape, first.shape[1])
        for row, rows in zip(states, found, strict=True):
            if rows is not None:
                row[: len(rows)] = rows
        return states.to(batch.tokens.device)


def _key(answer: Answer) -> bytes:
    return hashlib.blake2b(answer.ids.tobytes(), digest_size=16).digest()


def _whole(part: Part, size: int) -> bool:
    """Whether a part is there, with `size` bytes a row."""
    return part.file.is_file() and part.file.stat().st_size == part.rows * size


def _bytes(states: torch.Tensor) -> bytes:
    return states.contiguous().view(torch.uint8).numpy().tobytes()


def _told(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _nothing(device: torch.device) -> nn.Module:
    """A head that costs nothing."""
    return _NoHead().to(device)


class _NoHead(nn.Module):
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states[..., :1]
