"""What a verification rule is, and how a verdict is drawn from the law that it states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch

from draftgraph.errors import DraftError
from draftgraph.sampling.laws import TargetLaws
from draftgraph.sampling.rng import Noise, Role
from draftgraph.types import LAWS, ROOT, STRUCTURES, Outcome, TokenTree, Verdict
from draftgraph.verification.rows import NARROW_SUM, running_sums


@dataclass(frozen=True)
class Accepts:
    """The drafts for which a rule is what it claims to be.

    laws        kinds of slots, of `types.LAWS`.
    structures  kinds of drafts, of `types.STRUCTURES`; naming one includes its special cases, which stand before it there.
    """

    laws: frozenset[str]
    structures: frozenset[str]

    def structure(self, name: str) -> bool:
        """Whether drafts of a structure are accepted."""
        return STRUCTURES.index(name) <= max(STRUCTURES.index(mine) for mine in self.structures)

    def __str__(self) -> str:
        laws = ", ".join(name for name in LAWS if name in self.laws)
        widest = next(name for name in reversed(STRUCTURES) if name in self.structures)
        return f"{laws} slots on {_DRAFTS[widest]}"


class Head(Protocol):
    """What a rule reads the target's hidden states with. It was made for one target.

    taps   names of the hidden states, see `CausalLM.forward`.
    probe  tokens whose hidden states tell the head's own target from others.
    """

    @property
    def taps(self) -> Sequence[str]: ...
    @property
    def probe(self) -> Sequence[int]: ...

    def refuse_other_target(self, states: Mapping[str, torch.Tensor]) -> None:
        """Raise PairError if these hidden states of the probe, f[rows, width] by name, are not those of its own target."""
        ...


ACCEPT, BONUS = Role.ACCEPT, Role.BONUS
EVERY_LAW, EVERY_STRUCTURE = frozenset(LAWS), frozenset(STRUCTURES)


class Rule(ABC):
    """A verification rule: a pure function from (draft, target rows) to the law of the verdict. No model, no cache."""

    name: ClassVar[str]
    source: ClassVar[str]
    lossless: ClassVar[bool]
    accepts: ClassVar[Accepts]
    uses_laws: ClassVar[bool] = True
    """False if the verdict reads tokens only, so that nothing is gained by drafting SAMPLED slots."""
    position_noise: ClassVar[bool] = False
    """True if the verdict is drawn with noise that belongs to output positions (and may be shared with the drafter)."""
    continues: ClassVar[bool] = False
    """True if the rule also sets the law of later positions, so that a round cannot start from the plain target."""
    greedy: ClassVar[bool] = False
    """True if the rule is defined at temperature 0 only."""
    head: Head | None = None
    """What the rule reads hidden states with; None if it reads none. `seeing` is then given them."""
    reads_confidence: ClassVar[bool] = False
    """True if the verdict asks how sure the drafter was of its tokens (`TokenTree.confidence`)."""
    longest_match: ClassVar[bool] = False
    """True if the verdict is the longest match wherever the target's laws are point masses, whatever was drafted and how.

    A subclass with an outcome or a verdict of its own has to say so again."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "longest_match" not in vars(cls) and {"outcome", "verdict"} & vars(cls).keys():
            cls.longest_match = False

    def follows_drafts(self, temperature: float) -> bool:
        """Whether another draft gives another text for the same seed."""
        return not (self.lossless and (temperature == 0 or self.position_noise))

    @abstractmethod
    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        """The law of the verdict.

        tree  the draft.
        p     f[N + 1, V], target law after warping: row 0 at the root, row i + 1 at node i.
        """

    def verdict(self, tree: TokenTree, p: torch.Tensor, noise: Noise, length: int) -> Verdict:
        """One draw from `outcome`, with the fresh noise of the round that starts at committed length `length`."""
        return draw(tree, self.outcome(tree, p), noise, length)

    def seeing(self, scores: torch.Tensor, taps: Mapping[str, torch.Tensor]) -> Rule:
        """The rule for the draft of one round.

        scores  f[N + 1, V], the target's logits after everything that depends on the prefix: -inf for what is ruled out.
        taps    f[N + 1, width] by name, the hidden states that `head` asks for: row 0 at the root, row i + 1 at node i.
        """
        return self

    def decide(self, tree: TokenTree, laws: TargetLaws, noise: Noise, length: int) -> Verdict:
        """`verdict` for the laws of a round, which reads no row where they are point masses and the rule allows it."""
        if laws.choices is not None and self.longest_match:
            return longest_match(tree, laws.choices)
        return self.verdict(tree, laws.p, noise, length)

    def check(self, tree: TokenTree) -> None:
        """Refuse, by name, a draft that the rule is not made for.

        Raises DraftError.
        """
        if not self.accepts.structure(tree.structure):
            raise DraftError(
                f"rule {self.name!r} verifies {self.accepts}, and this draft {_SHAPES[tree.structure]}; "
                "use rule 'layer' or 'walk'"
            )
        for kind in sorted(tree.kinds - self.accepts.laws):
            raise DraftError(
                f"rule {self.name!r} cannot use {kind} slots (it verifies {self.accepts}); use rule 'layer' or 'walk'"
            )


_DRAFTS = {"chain": "chains", "paths": "i.i.d. paths", "tree": "trees", "levels": "trees of any shape"}
_SHAPES = {
    "chain": "is a chain",
    "paths": "branches",
    "tree": "branches",
    "levels": "branches, with a shape that looked across branches",
}


def draw(tree: TokenTree, outcome: Outcome, noise: Noise, length: int) -> Verdict:
    """Draw the end of the accepted path, then the bonus token, by inversion of two fresh uniforms."""
    end = place_of(outcome.stop, noise.uniform(length, ACCEPT))
    token = sample(outcome.bonus(end), noise.uniform(length, BONUS))
    return Verdict(tuple(tree.path(end - 1)), token, outcome.masses(tree), outcome.p, outcome.q)


def longest_match(tree: TokenTree, choices: Sequence[int]) -> Verdict:
    """Follow the target's choices down the tree, `choices[0]` at the root and `choices[i + 1]` at node i.

    Of siblings with the same token the first is followed.
    """
    path: list[int] = []
    masses = [0.0] * len(tree)
    last = ROOT
    for node, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True)):  # parents come first
        if parent == last and token == choices[parent + 1]:
            path.append(node)
            masses[node] = 1.0
            last = node
    return Verdict(tuple(path), choices[last + 1], masses)


def place_of(masses: Sequence[float], quantile: float) -> int:
    """The entry at a quantile of masses, which need not sum to one. Never one of mass zero."""
    cumulative = list(accumulate(masses))
    place = bisect_right(cumulative, quantile * cumulative[-1])
    return place if place < len(masses) else max(i for i, mass in enumerate(masses) if mass > 0.0)


def sample(law: torch.Tensor, quantile: float) -> int:
    """The token at a quantile of `law` (f[V], need not be normalised). Never a token of mass zero."""
    if law.is_cpu:
        place = _place(running_sums(law), quantile)
    else:
        (place,) = places_of(law.cumsum(dim=0, dtype=torch.float64)[None], [quantile])
    return place if place < law.shape[0] else _last(law)


def sample_rows(laws: torch.Tensor, quantiles: Sequence[float]) -> list[int]:
    """One token from each row of laws f[k, V], at the row's quantile in [0, 1). Never a token of mass zero."""
    if laws.is_cpu and laws.shape[1] > NARROW_SUM:  # the sums of all wide rows would be new memory in every round
        return [sample(row, quantile) for row, quantile in zip(laws, quantiles, strict=True)]
    cumulative = laws.cumsum(dim=1, dtype=torch.float64)
    if cumulative.is_cpu:
        places = [_place(row, quantile) for row, quantile in zip(cumulative.numpy(), quantiles, strict=True)]
    else:
        places = places_of(cumulative, quantiles)
    return [place if place < laws.shape[1] else _last(laws[i]) for i, place in enumerate(places)]


def _place(cumulative: npt.NDArray[np.float64], quantile: float) -> int:
    """The place of a quantile in running sums f64[V]."""
    entries: Sequence[float] = memoryview(cumulative)  # type: ignore[arg-type]  # which it can be, and reading is faster
    return bisect_right(entries, quantile * entries[-1])


def _last(law: torch.Tensor) -> int:
    """The last token of law f[V] that has mass."""
    return int(law.nonzero()[-1])


def places_of(cumulative: torch.Tensor, quantiles: Sequence[float]) -> list[int]:
    """The place of a quantile in each row of running sums f64[k, V], where they are; V if it is behind all of them."""
    wanted = torch.tensor(quantiles, dtype=torch.float64, device=cumulative.device)[:, None] * cumulative[:, -1:]
    places: list[int] = torch.searchsorted(cumulative, wanted, right=True)[:, 0].tolist()
    return places
