"""How one request drafts: as its engine, but for what the call asks otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from draftgraph.backends.base import CausalLM
from draftgraph.draft.base import Drafter
from draftgraph.engine.assemble import on_one_path, refuse_without_model
from draftgraph.engine.config import Config
from draftgraph.errors import OptionError


def own_config(config: Config, asked: Mapping[str, Any], drafter: Drafter, target: CausalLM) -> Config:
    """The engine's config changed by the options of a request.

    asked  fields of `Config` by name.

    Raises OptionError for what this engine cannot draft.
    """
    if not asked:
        return config
    own = on_one_path(config.with_options(**asked), target, drafter.model)
    if drafter.model is None and own.own_drafter is None:
        refuse_without_model(own)  # all that such drafters make is copies, in any structure
    elif own.resolved_structure.filled and not config.resolved_structure.filled:
        own = _without_copies(own)
    if asked.get("prediction") is not None:
        _refuse_prediction(own, drafter)
    return own


def _without_copies(own: Config) -> Config:
    """The config for a drafter that copies nothing, since the engine's structure takes no copies."""
    if own.structure == "auto":
        return own.with_options(structure="tree")
    raise OptionError(
        f"structure={own.resolved_structure} fills its spare slots with copies, and this engine's drafter keeps none; write "
        "structure='tree', or Engine.from_pretrained(..., structure='graph')"
    )


def _refuse_prediction(own: Config, drafter: Drafter) -> None:
    """Refuse predicted text where nothing is copied from it."""
    if own.budget == 0:
        raise OptionError("prediction is copied into drafts, and budget=0 drafts nothing; leave one of them out")
    structure = own.resolved_structure
    if structure.filled and not drafter.copies(structure):
        raise OptionError("prediction is copied along edges, and edges=() allow none; leave one of them out")
    if not drafter.copies(structure) or (drafter.model is not None and not structure.filled):
        raise OptionError(
            f"prediction is copied into the spare slots of drafts, and structure={own.resolved_structure} has none here; write "
            "structure='graph', in Engine.from_pretrained too if it was given there"
        )
