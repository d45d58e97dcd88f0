"""The processes of a torchrun job that hold one model between them: the first one leads, the others follow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
import torch.distributed as dist

from draftgraph.errors import ModelError, first_line

_IDLE_DAYS = 365
"""Followers wait for as long as the leader has nothing to do. A leader that has died is noticed at once."""
_LEAVING_SECONDS = 10
"""Followers that lose the leader wait so long for its word that it has ended well."""
_ENDED = "draftgraph/ended"
_LEADING: WeakKeyDictionary[torch.nn.Module, Ranks] = WeakKeyDictionary()


class Ranks:
    """How the leader tells the followers what to do. All ranks make it at the same time.

    broken  why they are out of step, in words; empty if they are not.
    """

    def __init__(self) -> None:
        self.group = dist.new_group(backend="gloo", timeout=timedelta(days=_IDLE_DAYS))
        self.store = dist.distributed_c10d._get_default_store()
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.broken = ""
        self._turn = threading.RLock()

    @contextmanager
    def told(self, order: Any) -> Iterator[None]:
        """The leader does what it has told the others to do. Raises ModelError if a rank has died, then and ever after."""
        if self.broken:
            raise ModelError(self.broken)
        try:
            with self._turn:
                self._broadcast(order)
                yield
        except BaseException as error:
            self.broken = (
                f"a pass of the {self.count} ranks was not finished ({first_line(error)}), so that they are out of step; "
                "look for what the other ranks say, and start the program anew"
            )
            if isinstance(error, Exception):
                raise ModelError(self.broken) from error
            raise

    def orders(self) -> Iterator[Any]:
        """What a follower is told, until the leader ends. Raises ModelError if the leader dies."""
        while (order := self._next()) is not None:
            yield order

    def _next(self) -> Any:
        try:
            return self._broadcast(None)
        except RuntimeError as error:
            with suppress(RuntimeError):
                self.store.wait([_ENDED], timedelta(seconds=_LEAVING_SECONDS))
                return None
            raise ModelError(f"rank 0 has died, and rank {self.rank} ends with it ({first_line(error)})") from error

    def _broadcast(self, order: Any) -> Any:
        carried = [order]
        dist.broadcast_object_list(carried, src=0, group=self.group)
        return carried[0]

    def end(self) -> None:
        """Send the followers home. What the job was joined by is of no use then: threads of it would abort the program's end."""
        if not self._turn.acquire(timeout=_LEAVING_SECONDS):
            return  # a pass of another thread hangs
        with suppress(RuntimeError, ValueError, AssertionError):
            self.store.set(_ENDED, "")
            if dist.is_initialized():
                if not self.broken:
                    self._broadcast(None)
                dist.destroy_process_group()


def ranks_of(model: torch.nn.Module) -> Ranks:
    """The ranks that hold a model; for a leader they stay until the model goes."""
    if model not in _LEADING:
        _LEADING[model] = ranks = Ranks()
        if ranks.rank == 0:
            finalize(model, ranks.end)
    return _LEADING[model]
