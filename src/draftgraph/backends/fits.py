"""Whether an imported checkpoint fits its target: hidden states, sizes, vocabulary, maps and head; refused by name where not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from draftgraph.backends.checkpoint import Rules, Weights, refuse_shape
from draftgraph.backends.ends import Ends
from draftgraph.backends.features import part_of_head
from draftgraph.backends.taps import PREFIX
from draftgraph.errors import ModelError, PairError
from draftgraph.values import as_integer, as_list

MAPS = ("d2t", "t2d")
INSTEAD = "use a drafter of this target, or leave draft_model out"
_LAYER = re.compile(r"layers\.(\d+)\.")


def tap_names(folder: Path, numbers: Sequence[int] | None, layers: int) -> tuple[str, ...]:
    """Names of hidden states of a target with `layers` layers; None: the three that EAGLE-3 reads. Raises PairError.

    Engines disagree on the last one: transformers gives it after the final norm, vLLM before it. So it is refused.
    """
    wanted = (2, layers // 2, layers - 3) if numbers is None else tuple(numbers)
    missing = [number for number in wanted if not 0 <= number < layers]
    if missing:
        raise PairError(
            f"the drafter in {folder} reads the hidden states {', '.join(map(str, wanted))}, and of a target with {layers} "
            f"layers those from 0 to {layers - 1} can be read; {INSTEAD}"
        )
    return tuple(f"{PREFIX}{number}" for number in wanted)


def numbers_of(file: Path, name: str, given: Any) -> list[int]:
    """Numbers of layers or hidden states. Raises ModelError for anything else."""
    numbers = [as_integer(each) for each in as_list(given) or [None]]
    if None in numbers or any(number < 0 for number in numbers if number is not None):
        raise ModelError(f"{file} is broken: {name} is {given!r}, not numbers of layers")
    return [number for number in numbers if number is not None]


def refuse_other_vocabulary(folder: Path, own: int, targets: int) -> None:
    if own != targets:
        raise PairError(
            f"the drafter in {folder} was trained for another target: its vocab_size is {own}, the target's {targets}; {INSTEAD}"
        )


def same_vocabulary(folder: Path, own: int, targets: int) -> str:
    refuse_other_vocabulary(folder, own, targets)
    return f"{own} tokens"


def refuse_other_class(folder: Path, said: Mapping[str, Any], target: Ends) -> None:
    """Raise PairError if the folder names the class of its target, and this one is of another."""
    verifier = verifier_of(said)
    named, given = verifier.get("architectures"), getattr(target.config, "architectures", None)
    if named and given and not set(named) & set(given):
        raise PairError(
            f"the drafter in {folder} was trained for another target, {verifier.get('name_or_path')!r} of class "
            f"{', '.join(map(str, named))}; the target is a {', '.join(given)}; {INSTEAD}"
        )


def same_class(folder: Path, said: Mapping[str, Any], target: Ends) -> str:
    refuse_other_class(folder, said, target)
    named = verifier_of(said).get("architectures")
    return ", ".join(map(str, named)) if named else "the folder does not name its target"


def verifier_of(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a folder says of its target."""
    outer = said.get("speculators_config")
    inner = outer.get("verifier") if isinstance(outer, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def refuse_other_width(folder: Path, fc: torch.Tensor | None, taps: int, width: int) -> None:
    """Raise PairError for a drafter whose target has hidden states of another width. fc  f[d, taps · width]."""
    if fc is None or fc.dim() != 2 or fc.shape[1] == taps * width:
        return
    columns = fc.shape[1]
    read = f"of size {columns // taps}" if columns % taps == 0 else f"that are {columns} numbers together"
    raise PairError(
        f"the drafter in {folder} reads {taps} hidden states {read}, and the target's hidden_size is {width}; {INSTEAD}"
    )


def count_layers(file: Path, weights: Weights) -> int:
    numbers = {int(found[1]) for name in weights if (found := _LAYER.match(name))}
    if numbers != set(range(len(numbers))) or not numbers:
        raise ModelError(f"{file} holds blocks {sorted(numbers)}, and not all from the first one on; copy it again")
    return len(numbers)


def head_tokens(file: Path, weights: Weights, count: int, vocab: int) -> torch.Tensor:
    """The target's id of every entry of the head, i64[count]; takes the maps from the weights. Raises ModelError."""
    offsets, has_entry = (weights.pop(name, None) for name in MAPS)
    if offsets is None and count != vocab:
        raise ModelError(f"{file} lacks the map 'd2t', which says what the {count} entries of the head mean")
    shift = torch.zeros(count, dtype=torch.long) if offsets is None or count == vocab else offsets.long()
    refuse_shape(file, "d2t", shift, torch.Size([count]), "config.json")
    tokens = torch.arange(count) + shift
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocab or len(set(tokens.tolist())) != count:
        raise ModelError(f"{file}: 'd2t' does not name {count} different tokens below {vocab}")
    if has_entry is not None and count != vocab:
        refuse_shape(file, "t2d", has_entry, torch.Size([vocab]), "the target")
        if int(has_entry.bool().sum()) != count or not bool(has_entry.bool()[tokens].all()):
            raise ModelError(f"{file}: 'd2t' and 't2d' do not name the same tokens; copy it again")
    return tokens


def borrow_head(file: Path, weights: Weights, target: Ends, tokens: torch.Tensor, width: int) -> None:
    """Enter the target's head for `tokens` as the drafter's where that has none."""
    if "lm_head.weight" in weights:
        return
    given = target.config.get_text_config(decoder=True).hidden_size
    if given != width:
        raise PairError(
            f"the drafter of {file} has no head, is {width} wide, and the target's is {given} wide; {INSTEAD}"
        )
    head = part_of_head(target.get_output_embeddings(), tokens)
    if head.bias is not None:
        raise PairError(
            f"the drafter of {file} has no head, and the target's has a bias, which it does not know; {INSTEAD}"
        )
    weights["lm_head.weight"] = head.weight


def complete(net: torch.nn.Module) -> str:
    return f"{sum(weight.numel() for weight in net.parameters()):,} parameters, complete and finite"


@dataclass(frozen=True)
class Claims:
    """What a folder says of itself, each asked for when its rule is checked: a rule that fails leaves the others standing.

    about       in words. vocab_size  of its target. taps  names of the hidden states.
    head        its file, its weights under the network's names, and the entries of the head.
    parameters  reads the whole network.
    """

    about: Callable[[], str]
    vocab_size: Callable[[], int]
    taps: Callable[[], Sequence[str]]
    head: Callable[[], tuple[Path, Weights, int]]
    parameters: Callable[[], torch.nn.Module]


def rules_of(folder: Path, said: Mapping[str, Any], target: Ends, claims: Claims) -> Rules:
    """What must hold of an imported checkpoint and its target, by name."""
    config = target.config.get_text_config(decoder=True)

    def width() -> str:
        count = len(claims.taps())
        refuse_other_width(folder, claims.head()[1].get("fc.weight"), count, config.hidden_size)
        return f"{count} hidden states of size {config.hidden_size}"

    def maps() -> str:
        tokens = head_tokens(*claims.head(), config.vocab_size)
        return f"{len(tokens)} of the target's {config.vocab_size} tokens are drafted"

    return {
        "configuration": claims.about,
        "same vocabulary": lambda: same_vocabulary(folder, claims.vocab_size(), config.vocab_size),
        "same class of target": lambda: same_class(folder, said, target),
        "hidden states": lambda: ", ".join(claims.taps()),
        "same width": width,
        "token maps": maps,
        "weights": lambda: complete(claims.parameters()),
    }
