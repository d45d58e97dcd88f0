"""All model types tried, each in a process of its own: a crash of one is a row of the table and no more."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext

from draftgraph.lab.coverage.table import CRASHED, Found, Row, Table

PACKAGES = ("draftgraph", "transformers", "torch", "openvino")
Context = ForkServerContext | SpawnContext
PATIENCE_SECONDS = 300.0
"""Of one model type on one backend. After that it counts as crashed."""
LEAVE_SECONDS = 60.0
"""What a process that has closed its pipe gets to end: its exit code comes by way of the process that started it."""
_TRIAL = "draftgraph.lab.coverage.trial"


def run(names: Sequence[str], backends: Sequence[str], patience: float = PATIENCE_SECONDS) -> Iterator[Row]:
    """Try model types (or variants) one after the other."""
    context = _context()
    for name in names:
        yield _apart(context, name, list(backends), patience * len(backends))


def new_table(rows: Sequence[Row]) -> Table:
    """A table of rows that were found now, here."""
    return Table(versions(), datetime.now(UTC).date().isoformat(), list(rows))


def versions() -> dict[str, str]:
    """Of the packages that decide what runs, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _context() -> Context:
    """How processes start: where it is possible as copies of one that has everything loaded, but has computed nothing yet."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_TRIAL])
    return context


def _apart(context: Context, name: str, backends: list[str], patience: float) -> Row:
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(name, backends, theirs), daemon=True)
    begun = time.monotonic()
    worker.start()
    theirs.close()
    why = f"it takes more than {patience:.0f} s"
    try:
        if ours.poll(patience):
            found: Row = ours.recv()
            return found
    except EOFError:
        worker.join(LEAVE_SECONDS)
        why = f"its process ended with code {worker.exitcode} after {time.monotonic() - begun:.0f} s"
    finally:
        worker.kill()
        worker.join()
        ours.close()
    return Row(name, "", {backend: Found(CRASHED, (), why) for backend in backends})


def _work(name: str, backends: list[str], pipe: Connection) -> None:
    """In the process of its own: silent, on one thread."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    import torch

    from draftgraph.lab.coverage.trial import examine

    torch.set_num_threads(1)
    pipe.send(examine(name, backends))
    pipe.close()
