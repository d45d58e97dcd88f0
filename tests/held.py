"""Decoding that stands still while a test wants it to, so that nothing is a race; of a server: `python held.py FILE WORDS...`.

The words are those of `draftgraph`. As long as FILE is there, the scheduler takes as many further steps as it says, then waits.
The server's time is ahead by as many seconds as a file beside it says: no test waits for a time limit, or has to be within one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from draftgraph.engine.scheduler import Scheduler

LIMIT_SECONDS = 300.0
"""No test can hang: after so long a step is taken all the same."""
LOOK_SECONDS = 0.005


def until(reached: Callable[[], object], seconds: float = LIMIT_SECONDS) -> None:
    """Wait for what will come; whatever the machine is busy with, it is there in time."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not come"
        time.sleep(LOOK_SECONDS)


class Hold:
    """Told by a file how many steps another process may take, and by another one how far its time is ahead."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._ahead = 0.0

    def after(self, steps: int) -> None:
        """Stand still after so many steps from now."""
        _write(self.file, f"{steps} {uuid.uuid4().hex}")

    def end(self) -> None:
        self.file.unlink(missing_ok=True)

    def skip(self, seconds: float) -> None:
        """Let the server's event loop believe that so many seconds have passed."""
        self._ahead += seconds
        _write(_clock(self.file), str(self._ahead))


def keep_time(file: Path) -> None:
    """Let the event loops of this process be ahead as the file's neighbour says. The server's loop looks ten times a second."""
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # which has a clock of its own

    def ahead(self: asyncio.BaseEventLoop) -> float:
        return time.monotonic() + float(_read(_clock(file)) or 0.0)

    asyncio.BaseEventLoop.time = ahead  # type: ignore[method-assign]


def obey(file: Path) -> None:
    """Let all schedulers of this process wait as the file says."""
    step, told, left = Scheduler.step, "", 0

    def held(self: Scheduler) -> Any:
        nonlocal told, left
        end = time.monotonic() + LIMIT_SECONDS
        while (said := _read(file)) and time.monotonic() < end:
            if said != told:
                told, left = said, int(said.split()[0])
            if left:
                break
            time.sleep(LOOK_SECONDS)
        left = max(0, left - 1)
        return step(self)

    Scheduler.step = held  # type: ignore[method-assign]


def _clock(file: Path) -> Path:
    return file.with_suffix(".clock")


def _write(file: Path, text: str) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(text, encoding="ascii")
    os.replace(beside, file)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


class Steps:
    """What schedulers of this very process may do. `free` lets them go."""

    def __init__(self, left: int) -> None:
        self._left, self._free, self._changed = left, False, threading.Condition()

    def allow(self, steps: int) -> None:
        with self._changed:
            self._left += steps
            self._changed.notify_all()

    def free(self) -> None:
        with self._changed:
            self._free = True
            self._changed.notify_all()

    def take(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._left > 0, LIMIT_SECONDS)
            self._left -= 1


@contextmanager
def held(steps: int) -> Iterator[Steps]:
    """All schedulers of this process take so many steps, and those that are allowed later; at the end they go on."""
    allowed, step = Steps(steps), Scheduler.step

    def waiting(self: Scheduler) -> Any:
        allowed.take()
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "step", waiting)
        try:
            yield allowed
        finally:
            allowed.free()


if __name__ == "__main__":
    from draftgraph.cli import main

    FILE = Path(sys.argv.pop(1))
    obey(FILE)
    keep_time(FILE)
    main()
