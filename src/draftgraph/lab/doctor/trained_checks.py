"""Checks of trained drafters, which are models beside their target only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from draftgraph.backends.check import Check
from draftgraph.backends.choice import Loading
from draftgraph.backends.load import read_config
from draftgraph.backends.trained import Trained, find_trained
from draftgraph.errors import DraftgraphError


def trained_of(source: str | Path) -> tuple[Trained | None, list[Check]]:
    """The trained drafter of a folder or hub name, if it is one; and a failed check, if it is of a kind that is not read."""
    try:
        return find_trained(source), []
    except DraftgraphError as error:
        return None, [Check("configuration", "fail", str(error), error=type(error))]


def checks_beside(trained: Trained, target: PreTrainedModel | None) -> list[Check]:
    """Every rule of a drafter and its target; None where that could not be loaded."""
    if target is None:
        return [Check("configuration", "not checked", "the target could not be loaded")]
    return trained.checks(target)


def with_taps(loading: Loading, target: str | Path, trained: Trained | None) -> Loading:
    """How a target is loaded, so that it gives its trained drafter what that reads."""
    if trained is None:
        return loading
    try:
        layers = read_config(target, loading.trusted).get_text_config(decoder=True).num_hidden_layers
        return replace(loading, taps=tuple(dict.fromkeys(trained.taps(layers))))
    except DraftgraphError:
        return loading  # the checks say why
