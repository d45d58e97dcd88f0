"""Expected tokens per target call, from texts of the target alone: no draft is drawn and no rule is run.

A lossless rule's round, seen along the text x that comes out, accepts at least i drafted tokens with a probability a_i(x) that
the rows along x determine, wherever the rule's verdict depends on nothing off the path:

* node by node (`chances`): a_i = Π_{j≤i} A_j(x_j) / p(x_j);
* block verification of a chain (2403.10444): a_i = min(1, min_{j≤i} Q(x^j) / P(x^j)), because Q(x^i) b_i(x^i) = P(x^i) a_i(x^i),
  as log b_i = S_i − max_{0≤j≤i} S_j with S_j = log P(x^j) / Q(x^j).

So E[accepted] = Σ_i E_{x~P} a_i(x): a mean over the target's own text. More is true. A round emits (x^i, Y = x_{i+1}) with
probability P(x^{i+1}) (a_i − a_{i+1}); hence, given the text, it accepts exactly i tokens with probability a_i − a_{i+1},
independently of the rounds before it. The expected number of rounds of a whole generation follows by one recursion over the
text (`over_texts`), with rounds where they really start: behind the bonus token of the last one, more often in hard stretches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import mul

import torch

from draftgraph.errors import OptionError
from draftgraph.lab.predict import chances
from draftgraph.lab.predict.chances import Chance, Chances
from draftgraph.lab.predict.estimate import Estimate, ratio
from draftgraph.lab.predict.rows import PairRows

NODE_BY_NODE: dict[tuple[str, str], Chances] = {
    ("token", "hybrid"): chances.hybrid,
    ("agree", "fixed"): chances.agree,
    ("walk", "fixed"): chances.fixed,
    ("recursive", "hybrid"): chances.hybrid,
    ("recursive", "spine"): chances.spine,
    ("recursive", "with_replacement"): chances.with_replacement,
    ("recursive", "without_replacement"): chances.without_replacement,
}
"""By rule and kind of children (`draft.children`); in a chain under a rule that reads laws, the one child is SAMPLED."""
CHAINS_ONLY = ("token", "block", "agree")


@dataclass(frozen=True)
class Plan:
    """A draft of fixed shape, and the rule that verifies it.

    shape     children per node for every depth; (1, 1, 1, 1) is a chain.
    children  their kind, as `Config.children` names it.
    """

    rule: str
    shape: tuple[int, ...]
    children: str = "hybrid"

    @property
    def is_chain(self) -> bool:
        return all(count == 1 for count in self.shape)

    @property
    def levels(self) -> list[int]:
        """Nodes per depth."""
        return list(accumulate(self.shape, mul))

    @property
    def name(self) -> str:
        return f"chain {len(self.shape)}" if self.is_chain else f"tree {'·'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class Survival:
    """How far a round that starts at a row gets along the text; zero behind the end of the text.

    given     f64[N, D], a_1..a_D given the text.
    expected  f64[N, D], the same with the last token averaged out (Rao–Blackwell): the same mean, less spread.
    """

    given: torch.Tensor
    expected: torch.Tensor

    @cached_property
    def depth(self) -> int:
        return self.given.shape[1]


def survival(rows: PairRows, plan: Plan, seed: int = 0) -> Survival:
    """a_1..a_D of a plan at every row. seed  of the draws without replacement.

    Raises OptionError for a combination of rule and children that the theory does not cover.
    """
    if plan.rule in CHAINS_ONLY and not plan.is_chain:
        raise OptionError(f"rule {plan.rule!r} verifies chains; write a shape of ones, not {plan.shape}")
    if plan.rule in ("block", "layer") and plan.is_chain and plan.children == "hybrid":
        return _block(rows, len(plan.shape))
    if (plan.rule, plan.children) not in NODE_BY_NODE:
        possible = ", ".join(f"{rule} of {children}" for rule, children in NODE_BY_NODE)
        raise OptionError(
            f"no identity is known for rule {plan.rule!r} on {plan.name} of {plan.children} children; possible: {possible}, "
            "and block on chains. Use the surrogate for trees under the layer rule"
        )
    return _product(rows, plan, seed)


def _product(rows: PairRows, plan: Plan, seed: int) -> Survival:
    """Π_j A_j(x_j) / p(x_j), a factor per depth; every depth has its own number of children."""
    rule = NODE_BY_NODE[plan.rule, plan.children]
    factors = {k: _chances(rows, rule, k, seed) for k in set(plan.shape)}
    given, expected = (torch.zeros(len(rows), len(plan.shape), dtype=torch.float64) for _ in range(2))
    so_far = torch.ones(len(rows), dtype=torch.float64)
    for depth, k in enumerate(plan.shape):
        expected[:, depth] = so_far * _ahead(rows, factors[k].expected, depth)
        so_far = so_far * _ahead(rows, factors[k].given, depth)
        given[:, depth] = so_far
    return Survival(given, expected)


def _chances(rows: PairRows, rule: Chances, k: int, seed: int) -> Chance:
    generator = torch.Generator().manual_seed(seed)
    parts = [rule(p, q, tokens, k, generator) for _, p, q, tokens in rows.chunks()]
    return Chance(torch.cat([part.given for part in parts]), torch.cat([part.expected for part in parts]))


def _block(rows: PairRows, depth: int) -> Survival:
    """a_i = min_{j≤i} R_j with R_j = Q(x^j) / P(x^j), R_0 = 1; its mean over x_i is Σ_y min(a_{i−1} p(y), R_{i−1} q(y))."""
    given, expected = (torch.zeros(len(rows), depth, dtype=torch.float64) for _ in range(2))
    own = torch.arange(len(rows))
    log_ratio = (rows.q[own, rows.tokens].double().log() - rows.p[own, rows.tokens].double().log()).nan_to_num(nan=0.0)
    least = torch.ones(len(rows), dtype=torch.float64)
    total = torch.zeros(len(rows), dtype=torch.float64)
    for i in range(depth):
        reached = _ahead(rows, torch.ones(len(rows), dtype=torch.float64), i)
        weight = total.clamp(max=600.0).exp()  # beyond that Q / P cannot be the smaller one
        for part, p, q, _ in rows.chunks():  # rows at depth i; they belong to rounds that started i rows before
            starts = torch.arange(part.start, min(part.stop, len(rows))) - i
            inside = (starts >= 0) & (reached[starts.clamp_min(0)] > 0)
            begin = starts[inside]
            masses = torch.minimum(least[begin, None] * p[inside], weight[begin, None] * q[inside])
            expected[begin, i] = masses.sum(dim=1)
        total = total + _ahead(rows, log_ratio, i)
        least = torch.minimum(least, total.exp()) * reached
        given[:, i] = least
    return Survival(given, expected)


def _ahead(rows: PairRows, values: torch.Tensor, by: int) -> torch.Tensor:
    """values f64[N] of the row `by` rows further on in the same text; zero behind its end."""
    left = max(0, len(values) - by)
    moved = torch.zeros_like(values)
    moved[:left] = torch.where(rows.text_of[by:] == rows.text_of[:left], values[by:], 0.0)
    return moved


def starts(rows: PairRows, depth: int) -> torch.Tensor:
    """i64[S], rows at which a round of this depth can be judged: the text was not cut off before it could have ended."""
    last = [(span.begin, min(span.end, span.limit - depth + 1)) for span in rows.spans]
    return torch.cat([torch.arange(begin, max(begin, end)) for begin, end in last])


def at_positions(rows: PairRows, plan: Plan, seed: int = 0) -> Estimate:
    """Tokens of one round (accepted + 1) that starts anywhere in the texts, every position counted alike."""
    where = starts(rows, len(plan.shape))
    lengths = 1.0 + survival(rows, plan, seed).expected[where].sum(dim=1)
    return by_text(rows, where, lengths)


def by_text(rows: PairRows, where: torch.Tensor, values: torch.Tensor, weights: torch.Tensor | None = None) -> Estimate:
    """The (weighted) mean of values f64[S] at rows `where`, texts as the independent units.

    Raises OptionError if there is no row.
    """
    if not len(where):
        raise OptionError("no text is long enough for drafts this deep; give longer texts, or predict shallower drafts")
    weights = torch.ones_like(values) if weights is None else weights
    text = rows.text_of[where]
    size = len(rows.spans)
    sums, total = (torch.zeros(size, dtype=torch.float64).index_add_(0, text, v) for v in (values * weights, weights))
    used = total > 0
    return ratio(sums[used].tolist(), total[used].tolist(), len(where))


def over_texts(rows: PairRows, plan: Plan, seed: int = 0) -> Estimate:
    """Tokens per target call (1 + accepted / rounds) of whole generations that come out as these texts.

    Exact for the target's own text, the cut of the last round included. The error is over texts, each with its rounds as weight.
    """
    given = survival(rows, plan, seed).given
    accepted, calls = [], []
    for span in rows.spans:
        begins, lengths = rounds(given[span.begin : span.end], span.limit - span.begin)
        calls.append(float(begins.sum()))
        accepted.append(float((begins * (1.0 + lengths)).sum()))
    return ratio(accepted, calls, len(rows))


def rounds(given: torch.Tensor, room: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the rounds of one generation start, given its text: a renewal recursion.

    given  f64[n, D], a_1..a_D at every row of the text; room  output tokens it could have had.
    Returns f64[n], the chance that a round starts at a row, and f64[n], the tokens that it is then expected to accept. A round
    drafts at most as many tokens as leave room for its bonus token.
    """
    n = len(given)
    chains: Sequence[list[float]] = given.tolist()
    begins = [1.0] + [0.0] * (n + given.shape[1])
    lengths = []
    for t, chain in enumerate(chains):
        reach = max(0, min(len(chain), room - t - 1))
        kept = [1.0, *chain[:reach], 0.0]
        lengths.append(sum(kept[1:]))
        for i in range(reach + 1):
            begins[t + i + 1] += begins[t] * (kept[i] - kept[i + 1])
    return torch.tensor(begins[:n], dtype=torch.float64), torch.tensor(lengths, dtype=torch.float64)
