"""The structures of drafts: `structure="tree"`, or `structure=draftgraph.structures.Tree((3, 2, 1, 1))` with parameters.

To write one of your own, subclass `Structure` as a frozen dataclass, and write `grow` (examples/own_structure.py).
"""

from draftgraph.draft.structures.base import Growth, Structure
from draftgraph.draft.structures.chain import Chain
from draftgraph.draft.structures.comb import Comb
from draftgraph.draft.structures.graph import Graph
from draftgraph.draft.structures.gsd import GSD
from draftgraph.draft.structures.paths import Paths
from draftgraph.draft.structures.tree import Tree

__all__ = ["GSD", "Chain", "Comb", "Graph", "Growth", "Paths", "Structure", "Tree"]
