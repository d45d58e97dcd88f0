"""k-SEQ of SpecTr (arXiv 2310.15141): i.i.d. siblings, all tested against the same scaled target, from the root down.

Below a node with k slots drawn from q, a slot x is accepted with probability min(1, p[x] / (rho q[x])), in order. One test
passes with probability beta = sum_x min(q, p / rho), one of the k with 1 - (1 - beta)^k, and what is accepted has the law
of min(q, p / rho), so that

    p - g min(q, p / rho),   g = (1 - (1 - beta)^k) / beta = sum_{j < k} (1 - beta)^j,

is what is left for the bonus token. It is a law (up to a factor) if g <= rho; the smallest such rho accepts most. At k = 1
it is 1: token verification.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from draftgraph.errors import DraftError
from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import EVERY_STRUCTURE, Accepts, Rule
from draftgraph.verification.chain import ratio
from draftgraph.verification.published.multipath import same_law

_HALVINGS = 45
"""Steps of the search for rho; it ends on the side where g <= rho holds, so that only optimality is approximate."""


class KSeqRule(Rule):
    name: ClassVar[str] = "kseq"
    source: ClassVar[str] = "SpecTr, arXiv 2310.15141, k-SEQ"
    lossless: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(frozenset({"sampled"}), EVERY_STRUCTURE)

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        self.check(tree)
        reach = [1.0] + [0.0] * len(tree)
        stop = [0.0] * (len(tree) + 1)
        residuals: dict[int, torch.Tensor] = {}
        for row, left in enumerate(reach):  # parents stand before their children
            slots = tree.slots[row]
            if slots and left > 0.0:
                law = tree.laws[tree.law_row[slots[0]]]  # type: ignore[index]  # all slots are SAMPLED
                rho, residuals[row] = plan(p[row].double(), law.double(), len(slots))
                for node in slots:
                    x = tree.tokens[node]
                    accept = min(1.0, ratio(float(p[row, x]), rho * float(law[x])))
                    reach[node + 1] = left * accept
                    left *= 1.0 - accept
            stop[row] = left

        def bonus(row: int) -> torch.Tensor:
            residual = residuals.get(row, p[row])
            return residual if bool(residual.any()) else p[row]

        return Outcome(stop, bonus)

    def check(self, tree: TokenTree) -> None:
        """Also refuse siblings that have different laws, as without replacement."""
        super().check(tree)
        for slots in tree.slots:
            for node in slots[1:]:
                if not same_law(tree, node, slots[0]):
                    raise DraftError(
                        f"rule {self.name!r} verifies i.i.d. siblings; nodes {slots[0]} and {node} have different laws. "
                        "Draw them with replacement from one law, or use rule 'recursive' or 'layer'"
                    )


def plan(p: torch.Tensor, q: torch.Tensor, k: int) -> tuple[float, torch.Tensor]:
    """rho for k draws from q, and the law of the bonus token (up to a factor); p, q f64[V]."""
    low, high = 1.0, float(k)  # g <= k
    for _ in range(_HALVINGS if k > 1 else 0):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if _boost(p, q, middle, k) <= middle else (middle, high)
    flow = torch.minimum(q, p / high)
    return high, (p - _boost(p, q, high, k) * flow).clamp_min_(0.0)


def _boost(p: torch.Tensor, q: torch.Tensor, rho: float, k: int) -> float:
    """g = sum_{j < k} (1 - beta)^j."""
    fails = max(0.0, 1.0 - float(torch.minimum(q, p / rho).sum()))
    return sum(fails**j for j in range(k))
