"""The networks that lie in folders of our own layout, and which of them a form is."""

from __future__ import annotations

from pathlib import Path

from transformers import PretrainedConfig

from draftgraph.backends.cross import CROSS, TOKENS, CrossNet
from draftgraph.backends.features import FeatureNet, FeatureShape, OwnNetwork
from draftgraph.backends.fused import FusedNet
from draftgraph.backends.fusion import FUSIONS
from draftgraph.backends.heads import HEADS
from draftgraph.backends.taps import HELD, PREFIX
from draftgraph.errors import ModelError, PairError

Form = tuple[str, str]
"""How a network joins token and feature, and its heads, by their names."""


def make_network(form: Form | None, shape: FeatureShape, config: PretrainedConfig) -> OwnNetwork:
    """A network of random weights. form  None: the one of `features.py`. Raises ModelError if the target has no place for it."""
    if form is None:
        return FeatureNet(shape, config)
    return (CrossNet if reads_keys(form) else FusedNet)(shape, config, *form)


def reads_keys(form: Form | None) -> bool:
    """Whether it reads keys and values of a layer, not hidden states."""
    return form is not None and form[0] in (CROSS, TOKENS)


def refuse_unknown_form(file: Path, form: Form | None, taps: tuple[str, ...]) -> None:
    """Raise ModelError for a form that is not known, or does not read what the file says."""
    if form is None:
        return
    joins, heads = [*FUSIONS, CROSS, TOKENS], ["one"] if reads_keys(form) else [*HEADS]
    if form[0] not in joins or form[1] not in heads:
        raise ModelError(
            f"{file} says form {list(form)}, which is not known: the first is one of {', '.join(joins)}, the second one of "
            f"{', '.join(heads)}; use the draftgraph that wrote it"
        )
    kinds = [HELD[0], HELD[1]] if reads_keys(form) else [PREFIX]
    if [tap[: tap.find(":") + 1] for tap in taps] != kinds:
        raise ModelError(f"{file} is broken: a network of form {list(form)} does not read taps {list(taps)}")


def refuse_missing_taps(folder: Path, taps: tuple[str, ...], layers: int) -> None:
    """Raise PairError for taps that a target with `layers` layers does not have."""
    known = {f"{PREFIX}{number}" for number in range(layers + 1)}
    known |= {f"{part}{number}" for part in HELD for number in range(layers)}
    for tap in taps:
        if tap not in known:
            raise PairError(
                f"the drafter in {folder} reads tap {tap!r}, and the target has '{PREFIX}0' to '{PREFIX}{layers}', and keys and "
                f"values of layers 0 to {layers - 1}"
            )
