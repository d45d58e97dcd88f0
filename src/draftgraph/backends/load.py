"""Loading models and tokenizers, and checking that a drafter can draft for a target."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from draftgraph.backends.adapters import ADAPTER, refuse_without_peft, with_adapter
from draftgraph.backends.auto_classes import auto_class
from draftgraph.backends.check import Check
from draftgraph.backends.hub import Place, kept, locate
from draftgraph.backends.load_report import unreported
from draftgraph.backends.support import COMPUTED
from draftgraph.backends.tokenizer_choice import chosen_by
from draftgraph.backends.untrusted import refuse_broken_generation_config, refuse_kernels, refuse_sizes, told
from draftgraph.backends.wrapped import is_compiled, opened
from draftgraph.errors import ModelError, OptionError, PairError, brief, first_line, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Source = str | Path | torch.nn.Module
"""A folder, a GGUF file, a hub name, or a loaded model, which adapters may surround."""
LOADING = threading.Lock()
"""Loading sets torch's default type for a while, and more that threads share: one model at a time."""
PADDING, PADDING_SHARE = 64, 0.01
"""Vocabularies of one family differ by padding and a few added tokens: at most so many, or that share of the larger one."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json",
)  # fmt: skip
"""A model that has one of them has a tokenizer."""


@overload
def load_model(
    source: str | Path, dtype: str | torch.dtype | None, device: str | None, trust_remote_code: bool = False
) -> PreTrainedModel: ...
@overload
def load_model(
    source: Source, dtype: str | torch.dtype | None, device: str | None, trust_remote_code: bool = False
) -> torch.nn.Module: ...
def load_model(
    source: Source, dtype: str | torch.dtype | None, device: str | None, trust_remote_code: bool = False
) -> torch.nn.Module:
    """A causal LM from a folder, a GGUF file (dequantised) or a hub name, in eval mode. One that is loaded already comes back
    as it is. An adapter's folder gives its base model with the adapter in its weights.

    dtype None means float32 on a CPU (the only one in which wide and narrow forwards agree on every greedy token) and the
    checkpoint's own elsewhere. trust_remote_code  whether code that comes with the model may run; nobody is asked.
    Raises OptionError for an impossible dtype or device, and ModelError if `source` is nothing that can be loaded, or the
    checkpoint is missing, corrupt or incomplete, or needs code that is not trusted.
    """
    if isinstance(source, torch.nn.Module):
        if is_compiled(source):
            logging.getLogger(__name__).warning(
                "torch.compile is not used here: %s runs uncompiled, for passes differ in their number of rows",
                type(opened(source).model).__name__,
            )
        return source
    place = locate(folder_or_name(source))
    if place.base is not None:
        return _load_adapted(place, dtype, device, trust_remote_code)  # type: ignore[no-any-return]
    where = as_device(device)
    wanted = as_dtype(dtype) or (torch.float32 if where.type == "cpu" else "auto")
    return read_model(place, wanted, trust_remote_code).to(where)  # type: ignore[no-any-return]


def read_model(place: Place, dtype: torch.dtype | str, trust_remote_code: bool, **more: Any) -> Any:
    """The causal LM of a place, in eval mode. more  arguments of `from_pretrained`.

    Raises ModelError.
    """
    with LOADING, _reading(place, "load a causal language model"):
        refuse_broken_generation_config(place.name)
        config = AutoConfig.from_pretrained(place.name, trust_remote_code=trust_remote_code, **place.arguments)
        if not trust_remote_code:
            refuse_kernels(config)
        with unreported():
            model, info = auto_class(config).from_pretrained(
                place.name,
                dtype=dtype,
                output_loading_info=True,
                trust_remote_code=trust_remote_code,
                **place.arguments,
                **({} if place.gguf is None else place.gguf.dense),
                **more,
            )
    if info["missing_keys"] or info.get("mismatched_keys"):
        wrong = sorted(map(str, info["missing_keys"] or info["mismatched_keys"]))
        raise ModelError(
            f"the checkpoint {place.title!r} lacks weights ({', '.join(wrong[:3])}, …); they would be random"
        )
    model.name_or_path = place.title
    return model.eval()


def _load_adapted(
    place: Place, dtype: str | torch.dtype | None, device: str | None, trust_remote_code: bool
) -> PreTrainedModel:
    """The base model of an adapter, with the adapter in its weights."""
    refuse_without_peft(place.name)
    try:
        if locate(place.base or "").base is not None:
            raise ModelError(f"{place.base!r} is an adapter itself; merge it into its base model first")
        base = load_model(place.base or "", dtype, device, trust_remote_code)
    except ModelError as error:
        raise ModelError(
            f"the adapter {place.name!r} needs its base model {place.base!r}: {error}; or write where that is into its {ADAPTER}"
        ) from error
    with told(f"cannot load the adapter {place.name!r}"), LOADING:
        model = with_adapter(base, place.name)
    model.name_or_path = place.name
    return model.eval()


@contextmanager
def _reading(place: Place, what: str) -> Iterator[None]:
    """transformers reads the files of a model. What is wrong with them is a ModelError that says what could not be done."""
    with told(f"cannot {what} from {place.title!r}"):
        refuse_sizes(place)
        with nullcontext() if place.gguf is None else place.gguf.reading():
            yield


def folder_or_name(source: object) -> str:
    """Raises ModelError, with what to write instead, for anything that is neither."""
    if isinstance(source, (str, os.PathLike)) and os.fspath(source):
        return str(os.fspath(source))
    hint = ""
    if isinstance(source, PreTrainedTokenizerBase):
        hint = "; a tokenizer goes into tokenizer=..."
    elif isinstance(getattr(source, "model", None), torch.nn.Module):
        hint = f"; write the model inside this {type(source).__name__}, its .model"
    elif isinstance(source, PretrainedConfig):
        hint = "; a configuration has no weights"
    elif isinstance(source, Mapping):
        hint = "; weights alone are no model: save them with a config.json, or load them into a model"
    shown = repr(source) if source is None or isinstance(source, (str, bytes, int, float)) else "an object"
    raise ModelError(
        f"a model is a folder, a hub name or a loaded transformers model, not {shown[:60]} of type "
        f"{type(source).__name__}{hint}"
    )


def as_device(device: str | None) -> torch.device:
    """The device that weights go to; None is the GPU if there is one. Raises OptionError if there is no such device."""
    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=where)
        require(where.type != "meta", "device", device, "a device that computes, such as 'cpu'")
    except OptionError:
        raise
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise OptionError(
            f"device={device!r} is not possible here ({first_line(error)}); write 'cpu', or leave it out"
        ) from error
    return where


def as_dtype(dtype: str | torch.dtype | None) -> str | torch.dtype | None:
    """Raises OptionError for a type that weights cannot have."""
    named: Any = dtype
    if isinstance(dtype, str) and dtype != "auto":
        named = getattr(torch, dtype.removeprefix("torch."), None)
    require(
        dtype is None or named == "auto" or named in COMPUTED,
        "dtype", dtype, "'float32', 'bfloat16', 'float16', 'float64', 'auto' (the checkpoint's own), or leave it out",
    )  # fmt: skip
    return named  # type: ignore[no-any-return]


def load_tokenizer(source: Source, trust_remote_code: bool = False) -> Any | None:
    """The tokenizer that belongs to a model; None if it has no tokenizer files, or is a loaded model whose files are broken.

    Raises ModelError if the files of a folder or hub name are corrupt.
    """
    loaded = isinstance(source, torch.nn.Module)
    name = opened(source).model.name_or_path if isinstance(source, torch.nn.Module) else str(source)
    if not name or (loaded and not os.path.exists(name)):
        return None
    try:
        return read_tokenizer(name, trust_remote_code)
    except ModelError:
        if not loaded and _has_tokenizer(locate(name)):
            raise
        return None  # a model without tokenizer files is usable with token ids


def _has_tokenizer(place: Place) -> bool:
    named = any(kept(place.name, file) is not None for file in TOKENIZER_FILES)
    return named or (place.gguf is not None and place.gguf.has_tokenizer)


def find_tokenizer(given: Any | None, source: Source, trust_remote_code: bool = False) -> Any | None:
    """The tokenizer that the user gave, itself or by its folder or hub name; else the one that belongs to the model.

    Raises OptionError for what is no transformers tokenizer, ModelError for a folder without one.
    """
    if given is None:
        return load_tokenizer(source, trust_remote_code)
    if isinstance(given, str | Path):
        return read_tokenizer(given, trust_remote_code)
    if not callable(given) or not hasattr(given, "decode"):
        raise OptionError(
            f"tokenizer={brief(given)} is no transformers tokenizer; write AutoTokenizer.from_pretrained(...), or "
            "PreTrainedTokenizerFast(tokenizer_object=...) around one of the tokenizers package"
        )
    return given


def read_tokenizer(source: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or hub name. Raises ModelError if it is missing or corrupt."""
    place = locate(source)
    if place.base is not None and not _has_tokenizer(place):
        return read_tokenizer(place.base, trust_remote_code)
    with _reading(place, "read a tokenizer"):  # its class depends on the configuration
        options = {"trust_remote_code": trust_remote_code, **place.arguments, **chosen_by(place)}
        tokenizer = AutoTokenizer.from_pretrained(place.name, **options)
        tokenizer.decode(tokenizer("a b")["input_ids"])  # some faults show when it is used only
        return tokenizer


def read_config(source: str | Path, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration of a folder or hub name. Raises ModelError if it is missing or corrupt."""
    place = locate(source)
    if place.base is not None:
        return read_config(place.base, trust_remote_code)
    with _reading(place, "read a configuration"):
        return AutoConfig.from_pretrained(place.name, trust_remote_code=trust_remote_code, **place.arguments)


def check_pair(target: Any, drafter: Any, tokenizer: Any | None, draft_tokenizer: Any | None) -> None:
    """Refuse a drafter whose token ids mean something else. `target` and `drafter` have a vocab_size.

    Raises PairError naming the rule that fails.
    """
    same_tokens(target, drafter, tokenizer, draft_tokenizer).enforce()


def same_tokens(target: Any, drafter: Any, tokenizer: Any | None, draft_tokenizer: Any | None) -> Check:
    """Whether both models mean the same by every token id: by their tokenizers, or by their sizes where one has none."""
    rule, sizes = "same tokens", (target.vocab_size, drafter.vocab_size)
    padded = "" if sizes[0] == sizes[1] else f"; the models are padded differently ({sizes[0]} and {sizes[1]} rows)"
    if tokenizer is not None and draft_tokenizer is not None:
        return _compare(rule, tokenizer.get_vocab(), draft_tokenizer.get_vocab(), padded)
    if not _is_padding(abs(sizes[0] - sizes[1]), max(sizes)):
        return Check(
            rule,
            "fail",
            f"vocabulary size: the target has {sizes[0]} tokens, the drafter {sizes[1]}, which is more than padding",
            "use a drafter of the same family, or drafter='lookup', which needs no model",
            PairError,
        )
    return Check(
        rule,
        "warning",
        f"only sizes could be compared ({sizes[0]} and {sizes[1]})",
        "put tokenizer files into both folders, so that the tokens themselves can be",
    )


def _compare(rule: str, ours: dict[str, int], theirs: dict[str, int], padded: str) -> Check:
    """Every id that both use must be the same token; a few tokens that only one of them has are harmless."""
    meanings = {number: token for token, number in theirs.items()}
    wrong = [
        token
        for token, number in sorted(ours.items(), key=lambda entry: entry[1])
        if meanings.get(number, token) != token or theirs.get(token, number) != number
    ]
    alone = sorted(ours.keys() ^ theirs.keys())
    if not wrong and _is_padding(len(alone), max(len(ours), len(theirs))):
        only = (
            f", {len(alone)} in one of them only ({', '.join(map(repr, alone[:3]))}), which is harmless"
            if alone
            else ""
        )
        return Check(rule, "pass", f"{len(ours.keys() & theirs.keys())} tokens have the same ids{only}{padded}")
    differing = wrong or alone
    said = ", ".join(
        f"{token!r} is {ours.get(token, 'absent')} for the target and {theirs.get(token, 'absent')} for the drafter"
        for token in differing[:3]
    )
    return Check(
        rule,
        "fail",
        f"token ids: {said} ({len(differing)} of {len(ours)} tokens differ)",
        "a drafter needs the target's tokenizer. Use a drafter of the same family, or drafter='lookup', which needs no model",
        PairError,
    )


def _is_padding(difference: int, size: int) -> bool:
    return difference <= max(PADDING, PADDING_SHARE * size)
