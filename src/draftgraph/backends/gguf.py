"""GGUF files, which hold weights, vocabulary and chat template together. transformers dequantises what llama.cpp reads packed.

The header is read here first: what is missing, cut or foreign is told before transformers begins, in words of its own.
"""

from __future__ import annotations

import copy
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
import torch
import transformers

from draftgraph.errors import ModelError, brief

SUFFIX = ".gguf"
MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
PACKAGES = ("gguf", "accelerate")
"""What transformers reads GGUF files with."""
MOST_DIMENSIONS = 8
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Formats of `struct` by the number of a value's type."""
_UNKNOWN = ("is not supported yet", "Unknown gguf model_type")
"""What transformers says of architectures that it does not know."""
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file whose header was read: it is whole, as far as that says.

    path    where it is.
    fields  single values by key, e.g. "general.architecture"; of an array its length.
    places  of tensors by name: the number of their type, their dimensions, the inner one first, and their first byte.
    """

    path: str
    fields: dict[str, Any]
    places: dict[str, tuple[int, tuple[int, ...], int]] = field(default_factory=dict)

    @property
    def has_tokenizer(self) -> bool:
        return "tokenizer.ggml.tokens" in self.fields

    @property
    def named(self) -> dict[str, str]:
        """How `from_pretrained` is told of the file, beside its folder."""
        return {"gguf_file": os.path.basename(self.path)}

    @property
    def dense(self) -> dict[str, Any]:
        """How it is told to dequantise the weights; older versions know nothing else."""
        known = hasattr(transformers, "GgufConfig")
        return {"quantization_config": transformers.GgufConfig(dequantize=True)} if known else {}

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, dequantised, f32. Raises KeyError if there is none of that name, OSError if the file cannot be read."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        number, dimensions, begin = self.places[name]
        block, width = _sizes()[number]
        row, rows = dimensions[0] // block * width, dimensions[:0:-1]
        packed = np.fromfile(self.path, np.uint8, math.prod(rows) * row, offset=begin).reshape(*rows, row)
        return torch.from_numpy(np.array(dequantize(packed, GGMLQuantizationType(number)), dtype=np.float32))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """transformers reads the file: its progress bar can be switched off as all others, the header is parsed once for
        configuration and tokenizer, and an architecture that it does not know is a ModelError."""
        from transformers import modeling_gguf_pytorch_utils as reader
        from transformers.utils.logging import tqdm

        own, parse = reader.tqdm, reader.load_gguf_checkpoint
        reader.tqdm = tqdm  # its own asks nobody whether bars are wanted
        reader.load_gguf_checkpoint = partial(_parsed_once, parse)
        try:
            yield
        except (ValueError, NotImplementedError) as error:
            if not any(word in str(error) for word in _UNKNOWN):
                raise
            raise ModelError(
                f"cannot load {self.path!r}: transformers {transformers.__version__} reads no GGUF files of the architecture "
                f"{brief(self.fields['general.architecture'])}; give the model's own folder or hub name"
            ) from error
        finally:
            reader.tqdm, reader.load_gguf_checkpoint = own, parse


_PARSED: dict[tuple[str, int, int], dict[str, Any]] = {}
"""The header that was parsed last, by path, size and time of its file: seconds for a vocabulary of 50,000 tokens."""


def _parsed_once(parse: Callable[..., dict[str, Any]], path: Any, return_tensors: bool = False, **more: Any) -> Any:
    """What `parse` makes of a file; of its header alone it is remembered."""
    if return_tensors:
        return parse(path, return_tensors=True, **more)
    found = os.stat(path)
    key = (os.path.abspath(path), found.st_size, found.st_mtime_ns)
    parsed = _PARSED.get(key)
    if parsed is None:
        parsed = parse(path, **more)
        _PARSED.clear()
        _PARSED[key] = parsed
    return copy.deepcopy(parsed)


def is_gguf(name: str) -> bool:
    """Whether a path is that of a GGUF file, by its name. A folder is none."""
    return name.lower().endswith(SUFFIX) and not os.path.isdir(name)


def only_gguf(folder: str) -> str | None:
    """The path of the GGUF file in a folder that has one and no config.json. Raises ModelError where there are several."""
    names = sorted(name for name in os.listdir(folder) if is_gguf(name) and os.path.isfile(os.path.join(folder, name)))
    if not names or os.path.lexists(os.path.join(folder, "config.json")):
        return None
    if len(names) > 1:
        shown = ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
        raise ModelError(f"{folder!r} holds {len(names)} GGUF files ({shown}); write the path of one of them")
    return os.path.join(folder, names[0])


def read_header(path: str) -> GgufFile:
    """A GGUF file, after a look at whether it can be read here and is whole. Raises ModelError."""
    absent = [package for package in PACKAGES if find_spec(package) is None]
    if absent:
        raise ModelError(
            f"cannot load {path!r}: GGUF files need the package {' and '.join(absent)}; write pip install 'draftgraph[gguf]'"
        )
    if _PART.search(path):
        raise ModelError(
            f"cannot load {path!r}: it is one part of several, and transformers reads whole files; join them with llama.cpp's "
            "`llama-gguf-split --merge`"
        )
    try:
        with open(path, "rb") as file:
            return _Header(file, path, os.fstat(file.fileno()).st_size).read()
    except OSError as error:
        raise ModelError(f"cannot load {path!r}: {error.strerror}") from None


class _Header:
    """Reads a header from its beginning to its end."""

    def __init__(self, file: BinaryIO, path: str, size: int) -> None:
        self.file, self.path, self.size = file, path, size

    def read(self) -> GgufFile:
        if self.file.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"cannot load {self.path!r}: it is no GGUF file, for it does not begin with 'GGUF'")
        version = self._number("I")
        if version not in VERSIONS:
            raise ModelError(
                f"cannot load {self.path!r}: it is of GGUF version {version}, and versions 2 and 3 with the lowest byte first "
                "can be read; convert the model again"
            )
        tensors, count = self._number("Q"), self._number("Q")
        fields = {self._string(): self._value(self._number("I")) for _ in range(count)}
        if not isinstance(fields.get("general.architecture"), str):
            raise self._broken("it names no architecture")
        return GgufFile(self.path, fields, self._places(tensors, fields.get("general.alignment", ALIGNMENT)))

    def _places(self, tensors: int, alignment: Any) -> dict[str, tuple[int, tuple[int, ...], int]]:
        """Where the tensors lie. Refuses a file that ends before the last one does."""
        found = [self._tensor() for _ in range(tensors)]
        if not isinstance(alignment, int) or alignment < 1:
            raise self._broken(f"it says general.alignment={brief(alignment)}")
        begin = -(-self.file.tell() // alignment) * alignment
        end = max((offset + size for _, _, _, offset, size in found), default=0)
        if begin + end > self.size:
            raise self._cut(begin + end)
        return {name: (kind, dimensions, begin + offset) for name, kind, dimensions, offset, _ in found}

    def _tensor(self) -> tuple[str, int, tuple[int, ...], int, int]:
        """Name, type and dimensions of a tensor, its first byte counted from that of all tensors, and how many it has."""
        name, count = self._string(), self._number("I")
        if count > MOST_DIMENSIONS:
            raise self._broken(f"its tensor {brief(name)} has {count} dimensions")
        dimensions = tuple(int(self._number("Q")) for _ in range(count))
        kind, offset = self._number("I"), int(self._number("Q"))
        sizes = _sizes()
        if kind not in sizes:
            raise self._broken(f"its tensor {brief(name)} is of type {kind}, which the package gguf does not know")
        block, width = sizes[kind]
        return name, kind, dimensions, offset, math.prod(dimensions) // block * width

    def _value(self, kind: int) -> Any:
        if kind in _FORMATS:
            return self._number(_FORMATS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise self._broken(f"it has a value of type {kind}, which there is not")
        inner, length = self._number("I"), self._number("Q")
        if inner in _FORMATS:
            self._skip(length * struct.calcsize(f"<{_FORMATS[inner]}"))
        elif inner == _STRING:
            for _ in range(length):
                self._skip(self._number("Q"))
        else:
            raise self._broken(f"it has an array of values of type {inner}, which cannot be read")
        return length

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0]

    def _string(self) -> str:
        return self._take(self._number("Q")).decode("utf-8", "replace")

    def _take(self, count: int) -> bytes:
        self._refuse_beyond(count)
        return self.file.read(count)

    def _skip(self, count: int) -> None:
        self._refuse_beyond(count)
        self.file.seek(count, os.SEEK_CUR)

    def _refuse_beyond(self, count: int) -> None:
        if self.file.tell() + count > self.size:
            raise self._cut(self.file.tell() + count)

    def _cut(self, needed: int) -> ModelError:
        return self._broken(f"it has {self.size} bytes, and its header tells of {needed}")

    def _broken(self, why: str) -> ModelError:
        return ModelError(f"cannot load {self.path!r}: {why}; take the file from its source again")


@cache
def _sizes() -> dict[int, tuple[int, int]]:
    """Elements and bytes of a block, by the number of a tensor's type."""
    from gguf.constants import GGML_QUANT_SIZES

    return {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
