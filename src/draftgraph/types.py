"""The nouns of verification: token tree, slot laws, outcome, verdict. Frozen; no model, no transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from draftgraph.errors import DraftError

if TYPE_CHECKING:
    import torch  # named only: the terminal draws trees without it

FIXED = -1
"""`law_row` of a slot whose token is a point mass: deterministic, merged, retrieved or already looked at."""
ROOT = -1
"""`parents` entry of a node that continues the committed text directly."""
LAWS = ("fixed", "sampled", "shared")
"""Kinds of slots: a point mass; one fresh draw from a recorded law; one such draw under several parents."""
STRUCTURES = ("chain", "paths", "tree", "levels")
"""Kinds of drafts, each a special case of the next: one path; SAMPLED paths that part at the root; branches whose shape looks
at their own tokens only; branches whose shape looks at all upper layers."""


@dataclass(frozen=True)
class TokenTree:
    """A draft as the target sees it: every node is one token with its own prefix and its own law.

    tokens   N token ids.
    parents  N indices of earlier nodes (`parents[i] < i`), or ROOT.
    law_row  N rows of `laws` that the token was freshly drawn from (a SAMPLED slot), or FIXED.
    laws     f[G, V], the very tensors that were drawn from (rows sum to one over V); None when all slots are FIXED.

    draws    N nodes: the first node of the same depth that hangs on the same random draw, itself for a draw of its own
             (None: every SAMPLED slot is a draw of its own). One draw may have several parents: a merge that keeps its law.
    across   True if the shape below one branch looked at tokens of another, as growth level by level does. Rules that need
             branches which were drawn alike cannot use such a draft.
    confidence  N numbers from 0 to 1: by how much the drafter preferred the token to any other. None: it did not say. No rule
             that is lossless reads them.

    A tree cannot be built without a law for every slot. The slots of a node are verified in the order of `slots`.
    """

    tokens: Sequence[int]
    parents: Sequence[int]
    law_row: Sequence[int]
    laws: torch.Tensor | None = None
    draws: Sequence[int] | None = None
    across: bool = False
    confidence: Sequence[float] | None = None

    def __post_init__(self) -> None:
        n = len(self.tokens)
        if len(self.parents) != n or len(self.law_row) != n:
            raise DraftError(
                f"a draft of {n} tokens needs {n} parents and {n} laws; got {len(self.parents)} parents and "
                f"{len(self.law_row)} laws. Give every slot a law: FIXED (-1) or the row of `laws` it was drawn from."
            )
        rows = 0 if self.laws is None else self.laws.shape[0]
        for i, (parent, row) in enumerate(zip(self.parents, self.law_row, strict=True)):
            if not ROOT <= parent < i:
                raise DraftError(
                    f"node {i} has parent {parent}; a parent is -1 (the root) or an earlier node, so that there are no cycles"
                )
            if not FIXED <= row < rows:
                raise DraftError(f"node {i} names law row {row}, but the draft has {rows} law rows (-1 is FIXED)")
        for i, first in enumerate(self.draws or ()):
            self._check_draw(i, first)
        if self.confidence is not None and len(self.confidence) != n:
            raise DraftError(f"a draft of {n} tokens needs {n} numbers of confidence; got {len(self.confidence)}")

    def _check_draw(self, node: int, first: int) -> None:
        assert self.draws is not None
        if len(self.draws) != len(self):
            raise DraftError(f"a draft of {len(self)} tokens needs {len(self)} draws; got {len(self.draws)}")
        if not 0 <= first <= node or self.draws[first] != first:
            raise DraftError(f"node {node} shares the draw of node {first}; name the first node that hangs on the draw")
        same = all(values[node] == values[first] for values in (self.tokens, self.law_row, self.depths))
        if first != node and (not same or self.law_row[node] == FIXED):
            raise DraftError(
                f"node {node} cannot share the draw of node {first}: one draw is one token from one law row at one depth"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def depths(self) -> list[int]:
        """Depth of every node; a child of the root has depth 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return depths

    @cached_property
    def children(self) -> list[list[int]]:
        """`children[0]` of the root, `children[i + 1]` of node i: node indices in verification order."""
        children: list[list[int]] = [[] for _ in range(len(self) + 1)]
        for node, parent in enumerate(self.parents):
            children[parent + 1].append(node)
        return children

    @cached_property
    def slots(self) -> list[list[int]]:
        """`children` in the order in which they are verified: SAMPLED slots by index, then FIXED ones by index."""
        return [sorted(nodes, key=lambda node: self.law_row[node] == FIXED) for nodes in self.children]

    @property
    def is_chain(self) -> bool:
        return all(parent == i - 1 for i, parent in enumerate(self.parents))

    @cached_property
    def structure(self) -> str:
        """The narrowest of STRUCTURES that describes the draft."""
        if self.is_chain:
            return "chain"
        if self.across:
            return "levels"
        single = all(len(nodes) <= 1 for nodes in self.children[1:])
        return "paths" if single and FIXED not in self.law_row else "tree"

    @cached_property
    def kinds(self) -> set[str]:
        """The kinds of slot laws in the draft, of LAWS."""
        kinds = {"fixed" if row == FIXED else "sampled" for row in self.law_row}
        shared = self.draws is not None and any(first != node for node, first in enumerate(self.draws))
        return kinds | {"shared"} if shared else kinds

    def path(self, node: int) -> list[int]:
        """Node indices from a child of the root down to `node`; empty for the root (-1)."""
        nodes: list[int] = []
        while node != ROOT:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def path_tokens(self, node: int) -> list[int]:
        return [self.tokens[i] for i in self.path(node)]


@dataclass(frozen=True)
class Outcome:
    """The exact law of a rule's verdict given the draft.

    stop   N + 1 probabilities (they sum to one): the accepted path ends at the root (entry 0) or at node i (entry i + 1).
    bonus  bonus(i) -> f[V], the law of the bonus token given that the path ends at entry i, up to a constant factor.
    p, q   as in `Verdict`.

    A rule states this law; sampling from it (`verification.base.draw`) and proving it (`lab.prove.exact`) both read it, so what
    is proven is what runs.
    """

    stop: Sequence[float]
    bonus: Callable[[int], torch.Tensor]
    p: Sequence[float] = field(default=(), compare=False)
    q: Sequence[float | None] = field(default=(), compare=False)

    def masses(self, tree: TokenTree) -> list[float]:
        """Per node, the probability that the accepted path passes through it: it stops there or below."""
        masses = list(self.stop[1:])
        for node in range(len(tree) - 1, -1, -1):
            if tree.parents[node] != ROOT:
                masses[tree.parents[node]] += masses[node]
        return masses


@dataclass(frozen=True)
class Verdict:
    """What a rule decided: the accepted nodes from the root down, and the bonus token that follows them.

    masses  per node, the probability with which the rule let the accepted path pass through it, given the draft.
    p, q    per node, what the target and the law that its token was drawn from say of the token, None for a FIXED slot; () where
            the rule has not read them.
    """

    path: tuple[int, ...]
    token: int
    masses: Sequence[float] = ()
    p: Sequence[float] = field(default=(), compare=False, repr=False)
    q: Sequence[float | None] = field(default=(), compare=False, repr=False)
