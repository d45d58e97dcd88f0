"""Options of earlier versions, which are parameters of structures now: they go on working, and say what to write."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from draftgraph.draft.structures.base import Structure
from draftgraph.draft.structures.chain import Chain
from draftgraph.draft.structures.graph import Graph
from draftgraph.draft.structures.gsd import GSD
from draftgraph.draft.structures.paths import Paths
from draftgraph.draft.structures.registry import get_structure
from draftgraph.draft.structures.sizes import child_counts
from draftgraph.draft.structures.tree import Tree
from draftgraph.errors import OptionError, brief
from draftgraph.verification.base import Rule
from draftgraph.verification.registry import get_rule

OLD_OPTIONS = {"branching": None, "children": "auto", "gsd_match": 1, "read_ahead": "auto"}
"""Names, and the values that asked for nothing."""
Configuration = TypeVar("Configuration")


def reads_old_options(config: type[Configuration]) -> type[Configuration]:
    """Let a dataclass with the fields `structure` and `rule` be made with options of earlier versions."""
    init: Any = config.__init__
    names = [field.name for field in fields(config)]  # type: ignore[arg-type]

    @functools.wraps(init)
    def made(self: Any, *values: Any, **options: Any) -> None:
        if OLD_OPTIONS.keys() & options.keys():
            options = translated(dict(zip(names, values, strict=False)) | options, "auto", "auto")
            values = ()
        init(self, *values, **options)

    config.__init__ = made  # type: ignore[method-assign]
    return config


def translated(options: dict[str, Any], structure: str | Structure, rule: str | Rule) -> dict[str, Any]:
    """`options` in today's names. structure, rule  what holds where they do not say it themselves.

    Warns of every old option (DeprecationWarning, with what to write). Raises OptionError where they contradict each other.
    """
    given = {name: options[name] for name in OLD_OPTIONS if name in options}
    if not given:
        return options
    asked = options.get("structure", structure)
    said = structure_of(asked, options.get("rule", rule), **given)
    old = ", ".join(f"{name}={brief(value)}" for name, value in given.items())
    if asked != "auto" and said == get_structure(asked):
        said = asked
    instead = "leave it out" if said == asked else f"write structure={said}"
    warnings.warn(f"{old}: a parameter of structures now; {instead}", DeprecationWarning, stacklevel=_outside())
    return {name: value for name, value in options.items() if name not in given} | {"structure": said}


def structure_of(
    structure: str | Structure,
    rule: str | Rule,
    branching: Sequence[int] | None = None,
    children: str = "auto",
    gsd_match: int = 1,
    read_ahead: int | str = "auto",
) -> str | Structure:
    """What a structure and the options beside it say together, as one structure."""
    asked = None if isinstance(structure, str) and structure == "auto" else get_structure(structure)
    kind = type(asked)
    if branching is not None:
        return _shaped(kind, child_counts(branching), children)
    if Tree((1,), children).children != "auto":
        return _filled_with(asked, children)
    order, ahead = GSD(gsd_match), Graph(read_ahead)
    if order != GSD():
        if kind is not GSD:
            raise OptionError(f"gsd_match={order.match} is for structure='gsd'; write structure={order}")
        return order
    if ahead != Graph():
        if kind is Graph or (asked is None and (ahead.needs_model or ahead.verified_by(_rule(rule), True))):
            return ahead
        if ahead.needs_model:
            raise OptionError(
                f"read_ahead={read_ahead} reads the copies of structure='graph', and structure={asked} has none; write "
                f"structure={ahead}, or leave it out"
            )
    return structure


def _rule(rule: str | Rule) -> Rule:
    return get_rule("layer" if isinstance(rule, str) and rule == "auto" else rule)


def _shaped(kind: type, branching: tuple[int, ...], children: str) -> Structure:
    tree = Tree(branching, children)
    if kind in (type(None), Tree):
        return tree
    if kind is Chain:
        if set(branching) != {1}:
            raise OptionError(f"structure='chain' cannot branch as branching={branching} asks; write structure={tree}")
        return tree if children == "fixed" else Chain(len(branching))
    if kind is Paths:
        if set(branching[1:]) - {1}:
            raise OptionError(
                f"paths part at the root only, not as branching={branching} asks; write "
                f"structure={Paths(branching[0], len(branching))!r}, or structure={tree}"
            )
        return _filled_with(Paths(branching[0], len(branching)), children)
    raise OptionError(f"branching={branching} is the shape of a tree; write structure={tree}")


def _filled_with(structure: Structure | None, children: str) -> Structure:
    if isinstance(structure, Paths):
        if children not in ("auto", "with_replacement"):
            raise OptionError(
                f"structure='paths' has children='with_replacement', not {children!r}; write structure='tree'"
            )
        return structure
    shape = None if structure is None else structure.shape
    return replace(structure, children=children) if isinstance(structure, Tree) else Tree(shape, children)


def _outside() -> int:
    """The stack level, for `warnings.warn` where this is called, of the first caller outside the package."""
    level, frame = 1, sys._getframe(1)
    package = __name__.partition(".")[0]
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in (
        package,
        "dataclasses",
    ):
        level, frame = level + 1, frame.f_back
    return level
