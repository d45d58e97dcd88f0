"""Where a model is: in a folder here, or under a name on the hub, which is asked once, briefly, before anything is loaded.

Left to itself, transformers asks the hub for file after file and tries each again for half a minute.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from draftgraph.backends.adapters import adapter_base
from draftgraph.backends.gguf import GgufFile, is_gguf, only_gguf, read_header
from draftgraph.errors import ModelError, first_line

PATIENCE_SECONDS = 5.0
"""How long the hub may take to answer."""
BELIEVED_SECONDS = 60.0
"""How long an answer is not asked for again: a model is read in several steps."""
_ASKED: dict[str, float] = {}
"""When a name was asked for last."""
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_ASKED_FOR = "config.json"


@dataclass(frozen=True)
class Place:
    """A model's folder or hub name.

    local  whether nothing needs to be asked on the net.
    gguf   the file in the folder, if that is the model.
    base   the model that the adapter in the folder belongs to, if it holds one.
    """

    name: str
    local: bool
    gguf: GgufFile | None = None
    base: str | None = None

    @property
    def title(self) -> str:
        """Its name in messages."""
        return self.name if self.gguf is None else self.gguf.path

    @property
    def arguments(self) -> dict[str, Any]:
        """How `from_pretrained` is told of it, beside the name."""
        return {"local_files_only": self.local, **({} if self.gguf is None else self.gguf.named)}


@dataclass(frozen=True)
class _Answer:
    """What the hub says of a name. refusal  why there is no such model; unreachable  why the hub says nothing."""

    refusal: str = ""
    unreachable: str = ""


def locate(source: str | Path) -> Place:
    """The place of a model, found within seconds.

    Raises ModelError if it is neither a folder, nor a GGUF file, nor a name that the hub knows or has given before.
    """
    if not isinstance(source, (str, Path)):
        raise ModelError(f"a model is a folder, a hub name or a transformers model, not {type(source).__name__}")
    name = str(source)
    if os.path.isdir(name):
        _refuse_pipes(name)
        file = only_gguf(name)
        return Place(name, True, None if file is None else read_header(file), adapter_base(name))
    if is_gguf(name) and os.path.isfile(name):
        return Place(os.path.dirname(name) or os.curdir, local=True, gguf=read_header(name))
    here = f"cannot load {name!r}: there is no such {'file' if is_gguf(name) else 'folder'} here"
    instead = "write the path of a folder that holds config.json, or of a .gguf file"
    if os.path.lexists(name):
        raise ModelError(f"cannot load {name!r}: it is no folder; {instead}")
    try:
        hf_hub_url(name, _ASKED_FOR)
    except HFValidationError:
        raise ModelError(f"{here}, and it cannot be a hub name; {instead}") from None
    off = _switched_off()
    answer = _Answer(unreachable=off) if off else _ask(name, _asked(name))
    if answer.refusal:
        raise ModelError(f"{here}, and {answer.refusal}; {instead}, or a hub name")
    if not answer.unreachable:
        return Place(name, local=False)
    if kept(name, _ASKED_FOR) is not None:
        return Place(name, local=True)
    raise ModelError(f"{here}, it was not downloaded before, and {answer.unreachable}; {instead}")


def kept(name: str, file: str) -> Path | None:
    """A file of a model that is here: in its folder, or in the hub's cache. None if there is none."""
    if os.path.isdir(name):
        path = os.path.join(name, file)
        return Path(path) if os.path.lexists(path) else None
    cached = try_to_load_from_cache(name, file)
    return Path(cached) if isinstance(cached, str) else None


def _refuse_pipes(folder: str) -> None:
    """Refuse what would be waited for without end where files are expected. Raises ModelError."""
    try:
        with os.scandir(folder) as entries:
            odd = [
                entry.name
                for entry in entries
                if os.path.exists(entry.path) and not (entry.is_file() or entry.is_dir())
            ]
    except OSError as error:
        raise ModelError(f"cannot load {folder!r}: {error.strerror}") from None
    if odd:
        raise ModelError(f"cannot load {folder!r}: {odd[0]!r} in it is a pipe or a device, not a file")


def _switched_off() -> str:
    """Why the hub is not to be asked, empty if it may be."""
    if constants.HF_HUB_OFFLINE or any(
        os.environ.get(name, "0").upper() in ("1", "TRUE", "YES", "ON") for name in _OFFLINE
    ):
        return "the hub is switched off (HF_HUB_OFFLINE)"
    return ""


def _asked(name: str) -> float:
    """When the name was asked for: now, unless it was not long ago."""
    now = time.monotonic()
    before = _ASKED.get(name)
    if before is None or now - before > BELIEVED_SECONDS:
        before = _ASKED[name] = now
    return before


@lru_cache(maxsize=32)
def _ask(name: str, asked: float) -> _Answer:
    """One question to the hub. asked  makes an answer be asked for again later."""
    try:
        get_hf_file_metadata(hf_hub_url(name, _ASKED_FOR), timeout=PATIENCE_SECONDS)
    except GatedRepoError:
        return _Answer("the hub gives it to some accounts only: ask for access on its page, then `hf auth login`")
    except RepositoryNotFoundError:
        return _Answer("the hub knows no such model (a private one needs `hf auth login`)")
    except EntryNotFoundError:
        return _Answer(
            "the hub's model of that name has no config.json (an adapter is read from a folder: `hf download` it)"
        )
    except OfflineModeIsEnabled:
        return _Answer(unreachable="the hub is switched off (HF_HUB_OFFLINE)")
    except Exception as error:  # whatever the network, a proxy or a certificate say
        return _Answer(unreachable=f"the hub cannot be reached ({first_line(error)})")
    return _Answer()
