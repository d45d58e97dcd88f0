"""What a round costs on one machine, as numbers: tables of pass times, and what the engine adds around them.

`timing.py` measures them, `cost_cache.py` keeps them between processes, `automatic.py` and the lab decide with them. Nothing
here looks at a clock, so that a decision is a function of a table and of what was counted.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from draftgraph.draft.isotonic import pooled
from draftgraph.files import BrokenFileError
from draftgraph.strictjson import build, seen

BUSY = 1.8
"""If the 90th percentile of a pass is so many times its 10th, others were using the machine."""
WAITED = 0.2
"""The same if the processor was away for more than this share of the time."""
LEAST_SECONDS, DAY_SECONDS = 1e-9, 86400.0
"""No pass takes less, or longer."""
IMPOSSIBLE_NODES = 1e6
"""No round drafts more."""
MOST_DRAFTED = 64
"""Nodes of a round whose size prices decide."""
LEAST_DRAFTING = 0.1
"""No drafter pass is taken to need less of the time of one by itself, whatever it is part of."""
SPAN = 16
"""Rows over which the cost of a row is taken, to tell how many of them a change of size costs."""
MOST_CHANGE_ROWS = 32.0
"""No change is taken to cost as much as more rows."""
TABLE_ROWS = 512
"""Passes of up to so many rows are looked up where many are asked for at once."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a forward pass by its rows: lower quartiles, and the 10th and 90th percentile over `repeats` passes each.

    sizes  numbers of rows that passes are padded to (`CausalLM.sizes`): costs are a staircase then.
    change  seconds more of a pass whose size is not that of the last one.
    reading  seconds per row and per token of the text before it, beyond the text behind which the passes were timed.
    path, path_reading  seconds more per path beside the first, and the same per token of text, where paths are sequences of
            their own.
    """

    rows: Sequence[int]
    seconds: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    repeats: Sequence[int]
    sizes: Sequence[int] = ()
    change: float = 0.0
    reading: float = 0.0
    path: float = 0.0
    path_reading: float = 0.0

    @cached_property
    def rising(self) -> list[float]:
        """The seconds, neighbours pooled until no more rows cost less."""
        return [-seconds for seconds in pooled([-seconds for seconds in self.seconds])]

    def __call__(self, rows: float) -> float:
        """Seconds of a pass over so many rows; of a mean number of rows, the mean over the two whole numbers beside it."""
        if not self.sizes:
            return self._between(rows)
        fewer, share = int(rows), rows - int(rows)
        least = self._between(self.padded(fewer))
        return least if share == 0.0 else (1.0 - share) * least + share * self._between(self.padded(fewer + 1))

    def times(self, share: float) -> Cost:
        """Passes that take this share of the time."""
        if share == 1.0:
            return self
        seconds, low, high = ([share * each for each in column] for column in (self.seconds, self.low, self.high))
        return replace(self, seconds=seconds, low=low, high=high)

    def each(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Seconds of passes over so many rows, each as a call of this object says."""
        known = self._by_rows
        beyond = np.maximum(0.0, rows - TABLE_ROWS) * (known[-1] - known[-2])
        seconds: npt.NDArray[np.float64] = np.interp(rows, np.arange(len(known)), known) + beyond
        return seconds

    @cached_property
    def _by_rows(self) -> npt.NDArray[np.float64]:
        return np.array([self(rows) for rows in range(TABLE_ROWS + 1)])

    def padded(self, rows: int) -> int:
        """Rows of the pass that computes so many."""
        place = bisect_left(self.sizes, rows)
        return rows if place == len(self.sizes) else self.sizes[place]

    def _between(self, rows: float) -> float:
        """Interpolated between what was measured: more rows may take less, for kernels change with their number.

        Beyond them every row costs what it did between the last two, or what it did on average if that is more.
        """
        if rows <= self.rows[0]:
            return float(self.seconds[0])
        if rows <= self.rows[-1]:
            place = bisect_left(self.rows, rows)  # np.interp would take longer than all the rest of a decision
            before, after = self.rows[place - 1], self.rows[place]
            share = (rows - before) / (after - before)
            return self.seconds[place - 1] + share * (self.seconds[place] - self.seconds[place - 1])
        known = self.rising
        slopes = [(known[-1] - known[i]) / (self.rows[-1] - self.rows[i]) for i in (0, -2)]
        return known[-1] + max(slopes) * (rows - self.rows[-1])

    @cached_property
    def change_rows(self) -> float:
        """Rows that cost about as much as a change of size; 0 where no change was measured, or rows cost nothing."""
        row = (self(1 + SPAN) - self(1)) / SPAN
        return min(MOST_CHANGE_ROWS, self.change / row) if self.sizes and row > 0.0 else 0.0

    @property
    def busy(self) -> bool:
        """Whether the passes took so different times that they say little."""
        return statistics.median(b / a for a, b in zip(self.low, self.high, strict=True)) > BUSY


@dataclass(frozen=True)
class Level:
    """One level of the drafts that were counted while costs were measured; means per round.

    reached  share of the rounds whose accepted path came so deep. passes  drafter passes, nodes  nodes at this depth.
    promised  sum of their scores.
    """

    reached: float
    passes: float
    nodes: float
    promised: float


@dataclass(frozen=True)
class Drafts:
    """What is measured for every kind of drafts: `overhead` and `levels` of `Costs`.

    drafting  what a drafter pass takes within such drafts, as a share of one by itself: a chain may be read in one go.
    """

    overhead: tuple[float, float, float]
    levels: tuple[Level, ...]
    drafting: float = 1.0


@dataclass(frozen=True)
class Costs:
    """What a round is made of.

    drafter   None where nothing is computed for a draft (text that is looked up).
    overhead  seconds per round, per drafter pass and per node, beside the forwards.
    plain_overhead  seconds per token that plain decoding spends outside the target.
    threads   of torch, when it was measured.
    context   committed tokens behind which it was measured.
    levels    what drafts did, by depth, while they were measured: where a request starts from.
    greedy    the same at temperature 0, where no slot is SAMPLED.
    note      where the table comes from, in words.
    waited    share of the time of the passes in which the processor did not work for them.
    chains, greedy_chains  what differs for chains, where drafts may be chains as well.
    block     seconds of `overhead` per round in which the drafter reads its block. A draft of copies alone does without.
    """

    target: Cost
    drafter: Cost | None
    overhead: tuple[float, float, float]
    plain_overhead: float
    threads: int
    context: int
    levels: tuple[Level, ...] = ()
    greedy: Drafts | None = None
    note: str = "measured"
    waited: float = 0.0
    chains: Drafts | None = None
    greedy_chains: Drafts | None = None
    block: float = 0.0

    def at(self, temperature: float) -> Costs:
        """The costs of requests at this temperature."""
        return self if temperature > 0.0 else self._at_zero

    @cached_property
    def _at_zero(self) -> Costs:
        if self.greedy is None:
            return self
        return replace(self._of(self.greedy), greedy=None, chains=self.greedy_chains, greedy_chains=None)

    @cached_property
    def of_chains(self) -> Costs | None:
        """The costs of rounds whose drafts are chains; None if they were not measured."""
        return None if self.chains is None else self._of(self.chains)

    def _of(self, drafts: Drafts) -> Costs:
        drafter = None if self.drafter is None else self.drafter.times(drafts.drafting)
        return replace(self, drafter=drafter, overhead=drafts.overhead, levels=drafts.levels)

    @property
    def widest(self) -> int:
        """Nodes of the widest level of the drafts that were counted, at least 1."""
        return max([1, *(math.ceil(level.nodes) for level in self.levels)])

    @property
    def busy(self) -> bool:
        """Whether others used the machine while it was measured."""
        return self.waited > WAITED or self.target.busy or (self.drafter is not None and self.drafter.busy)

    @property
    def plain(self) -> float:
        """Seconds per token of plain decoding."""
        return self.target(1) + self.plain_overhead

    def drafter_pass(self, rows: float) -> float:
        """Seconds of a drafter pass over so many rows, with what the engine adds to it."""
        return self.overhead[1] + (self.drafter(max(1.0, rows)) if self.drafter is not None else 0.0)

    def verifying(self, nodes: float) -> float:
        """Seconds of a round that verifies `nodes` nodes, without drafting them."""
        return self.target(nodes + 1) + self.overhead[0] + self.overhead[2] * nodes

    @cached_property
    def verifying_each(self) -> Sequence[float]:
        """`verifying` for 0, 1, … MOST_DRAFTED nodes: requests share what they look up in every round."""
        return [self.verifying(nodes) for nodes in range(MOST_DRAFTED + 1)]

    def whole(self, nodes: int) -> float:
        """Seconds of a round that verifies `nodes` nodes which cost nothing to draft; without any it is plain decoding."""
        return self.verifying(nodes) - self.block if nodes else self.plain

    @cached_property
    def whole_each(self) -> Sequence[float]:
        """`whole` for 0, 1, … MOST_DRAFTED nodes."""
        return [self.whole(nodes) for nodes in range(MOST_DRAFTED + 1)]

    @property
    def look(self) -> float:
        """Seconds that a round takes more which looks for copies, and finds none: it keeps the target's row."""
        return self.overhead[0] - self.block - self.plain_overhead

    def round(self, nodes: float, level_rows: Sequence[float]) -> float:
        """Seconds of a round that verifies `nodes` nodes, drafted in passes of so many rows."""
        return self.verifying(nodes) + sum(self.drafter_pass(rows) for rows in level_rows)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"plain": self.plain}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], note: str) -> Costs:
        """What `to_dict` wrote. Raises BrokenFileError, with the cause, if it is something else."""
        if not isinstance(values, Mapping):
            raise BrokenFileError(f"the table is {seen(values)}, not an object")
        said = {name: value for name, value in values.items() if name != "plain"} | {"note": note}
        costs: Costs = build(cls, said, "the table")
        _refuse_impossible(costs)
        return costs


def _refuse_impossible(costs: Costs) -> None:
    """Refuse figures that nobody can have measured. Raises BrokenFileError."""
    for cost in (costs.target, costs.drafter):
        if cost is not None:
            _refuse_pass_times(cost)
    measured = [Drafts(costs.overhead, costs.levels), costs.greedy, costs.chains, costs.greedy_chains]
    drafts = [each for each in measured if each is not None]
    if not all(LEAST_DRAFTING <= each.drafting <= 1.0 for each in drafts):
        raise BrokenFileError("the table has a share of drafter passes that cannot be")
    added = [costs.plain_overhead, *(seconds for each in drafts for seconds in each.overhead)]
    shares = [share for each in drafts for level in each.levels for share in vars(level).values()]
    held = {
        "times outside the passes": all(0.0 <= seconds <= DAY_SECONDS for seconds in added),
        "a block that takes more than its round": all(0.0 <= costs.block <= each.overhead[0] for each in drafts),
        "counts of drafts": all(0.0 <= share <= IMPOSSIBLE_NODES for share in shares),
        "a share of time": 0.0 <= costs.waited <= 1.0,
        "threads or context": costs.threads >= 1 and costs.context >= 0,
    }
    for what, possible in held.items():
        if not possible:
            raise BrokenFileError(f"the table has {what} that cannot be")


def _refuse_pass_times(cost: Cost) -> None:
    columns = (cost.rows, cost.seconds, cost.low, cost.high, cost.repeats)
    seconds = [*cost.seconds, *cost.low, *cost.high]
    rising = all(fewer < more for fewer, more in pairwise((0, *cost.rows)))
    if len({len(column) for column in columns}) != 1 or len(cost.rows) < 2 or not rising:
        raise BrokenFileError("a table of pass times needs rising numbers of rows, two or more, and seconds for each")
    possible = all(LEAST_SECONDS <= each <= DAY_SECONDS for each in seconds) and all(
        0.0 <= each <= DAY_SECONDS for each in (cost.change, cost.reading, cost.path, cost.path_reading)
    )
    if not possible or not all(count >= 1 for count in cost.repeats):
        raise BrokenFileError("the table has pass times that cannot be")
