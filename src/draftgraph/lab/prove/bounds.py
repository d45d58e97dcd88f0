"""The most tokens that any rule could emit on a draft law, by linear programming: the yardstick for every rule.

The bounds are those of an all-knowing rule, which sees the whole draft, the law of the drafts and the target's law everywhere.
Such a rule gains nothing from the order or the laws of the slots, so drafts with the same set of token prefixes are one draft.

Let F(v) be the probability that the accepted path passes through the prefix v. Every draft spreads its own probability over the
nodes where its accepted path may end, F(v) is what ends at v or below, and a rule accepts sum F(v) tokens on average.

* `lossless_bound`: F(v y) <= p(y|v) F(v). Of the texts whose accepted path passes through v, a share p(y|v) goes on with y,
  whether y was accepted or not: texts that left the draft above v go on with the target alone, which has that share already.
  Every lossless rule obeys this, and any F that does is reached, by a bonus token that takes p(y|v) F(v) - F(v y) at v.
  On a chain Block Verification reaches it (arXiv 2403.10444, Theorem 2).
* `ideal_bound`: F(v) <= P(v), the target's probability of the whole prefix. Only rules that change the law of later tokens
  get there: those tokens make good what this round took too much of (arXiv 2403.10444, greedy block verification).
"""

from __future__ import annotations

from importlib.util import find_spec

from draftgraph.errors import OptionError
from draftgraph.lab.prove.law import Program, Tables, enumerate_draws
from draftgraph.types import ROOT

Prefix = tuple[int, ...]
Drafts = dict[frozenset[Prefix], float]
"""The probability of every draft, read as the set of its token prefixes (the empty one, which all have, left out)."""
Entry = tuple[int, int, float]
"""Row, column and value of a sparse matrix."""

INSTALL = "pip install 'draftgraph[prove]'"
_TOLERANCES = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def available() -> bool:
    """Whether the solver is installed: scipy, an optional dependency."""
    return find_spec("scipy") is not None


def lossless_bound(tables: Tables, program: Program) -> float:
    """The most tokens of a round, the bonus token included, that a lossless rule can expect on the drafts of a program.

    Raises OptionError if scipy is not installed.
    """
    return _most_tokens(tables, prefix_sets(tables, program), retarget=False)


def ideal_bound(tables: Tables, program: Program) -> float:
    """The same for rules that may also change the law of later tokens, so that only the whole text is the target's.

    Raises OptionError if scipy is not installed.
    """
    return _most_tokens(tables, prefix_sets(tables, program), retarget=True)


def prefix_sets(tables: Tables, program: Program) -> Drafts:
    """The law of the drafts of a program, over sets of prefixes."""
    law: Drafts = {}
    for probability, tree in enumerate_draws(lambda draw: program(tables.drafter, draw)):
        prefixes: list[Prefix] = []
        for token, parent in zip(tree.tokens, tree.parents, strict=True):
            prefixes.append((token,) if parent == ROOT else (*prefixes[parent], token))
        draft = frozenset(prefixes)
        law[draft] = law.get(draft, 0.0) + probability
    return law


def _most_tokens(tables: Tables, drafts: Drafts, retarget: bool) -> float:
    """Maximise 1 + sum F(v). Columns: F of every prefix, then the mass that each draft ends at each of its nodes."""
    if not available():
        raise OptionError(
            f"a bound is a linear program and needs scipy, which is not installed; write {INSTALL}, or leave bounds out"
        )
    from scipy.optimize import linprog  # an optional dependency
    from scipy.sparse import coo_array

    def matrix(entries: list[Entry], height: int) -> object:
        rows, columns, values = zip(*entries, strict=True)
        return coo_array((values, (rows, columns)), shape=(height, width)).tocsr()

    prefixes = sorted(frozenset[Prefix]().union(*drafts))
    if not prefixes:
        return 1.0
    flow = {prefix: i for i, prefix in enumerate(prefixes)}
    ends = [(row, prefix) for row, draft in enumerate(drafts) for prefix in ((), *draft)]
    width = len(flow) + len(ends)
    balance = _balance(flow, ends)
    totals = [0.0] * len(flow) + list(drafts.values())
    shares = [] if retarget else _shares(tables, flow)
    ceilings = [_ceiling(tables, prefix) if retarget or len(prefix) == 1 else 1.0 for prefix in prefixes]
    found = linprog(
        [-1.0] * len(flow) + [0.0] * len(ends),
        A_eq=matrix(balance, len(totals)),
        b_eq=totals,
        A_ub=matrix(shares, len(flow)) if shares else None,
        b_ub=[0.0] * len(flow) if shares else None,
        bounds=[(0.0, ceiling) for ceiling in ceilings] + [(0.0, None)] * len(ends),
        method="highs",
        options=_TOLERANCES,
    )
    if not found.success:
        raise ArithmeticError(f"the bound could not be computed: {found.message}")
    return 1.0 - float(found.fun)


def _balance(flow: dict[Prefix, int], ends: list[tuple[int, Prefix]]) -> list[Entry]:
    """F(v) - (what ends at v or below) = 0 for every prefix; what a draft ends anywhere = its probability."""
    entries: list[Entry] = [(row, row, 1.0) for row in flow.values()]
    for column, (draft, prefix) in enumerate(ends, start=len(flow)):
        entries += [(flow[prefix[:k]], column, -1.0) for k in range(1, len(prefix) + 1)]
        entries.append((len(flow) + draft, column, 1.0))
    return entries


def _shares(tables: Tables, flow: dict[Prefix, int]) -> list[Entry]:
    """F(v y) - p(y|v) F(v) <= 0 for every prefix v y of two tokens or more; F(root) = 1."""
    entries: list[Entry] = []
    for prefix, row in flow.items():
        if len(prefix) > 1:
            entries += [(row, row, 1.0), (row, flow[prefix[:-1]], -_chance(tables, prefix))]
    return entries


def _chance(tables: Tables, prefix: Prefix) -> float:
    """p(last token | the tokens before it)."""
    return float(tables.target(prefix[:-1])[prefix[-1]])


def _ceiling(tables: Tables, prefix: Prefix) -> float:
    """P(prefix)."""
    chance = 1.0
    for k in range(1, len(prefix) + 1):
        chance *= _chance(tables, prefix[:k])
    return chance
