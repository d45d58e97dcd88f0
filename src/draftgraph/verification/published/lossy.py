"""Rules that are not lossless: a token is accepted if the target finds it good enough, however likely that is.

They read the target's rows alone, and need no random number for the path: of all paths whose every token is good enough,
the longest is accepted; of several, the one that the target gives the most mass; of equal ones, the first drafted. What
a rule finds good enough says nothing about how often the target would write it, so the text follows the drafter's taste
within those limits. Both rules always find the target's best token good enough, and at temperature 0 nothing else:
there they are the longest match, like every other rule.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch

from draftgraph.errors import OptionError
from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import EVERY_LAW, EVERY_STRUCTURE, Accepts, Rule


class GoodEnough(Rule):
    """Accept the longest path of tokens that are good enough each."""

    lossless: ClassVar[bool] = False
    accepts: ClassVar[Accepts] = Accepts(EVERY_LAW, EVERY_STRUCTURE)
    uses_laws: ClassVar[bool] = False

    @abstractmethod
    def good(self, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Which tokens i64[n] are good enough where the target's laws are `rows` f[n, V]: bool[n]."""

    def bonus(self, p: torch.Tensor) -> torch.Tensor:
        """The law of the token after the accepted path, f[V]: the target's, unchanged."""
        return p

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        stop = [0.0] * (len(tree) + 1)
        stop[self._end(tree, p)] = 1.0
        return Outcome(stop, lambda row: self.bonus(p[row]))

    def _end(self, tree: TokenTree, p: torch.Tensor) -> int:
        """The entry where the accepted path ends."""
        # (tokens accepted, log-probability) of the path to every entry that can be reached
        paths: dict[int, tuple[int, float]] = {0: (0, 0.0)}
        if len(tree):
            entries = torch.tensor(tree.parents, device=p.device) + 1
            tokens = torch.tensor(tree.tokens, device=p.device)
            good: list[bool] = self.good(p[entries], tokens).tolist()
            chances: list[float] = p[entries, tokens].tolist()
            for node, parent in enumerate(tree.parents):  # parents stand before their children
                if good[node] and parent + 1 in paths:
                    length, score = paths[parent + 1]
                    paths[node + 1] = (length + 1, score + math.log(chances[node]))
        best = max(paths.values())
        return min(row for row, path in paths.items() if path == best)


class TopBetaRule(GoodEnough):
    """Among the target's `beta` best tokens and within `tau` nats of the best one; the bonus token is the best one.

    The text is a function of the draft and the target: nothing is sampled, at any temperature. With beta = 1 it is the
    greedy text of p, whatever is drafted.
    """

    name: ClassVar[str] = "top_beta"
    source: ClassVar[str] = "SpecDec, arXiv 2203.16487, Spec-Verification"

    def __init__(self, beta: int = 3, tau: float = 1.0) -> None:
        if beta < 1 or not tau >= 0.0:
            raise OptionError(
                f"top_beta needs beta >= 1 and tau >= 0; got beta={beta}, tau={tau}; e.g. TopBetaRule(3, 1.0)"
            )
        self.beta = beta
        self.tau = tau

    def good(self, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        chances = rows.gather(1, tokens[:, None])
        before = torch.arange(rows.shape[1], device=rows.device) < tokens[:, None]
        better = ((rows > chances) | ((rows == chances) & before)).sum(dim=1)  # of equal tokens the lower id is better
        least = rows.amax(dim=1, keepdim=True).double() * math.exp(-self.tau)
        return ((chances > 0.0) & (chances.double() >= least))[:, 0] & (better < self.beta)

    def bonus(self, p: torch.Tensor) -> torch.Tensor:
        law = torch.zeros_like(p)
        law[p.argmax()] = 1.0  # the first of several
        return law


class TypicalRule(GoodEnough):
    """Typical acceptance: p(x) > min(epsilon, delta exp(-H(p))), H the entropy of p in nats.

    A flat target accepts unlikely tokens. Since exp(-H) is at most the largest probability, delta < 1 always accepts the
    best token. The bonus token is a draw from p: unlike drafted tokens it need not be typical, and no drafted token is
    taken out of it, for a token that was too unlikely to be accepted may still be drawn at its own rate.
    """

    name: ClassVar[str] = "typical"
    source: ClassVar[str] = "typical acceptance, arXiv 2401.10774, section 2.3.1"

    def __init__(self, epsilon: float = 0.09, delta: float = 0.3) -> None:
        if not epsilon >= 0.0 or not 0.0 <= delta < 1.0:
            raise OptionError(
                f"typical needs epsilon >= 0 and 0 <= delta < 1; got epsilon={epsilon}, delta={delta}; "
                "e.g. TypicalRule(0.09, 0.3)"
            )
        self.epsilon = epsilon
        self.delta = delta

    def good(self, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        entropy = torch.special.entr(rows.double()).sum(dim=1)
        least = (self.delta * torch.exp(-entropy)).clamp(max=self.epsilon)
        return rows.gather(1, tokens[:, None])[:, 0].double() > least
