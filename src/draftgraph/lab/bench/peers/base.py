"""What a peer is: how to get it, how to get its weights, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from draftgraph.lab.bench.contenders import Task
from draftgraph.lab.bench.models import Models
from draftgraph.lab.turns import Contender


class Peer(Protocol):
    """A decoder that has loaded its weights."""

    def contenders(self, task: Task) -> list[Contender]: ...


@dataclass(frozen=True)
class Kind:
    """A decoder that may be installed.

    module   what must be importable. install  how to get it.
    convert  how to get its weights; None if it reads the target's own.
    note     how it is run here.
    load     load(models, paths of weights and perhaps drafter, threads, tokens it drafts per target call).
    """

    module: str
    install: str
    convert: str | None
    note: str
    load: Callable[[Models, Sequence[Path], int, int], Peer]
