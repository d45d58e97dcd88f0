"""Embeddings and head read out of a model's files, without the layers between them.

Only what is plain is read so: an embedding table and a linear head that lie in the files under the names that the model has for
them. Of everything else the whole model is loaded, by whoever asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from draftgraph.backends.auto_classes import auto_class
from draftgraph.backends.hub import Place, locate
from draftgraph.backends.load import LOADING, read_config
from draftgraph.backends.openvino.weights import weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GGUF_EMBEDDINGS, GGUF_HEAD = "token_embd.weight", "output.weight"
"""Names in GGUF files."""


def read_ends(source: str | Path) -> tuple[PretrainedConfig, nn.Embedding, nn.Linear] | None:
    """Configuration, embeddings and head of a folder, GGUF file or hub name, in float32 on the CPU; None where it takes more.

    Raises ModelError for a configuration that cannot be read.
    """
    place = locate(source)
    if place.base is not None:
        return None
    config = read_config(source)
    if place.gguf is None and getattr(config, "quantization_config", None) is not None:
        return None
    with LOADING, torch.device("meta"):
        model = auto_class(config).from_config(config, dtype=torch.float32)
    model.tie_weights()
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(embeddings) is not nn.Embedding or type(head) is not nn.Linear or head.bias is not None:
        return None
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    tied = head.weight is embeddings.weight
    wanted = (GGUF_EMBEDDINGS, GGUF_HEAD) if place.gguf is not None else (names[id(embeddings)], names[id(head)])
    found = _read(place, wanted[:1] if tied else wanted)
    if tied and found is not None:  # a head of its own in the file is not tied, whatever the configuration says
        own = _read(place, wanted[1:])
        found = found if own is None or torch.equal(own[0], found[0]) else None
    if found is None or any(weight.shape != embeddings.weight.shape for weight in found):
        return None
    embeddings.weight = nn.Parameter(found[0], requires_grad=False)
    head.weight = embeddings.weight if tied else nn.Parameter(found[1], requires_grad=False)
    return config, embeddings.eval(), head.eval()


def _read(place: Place, names: Sequence[str]) -> list[torch.Tensor] | None:
    """These tensors in float32; None if one is not there under its name, or cannot be read."""
    if place.gguf is not None:
        matrices = all(len(place.gguf.places.get(name, (0, ()))[1]) == 2 for name in names)
        return [place.gguf.tensor(name) for name in names] if matrices else None
    found: dict[str, torch.Tensor] = {}
    try:
        for file in weight_files(place.name):
            with safe_open(file, "pt") as opened:
                found |= {name: opened.get_tensor(name).float() for name in opened.keys() if name in names}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None  # whoever loads the whole model says what is wrong
    return [found[name] for name in names] if len(found) == len(set(names)) else None
