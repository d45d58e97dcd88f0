"""What a structure is: which nodes a draft has, how each token is drawn, and how much of it there is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import accumulate
from operator import mul
from typing import ClassVar

import torch

from draftgraph.draft.graph import DraftGraph, EdgeSource, Refuses
from draftgraph.draft.structures.calibrate import Calibration
from draftgraph.draft.structures.children import expand
from draftgraph.draft.terms import Draw, Evaluate, Known, Limits
from draftgraph.errors import DraftError, DraftgraphError, OptionError
from draftgraph.types import ROOT, TokenTree
from draftgraph.verification.base import Rule

MIN_MASS = 0.02
"""A slot that the target will reach less often than this is not worth a row."""
DEEPEST = 8
"""Levels of a draft whose depth nobody asked for."""
EXAMPLE_NODES, EXAMPLE_DEPTH, EXAMPLE_VOCAB = 16, 3, 16


def nothing(graph: DraftGraph, node: int) -> bool:
    """No row is known before it is asked for."""
    return False


@dataclass(slots=True)  # not frozen: one is made in every round, and freezing takes longer than the rest
class Growth:
    """What a structure grows from in one round.

    limits       what the round may spend.
    evaluate     one drafter pass: evaluate(graph, nodes) -> rows f[n, V].
    draw         draw(laws f[k, V], depth, addresses) -> k tokens; None: every slot is FIXED.
    calibration  what slots are worth, as earlier rounds have shown.
    known        which rows cost no pass.
    sources      where copies may come from, for a draft; None: nowhere.
    context      the last committed tokens, which copies are looked up behind.
    refuses      which copies the request's grammar rules out; None: none.
    """

    limits: Limits
    evaluate: Evaluate
    draw: Draw | None = None
    calibration: Calibration = field(default_factory=Calibration)
    known: Known = nothing
    sources: Callable[[DraftGraph], Sequence[EdgeSource]] | None = None
    context: Sequence[int] = ()
    refuses: Refuses | None = None

    def expand(self, graph: DraftGraph, nodes: Sequence[int], k: int, children: str = "hybrid") -> list[list[int]]:
        """One drafter pass: give every node of a level up to k slots, FIXED ones where nothing is drawn.

        nodes     of one depth, of `graph`, or [ROOT].
        children  how the slots are drawn: a name in `children.KINDS`.

        Returns the new nodes below each of `nodes`. A node has fewer than k where its law has fewer tokens.
        """
        return expand(graph, nodes, self.evaluate, self.draw, k, children)


class Structure(ABC):
    """A structure of drafts. Subclass it as a frozen dataclass, and write `grow`.

    name    what statistics and traces call it; by default that of the class.
    filled  copies along edges fill the slots that growth leaves.
    copied  a draft of copies alone may take the place of one that a model would grow.
    width   continuations of a row that a draft of copies may hold side by side; None: as many as pay.
    """

    name: ClassVar[str]
    filled: ClassVar[bool] = False
    copied: ClassVar[bool] = False
    width: ClassVar[int | None] = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()

    @abstractmethod
    def grow(self, growth: Growth) -> DraftGraph:
        """The draft of one round: at most `limits.budget` nodes, none deeper than `limits.reach`.

        How many slots a node has may depend on tokens of upper levels and on rows; never on a token that is drawn in the
        same level or below (docs/layer_rule.md, A1).
        """

    @property
    def draws(self) -> bool:
        """Whether drafts have SAMPLED slots, where the temperature and the rule allow it."""
        return True

    @property
    def must_draw(self) -> bool:
        """Whether SAMPLED slots are the point of it, so that rules which read no laws are refused."""
        return False

    @property
    def needs_model(self) -> bool:
        """Whether only a draft model can follow it."""
        return True

    @property
    def best_first(self) -> bool:
        """Whether its FIXED drafts are the best of any shape, so that they may take the place of SAMPLED ones."""
        return False

    @property
    def narrows(self) -> bool:
        """Whether it drafts one path where `limits.narrow` says so."""
        return False

    @property
    def one_path(self) -> bool:
        """Whether all its drafts are one path."""
        return False

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Children per node for every depth, where the structure itself says how many; None: the budget decides."""
        return None

    @property
    def nodes_per_level(self) -> int | None:
        """Nodes per level under the automatic budget; None: prices decide."""
        return None

    def copies_ahead(self, priced: bool) -> int:
        """Copies that a drafter pass reads ahead. `priced`: all slots are FIXED, and passes must pay."""
        return 0

    def suited(self, rule: Rule) -> Structure:
        """This structure, with what it leaves open chosen for a rule."""
        return self

    def limits(self, budget: int, depth: int | None, reach: int) -> Limits:
        """The limits of a round with a fixed budget; depth  what was asked for, if anything."""
        return Limits(budget, depth or max(1, min(DEEPEST, (budget + 2) // 2)), reach, floor=MIN_MASS)

    def whole(self, reach: int) -> Limits | None:
        """The limits of a round that drafts the whole shape; None where there is no shape."""
        return None if self.shape is None else Limits(sum(accumulate(self.shape, mul)), len(self.shape), reach)

    def example(self, sampled: bool) -> TokenTree:
        """A small draft, grown from made-up rows: what a rule is asked about before any draft is made.

        sampled  False: a draft at temperature 0.

        It is grown once: a structure is frozen, and every configuration asks for it several times.
        Raises OptionError for a structure that fails, or that exceeds its limits.
        """
        grown: dict[bool, TokenTree] = vars(self).setdefault("_examples", {})
        if sampled not in grown:
            grown[sampled] = self._example(sampled)
        return grown[sampled]

    def _example(self, sampled: bool) -> TokenTree:
        whole = self.whole(EXAMPLE_DEPTH)
        limits = Limits(EXAMPLE_NODES, EXAMPLE_DEPTH, EXAMPLE_DEPTH) if whole is None else whole
        growth = Growth(limits, _made_up, _ranked if sampled and self.draws else None)
        try:
            tree = self.grow(growth).tree()
        except DraftgraphError:
            raise
        except Exception as error:
            raise OptionError(
                f"structure={self} failed while growing an example: {type(error).__name__}: {error}"
            ) from error
        if len(tree) > limits.budget or max(tree.depths, default=0) > limits.reach:
            raise OptionError(
                f"structure={self} grew {len(tree)} nodes, {max(tree.depths)} deep, where at most {limits.budget} nodes, "
                f"{limits.reach} deep, were asked for; stop at growth.limits.budget and growth.limits.reach"
            )
        return tree

    def verified_by(self, rule: Rule, sampled: bool) -> bool:
        """Whether a rule verifies such drafts."""
        try:
            rule.check(self.example(sampled))
        except DraftError:
            return False
        return True

    def __str__(self) -> str:
        """As in `structure=...`: the name, or the call where a parameter is not its default."""
        return repr(self) if _changed(self) else repr(self.name)

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in _changed(self).items())
        return f"dg.structures.{type(self).__name__}({told})"


def _changed(structure: Structure) -> dict[str, object]:
    """The parameters that are not at their defaults."""
    if not is_dataclass(structure):
        return {}
    values = {field.name: (getattr(structure, field.name), field.default) for field in fields(structure)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _made_up(graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
    """Rows f64[n, V] that depend on the last token alone: one token above one half, and enough beside it to branch."""
    law = torch.softmax(torch.arange(EXAMPLE_VOCAB, dtype=torch.float64) * -0.8, dim=0)
    graph.fed.update((node, node) for node in nodes if node != ROOT)
    return torch.stack([law if node == ROOT else law.roll(1 + graph.tokens[node]) for node in nodes])


def _ranked(laws: torch.Tensor, depth: int, addresses: Sequence[int]) -> list[int]:
    """Tokens in the place of draws: of every row the one whose rank is its address, among those with mass."""
    order = laws.argsort(dim=1, descending=True).tolist()
    counts = (laws > 0.0).sum(dim=1).tolist()
    return [row[address % count] for row, address, count in zip(order, addresses, counts, strict=True)]
