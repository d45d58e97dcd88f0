"""AutoJudge, a rule that is not lossless: drafted tokens that the target would not write are forgiven if a trained head finds
them unimportant, that is, if the answer is likely to be right all the same.

The head reads the target's hidden states, so that the rule is defined for the rounds of an engine. It is a greedy rule: the
target's choice is its best token. `draftgraph judge mine` finds which tokens matter, and `draftgraph judge fit` makes the head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from draftgraph.errors import DraftError, OptionError, PairError, brief
from draftgraph.sampling.laws import TargetLaws
from draftgraph.sampling.rng import Noise
from draftgraph.types import Outcome, TokenTree, Verdict
from draftgraph.values import as_number
from draftgraph.verification.base import EVERY_LAW, EVERY_STRUCTURE, Accepts, Rule

MOST_OFF = 0.25
"""Hidden states of the probe may be off by this share of their spread: rounding to bfloat16 makes less, another model more."""


@dataclass(frozen=True, eq=False)
class JudgeHead:
    """P(important) = σ(weight · (x − mean) / scale + bias), x the hidden states before and behind the drafted token.

    tap      name of the target's hidden state, of `width` numbers. It is what the target's own head reads.
    weight, mean, scale  f64[2 · width]: the row that the token follows, then the row behind the token.
    bias     a number.
    probe    token ids.
    known    f32[len(probe), width], the target's hidden states of the probe.
    """

    tap: str
    weight: torch.Tensor
    bias: float
    mean: torch.Tensor
    scale: torch.Tensor
    probe: Sequence[int]
    known: torch.Tensor

    @property
    def taps(self) -> Sequence[str]:
        return (self.tap,)

    @property
    def width(self) -> int:
        return self.known.shape[1]

    def importance(self, before: torch.Tensor, behind: torch.Tensor) -> list[float]:
        """P(important) of k drafted tokens. before, behind  f[k, width], of the rows above and of the tokens themselves."""
        rows = torch.cat([before, behind], dim=1).double().cpu()
        scores: torch.Tensor = ((rows - self.mean) / self.scale) @ self.weight + self.bias
        found: list[float] = scores.sigmoid().tolist()
        return found

    def refuse_other_target(self, states: Mapping[str, torch.Tensor]) -> None:
        """Raise PairError for hidden states of another width, or of another model."""
        given = states[self.tap].float().cpu()
        if given.shape[1] != self.width:
            raise PairError(
                f"the judge was fitted to hidden states of {self.width} numbers, and the target's have {given.shape[1]}; fit "
                "one for this target (draftgraph judge), or leave it out"
            )
        spread = float((self.known - self.known.mean(dim=0)).norm())
        off = float((given - self.known).norm()) / max(spread, 1e-12)
        if not off <= MOST_OFF:
            raise PairError(
                f"the judge was fitted to another target: {self.tap} of {len(self.probe)} known tokens is off by {off:.0%} of "
                "its spread; fit one for this target (draftgraph judge), or leave it out"
            )


@dataclass(frozen=True)
class _Seen:
    """What the rule sees of a round: scores f[N + 1, V] and hidden states f[N + 1, width], of the root and of every node."""

    scores: torch.Tensor
    states: torch.Tensor


class JudgeRule(Rule):
    """Follow the target's choices, and drafted tokens whose P(important) is below the threshold.

    At every accepted node the target's own choice is followed if it was drafted. Else the least important of the drafted tokens
    is forgiven, if its P(important) is below `threshold` and the scores do not rule it out. Else the target's choice ends the
    path. A larger threshold accepts the same path, or one that goes on from it; with threshold 0 the rule is the longest match.
    So it is without a head.
    """

    name: ClassVar[str] = "judge"
    source: ClassVar[str] = "AutoJudge, arXiv 2504.20039"
    lossless: ClassVar[bool] = False
    accepts: ClassVar[Accepts] = Accepts(EVERY_LAW, EVERY_STRUCTURE)
    uses_laws: ClassVar[bool] = False
    greedy: ClassVar[bool] = True

    def __init__(self, head: JudgeHead | None = None, threshold: float = 0.0) -> None:
        number = as_number(threshold)
        if number is None or not 0.0 <= number <= 1.0:
            raise OptionError(f"threshold={brief(threshold)} is not possible; write a probability from 0 to 1")
        self.head: JudgeHead | None = head
        self.threshold = number
        self._seen: _Seen | None = None

    def seeing(self, scores: torch.Tensor, taps: Mapping[str, torch.Tensor]) -> JudgeRule:
        if self.head is None:
            return self
        rule = copy.copy(self)
        rule._seen = _Seen(scores, taps[self.head.tap])
        return rule

    def decide(self, tree: TokenTree, laws: TargetLaws, noise: Noise, length: int) -> Verdict:
        if laws.choices is None:
            return self.verdict(tree, laws.p, noise, length)
        path = self._path(tree, laws.choices)
        masses = [0.0] * len(tree)
        for node in path:
            masses[node] = 1.0
        return Verdict(tuple(path), laws.choices[path[-1] + 1 if path else 0], masses)

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        choices: list[int] = p.argmax(dim=1).tolist()  # the first of several
        path, stop = self._path(tree, choices), [0.0] * (len(tree) + 1)
        stop[path[-1] + 1 if path else 0] = 1.0
        return Outcome(stop, lambda row: torch.nn.functional.one_hot(torch.tensor(choices[row]), p.shape[1]).to(p))

    def _path(self, tree: TokenTree, choices: Sequence[int]) -> list[int]:
        """The accepted nodes. choices  the target's, `choices[0]` at the root and `choices[i + 1]` at node i."""
        importance = self._importance(tree)
        path: list[int] = []
        nodes = tree.children[0]
        while nodes:
            choice = choices[path[-1] + 1 if path else 0]
            same = [node for node in nodes if tree.tokens[node] == choice]
            best = same[0] if same else min(nodes, key=importance.__getitem__)
            if not same and not importance[best] < self.threshold:
                break
            path.append(best)
            nodes = tree.children[best + 1]
        return path

    def _importance(self, tree: TokenTree) -> list[float]:
        """P(important) of every node; 1 or more where nothing is known of it, and for a token that is ruled out."""
        if self.head is None or self.threshold == 0.0 or not len(tree):
            return [math.inf] * len(tree)
        if self._seen is None:
            raise DraftError(
                f"rule {self.name!r} reads the target's hidden states behind every drafted token, which are not to be had here; "
                "let an engine use it, with schedule='sequential'"
            )
        scores, states = self._seen.scores, self._seen.states
        parents = torch.tensor(tree.parents, device=states.device) + 1
        found = self.head.importance(states[parents], states[1:])
        allowed = scores[parents, torch.tensor(tree.tokens, device=scores.device)] > -torch.inf
        return [
            value if possible and not math.isnan(value) else math.inf
            for value, possible in zip(found, allowed.tolist(), strict=True)
        ]
