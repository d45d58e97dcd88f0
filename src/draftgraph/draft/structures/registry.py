"""The structures by name. To add one, write one file with a subclass of `Structure` and enter it in `_STRUCTURES`."""

from __future__ import annotations

from draftgraph.draft.structures.base import Structure
from draftgraph.draft.structures.chain import Chain
from draftgraph.draft.structures.comb import Comb
from draftgraph.draft.structures.graph import Graph
from draftgraph.draft.structures.gsd import GSD
from draftgraph.draft.structures.paths import Paths
from draftgraph.draft.structures.tree import Tree
from draftgraph.errors import OptionError, unknown_name

_STRUCTURES: tuple[Structure, ...] = (Graph(), Tree(), Comb(), Paths(), Chain(), GSD())
STRUCTURES: dict[str, Structure] = {structure.name: structure for structure in _STRUCTURES}
SUITING: tuple[Structure, ...] = (Graph(), Comb(), Paths(), Chain())
"""What "auto" may be: the first of them that the rule verifies."""
UNROLLED: tuple[Structure, ...] = (Chain(), Paths())
"""The same where every path is read as a sequence of its own: a tree would be read again and again in its first nodes."""


def get_structure(structure: str | Structure) -> Structure:
    """A structure by name, or the structure itself.

    Raises OptionError with the nearest name if it is unknown.
    """
    if isinstance(structure, Structure):
        return structure
    if isinstance(structure, type) and issubclass(structure, Structure):
        raise OptionError(f"structure={structure.__name__} is a class; write structure={structure.__name__}(...)")
    if not isinstance(structure, str) or structure not in STRUCTURES:
        raise unknown_name("structure", structure, (*STRUCTURES, "auto"))
    return STRUCTURES[structure]
