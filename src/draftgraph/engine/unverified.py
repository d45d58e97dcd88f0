"""The error for drafts that a rule does not verify: what was asked, and what the rule does verify."""

from __future__ import annotations

from draftgraph.draft.base import Drafter
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.structures.children import KINDS
from draftgraph.draft.structures.registry import STRUCTURES
from draftgraph.draft.structures.tree import Tree
from draftgraph.errors import OptionError
from draftgraph.verification.base import Rule

SHAPE = (3, 2, 1, 1)


def unverified(rule: Rule, structure: Structure, sampled: bool, own: Drafter | None) -> OptionError:
    """sampled  whether the drafts would have SAMPLED slots. own  the drafter that makes them, if it is the user's."""
    claim = f"rule {rule.name!r} verifies {rule.accepts}"
    if own is not None:
        says = f"structure={own.structure!r}, draws={tuple(own.draws)}"
        return OptionError(
            f"{claim}, and {own.name} says of its drafts: {says}. Write rule='layer'; or, if they are always of another kind, "
            "say so in the drafter, e.g. structure = dg.structures.Chain()"
        )
    if not sampled and structure.draws:
        return OptionError(
            f"{claim}; at temperature 0, or without a draft model, there is nothing to sample. Write rule='layer'"
        )
    same_shape = [tree for kind in KINDS if structure.shape and (tree := Tree(structure.shape, kind)) != structure]
    shapes = [tree for tree in same_shape if tree.draws and tree.verified_by(rule, True)]
    names = [each for each in STRUCTURES.values() if each.draws and each.verified_by(rule, True)]
    others = (Tree(SHAPE, kind) for kind in KINDS if kind != "fixed")
    possible: list[Structure] = [*shapes] or [*names, *[tree for tree in others if tree.verified_by(rule, True)][:1]]
    instead = " or ".join([*(f"structure={each}" for each in possible), "rule='layer'"])
    return OptionError(f"{claim}, not structure={structure}; write {instead}")
