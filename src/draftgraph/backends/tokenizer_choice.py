"""What transformers chooses a tokenizer's class by, without the class of the model's configuration.

`AutoTokenizer` reads the configuration first. Importing its class takes .7 s and 50 MiB with transformers 5.24, and where
tokenizer_config.json names a class, nothing of it is looked at but the model type.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from draftgraph.backends.hub import Place, kept
from draftgraph.files import BrokenFileError, read_text

_READ = ("model_type", "model_name", "tokenizer_class")
"""Words of config.json that the choice depends on."""
_RENAMED = ("mistral", "gpt-sw3", "EvollaModel", "mlcd")
"""Model types whose configurations call themselves otherwise, always or sometimes."""


def chosen_by(place: Place) -> dict[str, PretrainedConfig]:
    """Arguments of `AutoTokenizer.from_pretrained`: a plain configuration that leads to the same tokenizer as the model's own.

    None are given where that is not certain: for GGUF files, for files on the hub, for code that comes with a model, for files
    that are missing or broken, and where no class is named.
    """
    if place.gguf is not None or not place.local:
        return {}
    model, tokenizer = _object(place, "config.json"), _object(place, "tokenizer_config.json")
    kind = model.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING or kind in _RENAMED:
        return {}
    if "auto_map" in model or "auto_map" in tokenizer or not isinstance(tokenizer.get("tokenizer_class"), str):
        return {}
    plain = PretrainedConfig(name_or_path=place.name)
    for name in _READ:
        if name in model:
            setattr(plain, name, model[name])
    return {"config": plain}


def _object(place: Place, name: str) -> dict[str, Any]:
    """What a JSON file says; nothing if it is not there, or says something else."""
    file = kept(place.name, name)
    try:
        held = {} if file is None else json.loads(read_text(file))
    except (OSError, BrokenFileError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}
