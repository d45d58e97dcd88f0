"""A small example of every kind of draft, to ask a rule whether it verifies drafts like that before any is made."""

from __future__ import annotations

import torch

from draftgraph.errors import DraftError
from draftgraph.types import FIXED, ROOT, TokenTree
from draftgraph.verification.base import Rule

CHILDREN = {
    "hybrid": ((0, FIXED), (1, 1)),
    "with_replacement": ((0, 0), (1, 0)),
    "without_replacement": ((0, 0), (1, 1)),
    "spine": ((1, 0), (0, FIXED)),
    "systematic": ((0, FIXED), (1, 0), (2, 1)),
    "fixed": ((0, FIXED), (1, FIXED)),
}
"""What the children of a node can be (draft/structures/children.py), by example: (token, FIXED or the row of LAWS it is from)."""
SAMPLED_CHILDREN = tuple(kind for kind in CHILDREN if kind != "fixed")
"""From the best one on, where a rule leaves the choice."""
LAWS = torch.tensor([[0.4, 0.3, 0.3], [0.0, 0.5, 0.5]], dtype=torch.float64)


def takes(rule: Rule, structure: str, children: str, grown: bool) -> bool:
    """Whether a rule verifies drafts of a structure (of `Config`) with some kind of children.

    grown  True: `structure` says what the children are, and "graph" and "tree" grow level by level.
    """
    try:
        rule.check(example(structure, children, grown))
    except DraftError:
        return False
    return True


def example(structure: str, children: str, grown: bool) -> TokenTree:
    """A draft of a structure; children="fixed" is the one that has no SAMPLED slots, whatever the structure."""
    if children != "fixed" and grown:
        children = {"gsd": "fixed", "comb": "spine", "paths": "with_replacement"}.get(structure, "hybrid")
    if structure == "chain":
        return TokenTree([0], [ROOT], [FIXED if children == "fixed" else 0], LAWS)
    siblings = CHILDREN[children]
    below = siblings[:1] if structure == "paths" else siblings
    slots = [(ROOT, *slot) for slot in siblings] + [(node, *slot) for node in range(len(siblings)) for slot in below]
    parents, tokens, law_row = zip(*slots, strict=True)
    across = grown and structure in ("graph", "tree") and children != "fixed"
    return TokenTree(tokens, parents, law_row, LAWS, across=across)
