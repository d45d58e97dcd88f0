"""Files that ship with the package: the bundled pair of models."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from draftgraph.errors import ModelError


def bundled_pair() -> tuple[Path, Path]:
    """The folders of the bundled target and drafter, a small pair that knows some Python.

    Raises ModelError if this installation lacks them.
    """
    pair = Path(str(resources.files(__name__) / "pair"))
    folders = pair / "target", pair / "drafter"
    for folder in folders:
        if not (folder / "model.safetensors").is_file() or not (folder / "config.json").is_file():
            raise ModelError(
                f"the bundled {folder.name} is not in {folder}; write --model and --draft-model to use your own, "
                "or train the pair with `make pair` in a checkout"
            )
    return folders
