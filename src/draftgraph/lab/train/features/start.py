"""Going on from a drafter that is there: its weights in the place of fresh ones, so that little text teaches it new kinds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from draftgraph.backends.feature_files import OwnLayout, read_features
from draftgraph.backends.features import OwnNetwork, TrainedNetwork, parameters_of
from draftgraph.backends.trained import find_trained
from draftgraph.errors import ModelError
from draftgraph.lab.train.features.recipe import Recipe, Stage

PEAK = 1e-3
"""Learning rate at its highest: half of what fresh weights get."""
TOLD = ("answer_tokens", "settings", "start")
"""What a card says of the drafter that was gone on from."""


def continued(recipe: Recipe) -> Recipe:
    """The recipe for weights that have been trained: its last stage alone, with a lower peak."""
    last: Stage = replace(recipe.stages[-1], share=1.0)
    return replace(recipe, stages=(last,), peak=min(PEAK, recipe.peak))


@torch.no_grad()
def go_on_from(folder: str | Path, net: TrainedNetwork, target: PreTrainedModel) -> None:
    """Copy the weights of the drafter in a folder. Its head may have other tokens: those are the target's, and not trained.

    Raises ModelError for a folder that holds another network, PairError for a drafter of another target.
    """
    if not isinstance(net, OwnNetwork):
        raise ModelError(
            f"--start {folder} is for networks of our own layout, and this one is kept in another; leave it out, or write "
            "--network own"
        )
    if not Path(folder).exists():
        raise ModelError(
            f"--start {folder}: there is no such folder; write one that `draftgraph train` wrote, or smollm2"
        )
    trained = find_trained(folder)
    if trained is None or trained.layout.name != OwnLayout.name:
        held = "no drafter" if trained is None else f"a drafter of the layout {trained.layout.name}"
        raise ModelError(
            f"--start {folder} holds {held}, and one is needed that `draftgraph train` wrote for this network; leave it out"
        )
    found, _ = read_features(trained.folder, target)
    for name, here, asked in (("form", found.form, net.form), ("taps", found.shape.taps, net.shape.taps)):
        if here != asked:
            raise ModelError(
                f"the drafter in {folder} is another network: its {name} is {_told(here)}, and {_told(asked)} was asked for; "
                "write the --network that it was trained with, or leave --start out"
            )
    weights = dict(parameters_of(found))
    for name, weight in parameters_of(net):
        weight.copy_(weights[name])


def about(folder: Path) -> dict[str, Any]:
    """What the card of a drafter says of its training; nothing where it has none."""
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        return {"folder": folder.name, **{name: card[name] for name in TOLD if name in card}}
    except (OSError, ValueError, TypeError):
        return {"folder": folder.name}


def _told(said: Sequence[str] | None) -> str:
    return "that of --network own" if said is None else ", ".join(said)
