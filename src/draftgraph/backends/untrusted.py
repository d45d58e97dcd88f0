"""What may be wrong with the files of a model: refused before transformers reads them, or told in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from draftgraph.backends.hub import Place, kept
from draftgraph.errors import ModelError, first_line
from draftgraph.files import read_text

MOST_LAYERS = 10_000
_COUNTED = ("n_layer", "num_layer", "layers", "block", "blocks", "experts", ".block_count", ".expert_count")
"""Ends of the names of what is built one by one."""
_MEND = "take the model's files from their source again"


def refuse_sizes(place: Place) -> None:
    """Refuse a configuration with so many layers that building them would not end, or fewer than none. Raises ModelError."""
    file = kept(place.name, "config.json") if place.gguf is None else place.gguf.path
    if file is None:
        return
    said = place.gguf.fields if place.gguf is not None else _read(Path(file))
    pending: list[tuple[str, Any]] = [("", said)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, (dict, list)):
            pending += value.items() if isinstance(value, dict) else [(key, each) for each in value]
        elif type(value) is int and not 0 <= value <= MOST_LAYERS and key.endswith(_COUNTED):
            raise ModelError(f"{str(file)!r} says {key}={str(value)[:20]}; possible are 0 to {MOST_LAYERS}")


def refuse_broken_generation_config(name: str) -> None:
    """Refuse a generation_config.json that is no object: transformers leaves some of them aside without a word.

    Raises ModelError.
    """
    file = kept(name, "generation_config.json")
    if file is not None and not isinstance(_read(file), dict):
        raise ModelError(f"cannot read {str(file)!r}: it holds no object; {_MEND}")


def _read(file: Path) -> Any:
    """What a JSON file says; not strictly, for infinite limits are usual in configurations. Raises ModelError."""
    try:
        return json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"cannot read {str(file)!r}: {why}; {_MEND}") from None


def refuse_kernels(config: PretrainedConfig) -> None:
    """Refuse a configuration that names kernels of the hub: they are code. Raises ModelError."""
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    fields = ("_attn_implementation", "_experts_implementation")
    for kernel in (getattr(part, field, None) for part in parts for field in fields):
        if isinstance(kernel, str) and "/" in kernel:
            raise ModelError(
                f"the configuration of {config.name_or_path!r} asks for {kernel!r} from the hub, which is code; write "
                "trust_remote_code=True to run it, or take it out of config.json"
            )


@contextmanager
def told(what: str) -> Iterator[None]:
    """Whatever transformers, tokenizers or safetensors raise for files that they cannot use is a ModelError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, ModelError):
        raise
    except BaseException as error:  # the tokenizers library panics with a class of its own
        why = first_line(error)
        if "trust_remote_code" in str(error):
            why = "it comes with code of its own, which is not run unless you write trust_remote_code=True (read it first)"
        raise ModelError(f"{what}: {why}") from error
