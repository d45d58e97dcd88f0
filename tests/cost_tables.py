"""Cost tables that no clock has seen."""

from __future__ import annotations

from dataclasses import replace

from draftgraph.budget.costs import Cost, Costs, Drafts, Level


def cost(*seconds: float, rows: tuple[int, ...] = (1, 2, 4)) -> Cost:
    return Cost(rows, seconds, seconds, seconds, (3,) * len(rows))


def costs(
    drafter: float | None = 0.5, reached: float = 0.7, row: float = 0.15, levels: int = 8, note: str = "made up"
) -> Costs:
    """A target of 5 ms and `row` more per row, and a drafter of so many ms a pass; earlier drafts came down with `reached`."""
    target = cost(5e-3, (5 + row) * 1e-3, (5 + 64 * row) * 1e-3, rows=(1, 2, 65))
    theirs = None if drafter is None else cost(1e-3 * drafter, 1.001e-3 * drafter, rows=(1, 16))
    seen = tuple(Level(reached**depth, 1.0, 1.5, 0.8**depth) for depth in range(1, levels + 1))
    around = (0.2e-3, 0.2e-3, 0.02e-3)
    return Costs(target, theirs, around, 0.2e-3, 1, 64, seen, Drafts(around, seen), note)


def with_chains(table: Costs, reached: float, less: float = 0.0, levels: int = 8) -> Costs:
    """The table of a pair whose drafts may be chains as well.

    reached  with which chains came down. less  ms that a round takes less with a chain than with a graph.
    """
    seen = tuple(Level(reached**depth, 1.0, 1.0, 0.8**depth) for depth in range(1, levels + 1))
    chains = Drafts((0.2e-3, 0.1e-3, 0.02e-3), seen)
    around = (0.2e-3 + 1e-3 * less, *table.overhead[1:])
    greedy = None if table.greedy is None else replace(table.greedy, overhead=around)
    return replace(table, overhead=around, greedy=greedy, chains=chains, greedy_chains=chains)
