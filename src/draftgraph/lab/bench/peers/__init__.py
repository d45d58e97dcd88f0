"""Other decoders, measured on the same weights where they are installed and their converted weights are given."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from draftgraph.errors import OptionError, first_line, unknown_name
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers import economize, llama_cpp, openvino, vllm
from draftgraph.lab.bench.peers.base import Kind, Peer

KINDS = {"economize": economize.KIND, "openvino": openvino.KIND, "llama.cpp": llama_cpp.KIND, "vllm": vllm.KIND}


@dataclass(frozen=True)
class Asked:
    """A peer by name, with the paths of its weights and of its drafter's."""

    name: str
    paths: Sequence[Path]

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    def __str__(self) -> str:
        return f"{self.name}={','.join(map(str, self.paths))}" if self.paths else self.name


@dataclass(frozen=True)
class Absent:
    """Who could not be measured, and what to do about it."""

    name: str
    reason: str


def parse_peer(text: str) -> Asked:
    """`NAME` or `NAME=WEIGHTS[,DRAFTER]`. Raises OptionError for an unknown name or a path that is not there."""
    name, _, rest = text.partition("=")
    if name not in KINDS:
        raise unknown_name("peer", name, KINDS)
    paths = [Path(part) for part in rest.split(",") if part]
    if len(paths) > 2 or (paths and KINDS[name].convert is None):
        possible = name if KINDS[name].convert is None else f"{name}=WEIGHTS or {name}=WEIGHTS,DRAFTER"
        raise OptionError(f"--peer {text} is not possible; write --peer {possible}")
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise OptionError(f"--peer {name}: there is no {str(missing[0])!r}. To convert: {KINDS[name].convert}")
    return Asked(name, paths)


def missing(asked: Asked) -> Absent | None:
    """Why a peer cannot be measured, as far as can be known without loading it; None if nothing is missing."""
    kind = asked.kind
    if importlib.util.find_spec(kind.module) is None:
        return Absent(asked.name, f"not installed; {kind.install}")
    if kind.convert is not None and not asked.paths:
        return Absent(
            asked.name, f"no weights given; write --peer {asked.name}=WEIGHTS[,DRAFTER]. To convert: {kind.convert}"
        )
    return None


def load(asked: Asked, models: Models, threads: int, drafted: int) -> Peer | Absent:
    """The peer with its weights. drafted  tokens that it drafts per target call where it has a drafter."""
    absent = missing(asked)
    if absent is not None:
        return absent
    try:
        return asked.kind.load(models, asked.paths, threads, drafted)
    except Exception as error:  # whatever a foreign library says
        return Absent(asked.name, f"could not load its weights: {first_line(error)}")
