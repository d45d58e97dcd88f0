"""Folders of trained drafters, and which layout each has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import hf_hub_download, snapshot_download

from draftgraph.backends.check import Check
from draftgraph.backends.checkpoint import CONFIG, Rules, config_of
from draftgraph.backends.dflash_files import DFlashLayout
from draftgraph.backends.eagle3_files import TYPE, Eagle3Layout
from draftgraph.backends.ends import Ends
from draftgraph.backends.feature_files import OwnLayout
from draftgraph.backends.feature_model import FeatureReader
from draftgraph.backends.hub import locate
from draftgraph.backends.text_files import ExitLayout, MaskedLayout
from draftgraph.backends.untrusted import told
from draftgraph.errors import DraftgraphError, ModelError

_FILES = (CONFIG, "*.safetensors", "*.safetensors.index.json", "pytorch_model.bin")


class Layout(Protocol):
    """How one kind of trained drafter lies in a folder."""

    @property
    def name(self) -> str: ...
    def recognises(self, said: Mapping[str, Any]) -> bool:
        """Whether config.json says that it is of this kind."""
        ...

    def taps(self, folder: Path, said: Mapping[str, Any], layers: int) -> tuple[str, ...]:
        """Names of the hidden states that it reads of a target with `layers` layers. Raises ModelError or PairError."""
        ...

    def read(self, folder: Path, said: Mapping[str, Any], target: Ends) -> FeatureReader:
        """The drafter as a model. Raises ModelError for broken files, PairError for another target."""
        ...

    def rules(self, folder: Path, said: Mapping[str, Any], target: Ends) -> Rules:
        """What must hold of the folder and its target, by name."""
        ...


LAYOUTS: tuple[Layout, ...] = (OwnLayout(), ExitLayout(), MaskedLayout(), DFlashLayout(), Eagle3Layout())


@dataclass(frozen=True)
class Trained:
    """A trained drafter that has not been read yet. said  its config.json."""

    folder: Path
    layout: Layout
    said: Mapping[str, Any]

    def taps(self, layers: int) -> tuple[str, ...]:
        """Names of the hidden states that it reads of a target with `layers` layers. Raises ModelError or PairError."""
        return self.layout.taps(self.folder, self.said, layers)

    def read(self, target: Ends) -> FeatureReader:
        """The drafter as a model. Raises ModelError for broken files, PairError for another target."""
        return self.layout.read(self.folder, self.said, target)

    def checks(self, target: Ends) -> list[Check]:
        """Every rule of what must hold of it and a target."""
        return [_check(rule, say) for rule, say in self.layout.rules(self.folder, self.said, target).items()]


def _check(rule: str, say: Callable[[], str]) -> Check:
    try:
        return Check(rule, "pass", say())
    except DraftgraphError as error:
        return Check(rule, "fail", str(error), error=type(error))


def find_trained(source: object) -> Trained | None:
    """The trained drafter of a folder or hub name; None if it is another kind of model, or none at all.

    Raises ModelError for one of a kind that is not read.
    """
    if not isinstance(source, str | Path) or not str(source):
        return None
    folder = Path(source) if Path(source).exists() else _config_from_hub(str(source))
    said = None if folder is None or not folder.is_dir() else config_of(folder)
    if folder is None or said is None:
        return None
    for layout in LAYOUTS:
        if layout.recognises(said):
            return Trained(folder if Path(source).exists() else _from_hub(str(source)), layout, said)
    if TYPE in said:
        raise ModelError(
            f"the drafter in {str(source)!r} is of {TYPE}={said[TYPE]!r}, which is not read; use one of 'eagle3', 'dflash' or "
            "'dspark'"
        )
    return None


def _config_from_hub(name: str) -> Path | None:
    """A folder with the config.json of a hub name; None if there is none."""
    try:
        place = locate(name)
    except ModelError:
        return None  # whoever loads it says why
    if place.gguf is not None:
        return None
    with told(f"cannot load {name!r}"):
        return Path(hf_hub_download(name, CONFIG, local_files_only=place.local)).parent


def _from_hub(name: str) -> Path:
    with told(f"cannot load {name!r}"):
        return Path(snapshot_download(name, allow_patterns=[*_FILES], local_files_only=locate(name).local))
