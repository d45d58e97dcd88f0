"""Loading models and tokenizers, and checking that a drafter can draft for a target."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from draftgraph.backends.check import Check
from draftgraph.backends.hub import kept, locate
from draftgraph.errors import ModelError, OptionError, PairError, require
from draftgraph.files import read_text

PADDING, PADDING_SHARE = 64, 0.01
"""Vocabularies of one family differ by padding and a few added tokens: at most so many, or that share of the larger one."""
MOST_LAYERS = 10_000
_COUNTED = ("layer", "layers", "block", "blocks", "experts")
"""Ends of the names of what is built one by one."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json",
)  # fmt: skip
"""A model that has one of them has a tokenizer."""


def load_model(
    source: str | Path | PreTrainedModel,
    dtype: str | torch.dtype | None,
    device: str | None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal LM from a folder, a hub name, or as given.

    dtype None means float32 on a CPU (the only one in which wide and narrow forwards agree on every greedy token) and the
    checkpoint's own elsewhere. trust_remote_code  whether code that comes with the model may run; nobody is asked.
    Raises ModelError if the checkpoint is missing, corrupt or incomplete, or needs code that is not trusted.
    """
    if isinstance(source, PreTrainedModel):
        return source.eval()
    where = as_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    wanted = dtype or (torch.float32 if where.type == "cpu" else "auto")
    place = locate(source)
    with _told(f"cannot load a causal language model from {place.name!r}"):
        _refuse_sizes(place.name)
        if not trust_remote_code:
            _refuse_kernels(
                AutoConfig.from_pretrained(place.name, trust_remote_code=False, local_files_only=place.local)
            )
        model, info = AutoModelForCausalLM.from_pretrained(
            place.name,
            dtype=wanted,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            local_files_only=place.local,
        )
    if info["missing_keys"] or info.get("mismatched_keys"):
        wrong = sorted(map(str, info["missing_keys"] or info["mismatched_keys"]))
        raise ModelError(
            f"the checkpoint {place.name!r} lacks weights ({', '.join(wrong[:3])}, …); they would be random"
        )
    return model.to(where).eval()


def as_device(name: str | torch.device) -> torch.device:
    """The device of a name. Raises OptionError for one that is not here, or does not compute."""
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise OptionError(f"device={str(name)!r} is not possible here ({first_line(error)}); write cpu") from None
    require(device.type != "meta", "device", str(name), "a device that computes, such as cpu")
    return device


def load_tokenizer(source: str | Path | PreTrainedModel, trust_remote_code: bool = False) -> Any | None:
    """The tokenizer that belongs to a model; None if it has no tokenizer files, or is a loaded model whose files are broken.

    Raises ModelError if the files of a folder or hub name are corrupt.
    """
    loaded = isinstance(source, PreTrainedModel)
    name = source.name_or_path if isinstance(source, PreTrainedModel) else str(source)
    if not name or (loaded and not os.path.isdir(name)):
        return None
    try:
        return read_tokenizer(name, trust_remote_code)
    except ModelError:
        if not loaded and any(kept(name, file) is not None for file in TOKENIZER_FILES):
            raise
        return None  # a model without tokenizer files is usable with token ids


def read_tokenizer(source: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or hub name. Raises ModelError if it is missing or corrupt."""
    place = locate(source)
    with _told(f"cannot read a tokenizer from {place.name!r}"):
        _refuse_sizes(place.name)  # the tokenizer's class depends on the configuration
        tokenizer = AutoTokenizer.from_pretrained(
            place.name, trust_remote_code=trust_remote_code, local_files_only=place.local
        )
        tokenizer.decode(tokenizer("a b")["input_ids"])  # some faults show when it is used only
        return tokenizer


def read_config(source: str | Path, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration of a folder or hub name. Raises ModelError if it is missing or corrupt."""
    place = locate(source)
    with _told(f"cannot read a configuration from {place.name!r}"):
        _refuse_sizes(place.name)
        return AutoConfig.from_pretrained(place.name, trust_remote_code=trust_remote_code, local_files_only=place.local)


def _refuse_sizes(name: str) -> None:
    """Refuse a configuration with so many layers that building them would not end, or fewer than none. Raises ModelError."""
    file = kept(name, "config.json")
    if file is None:
        return
    try:
        pending = [("", json.loads(read_text(file)))]  # not strictly: infinite limits are usual in configurations
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"cannot read {str(file)!r}: {error.strerror if isinstance(error, OSError) else error}"
        ) from None
    while pending:
        key, value = pending.pop()
        if isinstance(value, (dict, list)):
            pending += value.items() if isinstance(value, dict) else [(key, each) for each in value]
        elif type(value) is int and not 0 <= value <= MOST_LAYERS and key.endswith(_COUNTED):
            raise ModelError(f"{str(file)!r} says {key}={str(value)[:20]}; possible are 0 to {MOST_LAYERS}")


def _refuse_kernels(config: PretrainedConfig) -> None:
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
def _told(what: str) -> Iterator[None]:
    """Whatever transformers, tokenizers or safetensors raise for files that they cannot use is a ModelError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, ModelError):
        raise
    except BaseException as error:  # the tokenizers library panics with a class of its own
        told = first_line(error)
        if "trust_remote_code" in str(error):
            told = "it comes with code of its own, which is not run unless you write trust_remote_code=True (read it first)"
        raise ModelError(f"{what}: {told}") from error


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


def eos_ids(model: PreTrainedModel, tokenizer: Any | None) -> frozenset[int]:
    """Ids that end a text: the generation config's, else the model's, else the tokenizer's."""
    for source in (model.generation_config, model.config.get_text_config(decoder=True), tokenizer):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()


def first_line(error: BaseException) -> str:
    """The class and the first line of an error."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
