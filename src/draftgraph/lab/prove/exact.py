"""The prover: is a rule lossless? Exact output laws over every draft, and controls that must be caught.

`prove(rule)` enumerates every draft of every case (structure x laws x tables), integrates the rule's randomness by
reading the law it states, and compares the law of the emitted text with the target's. On paper: docs/layer_rule.md.
`prove_all` does so for several rules, and enumerates and bounds every draft law once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

import torch

from draftgraph.errors import DraftError, OptionError, unknown_name
from draftgraph.lab.prove.addressing import ADDRESSES, agree_mismatches
from draftgraph.lab.prove.bounds import ideal_bound, lossless_bound
from draftgraph.lab.prove.cases import CASES, Case
from draftgraph.lab.prove.controls import CONTROLS, DEPTH, Control
from draftgraph.lab.prove.law import (
    KINDS,
    Drafted,
    Tables,
    drafted,
    emitted_law,
    enumerate_draws,
    output_law,
    random_tables,
    total_variation,
)
from draftgraph.verification.base import Rule

__all__ = [
    "CaseRow",
    "ControlRow",
    "Proof",
    "Setting",
    "enumerate_draws",
    "output_law",
    "prove_all",
    "total_variation",
]

VISIBLE = 1e-3
"""A negative control must be at least this far from the target's law."""
_PAIRS = 3
"""Pairs of tables per case and kind, so that no result hangs on one lucky pair."""
_CONTROL_PAIRS = 8
_CONTROL_VOCAB = 3
_MOST_DRAFTS = 7000


@dataclass(frozen=True)
class CaseRow:
    """One case of a proof.

    drafts           drafts enumerated, over all tables.
    tv               largest total variation over the tables; None if the rule refuses the case. A rule with `continues` is
                     given its continuation.
    expected_tokens  expected tokens of a round, mean over the random tables (or over all, without random ones).
    refused          why the rule refuses the case, or None.
    bound            the most tokens that any lossless rule (for a rule with `continues`: any that sets the law of later tokens
                     too) could expect on the same drafts and tables. None if it was not asked for, or if the case is refused.
    gap              1 - expected_tokens / bound; negative only for a rule that is not lossless.
    """

    structure: str
    laws: str
    vocab: int
    depth: int
    drafts: int
    tv: float | None
    expected_tokens: float | None
    refused: str | None = None
    bound: float | None = None
    gap: float | None = None


@dataclass(frozen=True)
class ControlRow:
    """One control: a mistake must fail (tv above `VISIBLE`), a repair must not (tv within the tolerance)."""

    name: str
    source: str
    tv: float
    must_fail: bool
    failed: bool


Row = CaseRow | ControlRow
Progress = Callable[[Row], None]
Status = Literal["proven", "refuted", "lossy, as labelled", "unproven"]


@dataclass(frozen=True)
class Proof:
    """What `prove` found.

    lossless   what the rule says of rounds that start from the plain target.
    continues  the rule also sets the law of later positions, and claims to be lossless together with that.
    status     "proven": it makes one of these claims, and every accepted case is within the tolerance.
               "refuted": it makes one of these claims, and some case is not.
               "lossy, as labelled": it makes neither. max_tv is a measurement; nothing is proven.
               "unproven": nothing can be said, because it accepts no case, or because a control misbehaved.
    holds      the rule is what it says it is: the status is "proven" or "lossy, as labelled".
    max_tv     largest total variation over the accepted cases.
    """

    rule: str
    lossless: bool
    continues: bool
    status: Status
    holds: bool
    max_tv: float
    tolerance: float
    tables: tuple[str, ...]
    cases: tuple[CaseRow, ...]
    controls: tuple[ControlRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True)
class Setting:
    """What is enumerated, and what counts as lossless: the arguments of `prove`.

    Raises OptionError for an unknown kind of tables, or for sizes that cannot be enumerated.
    """

    vocab: int = 3
    depth: int = 3
    cases: tuple[Case, ...] = CASES
    tables: tuple[str, ...] = KINDS
    tolerance: float = 1e-12
    seed: int = 0
    controls: bool = True
    bounds: bool = False
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        for kind in self.tables:
            if kind not in KINDS:
                raise unknown_name("kind of tables", kind, KINDS)
        if not self.tables:
            raise OptionError(f"tables must name at least one kind; possible: {', '.join(KINDS)}")
        # the widest cases draw two sampled chains below the root, or a few times as many drafts
        if self.vocab < 2 or self.depth < 1 or self.vocab ** (2 * self.depth) > _MOST_DRAFTS:
            raise OptionError(
                f"vocab={self.vocab}, depth={self.depth} cannot be enumerated; use vocab >= 2 and depth >= 1 with "
                f"vocab ** (2 * depth) <= {_MOST_DRAFTS}, e.g. vocab=3, depth=3"
            )

    def pairs(self) -> Iterator[tuple[Tables, bool]]:
        """Target and drafter, and whether they count for the expected tokens: the random ones, or all without those."""
        for kind in sorted(self.tables, key=KINDS.index):
            for pair in range(_PAIRS):
                tables = random_tables(kind, self.vocab, self.depth, _table_seed(self.seed, kind, pair))
                yield tables, kind == "random" or "random" not in self.tables


def prove_all(rules: Sequence[Rule], setting: Setting, progress: Progress | None = None) -> list[Proof]:
    """`prove` for several rules: a proof for each, all of them with the same controls.

    Raises OptionError for bounds without scipy.
    """
    rows: list[list[CaseRow]] = [[] for _ in rules]
    for case in setting.cases:
        for mine, row in zip(rows, _case_rows(rules, case, setting), strict=True):
            mine.append(row)
            _report(progress, row)
    for rule, mine in zip(rules, rows, strict=True):
        if rule.position_noise:
            mine.append(_pathwise_row(rule, setting))
            _report(progress, mine[-1])
    controls: list[ControlRow] = []
    for control in (*CONTROLS, *ADDRESSES) if setting.controls else ():
        controls.append(_control_row(control, setting.seed))
        _report(progress, controls[-1])
    return [_proof(rule, setting, mine, controls) for rule, mine in zip(rules, rows, strict=True)]


def _proof(rule: Rule, setting: Setting, cases: Sequence[CaseRow], controls: Sequence[ControlRow]) -> Proof:
    accepted = [row.tv for row in cases if row.tv is not None]
    max_tv = max(accepted, default=0.0)
    status: Status
    if not accepted or any(row.failed != row.must_fail for row in controls):
        status = "unproven"
    elif not (rule.lossless or rule.continues):
        status = "lossy, as labelled"
    else:
        status = "proven" if max_tv <= setting.tolerance else "refuted"
    holds = status in ("proven", "lossy, as labelled")
    return Proof(
        rule.name,
        rule.lossless,
        rule.continues,
        status,
        holds,
        max_tv,
        setting.tolerance,
        setting.tables,
        tuple(cases),
        tuple(controls),
    )


class _Tally:
    """What one rule does on one case, table after table, until it refuses."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.drafts, self.tv = 0, 0.0
        self.tokens: list[float] = []
        self.refused: str | None = None

    def add(self, exact: Tables, drafts: Sequence[Drafted], counts: bool) -> None:
        if self.refused is not None:
            return
        try:
            emitted = emitted_law(self.rule, exact, drafts, exact.depth + 1)
        except DraftError as error:
            self.refused = str(error)
            return
        self.drafts += emitted.drafts
        tv = total_variation(emitted.law, exact.target_law(exact.depth + 1))
        self.tv = max(self.tv, tv if tv == tv else 1.0)  # NaN counts as completely wrong
        if counts:
            self.tokens.append(emitted.expected_tokens)

    def row(self, case: Case, setting: Setting, bounds: Sequence[float]) -> CaseRow:
        size = (case.structure, case.laws, setting.vocab, setting.depth)
        if self.refused is not None:
            return CaseRow(*size, 0, None, None, self.refused)
        tokens = fmean(self.tokens)
        bound, gap = (fmean(bounds), 1.0 - tokens / fmean(bounds)) if bounds else (None, None)
        return CaseRow(*size, self.drafts, self.tv, tokens, None, bound, gap)


def _case_rows(rules: Sequence[Rule], case: Case, setting: Setting) -> list[CaseRow]:
    """One row for every rule; drafts and bounds are computed once for all of them."""
    program = case.program(setting.depth)
    tallies = [_Tally(rule) for rule in rules]
    bounds: dict[bool, list[float]] = {False: [], True: []}  # of rules without and with `continues`
    for exact, counts in setting.pairs():
        drafts = list(drafted(exact.to(setting.dtype), program))
        for tally in tallies:
            tally.add(exact, drafts, counts)
        at_work = {tally.rule.continues for tally in tallies if tally.refused is None}
        if not at_work:
            break
        if setting.bounds and counts:
            for continues in at_work:
                bounds[continues].append((ideal_bound if continues else lossless_bound)(exact, program))
    return [tally.row(case, setting, bounds[tally.rule.continues]) for tally in tallies]


def _pathwise_row(rule: Rule, setting: Setting) -> CaseRow:
    """With noise by position the text must be that of plain seeded sampling: the share of runs where it is not."""
    size = (setting.vocab, setting.depth)
    mismatches, runs = agree_mismatches(rule, *size, setting.seed)
    return CaseRow("every structure", "noise shared with the drafter", *size, runs, mismatches / runs, None)


def _control_row(control: Control, seed: int) -> ControlRow:
    tvs = [
        control.tv(random_tables("random", _CONTROL_VOCAB, DEPTH, _table_seed(seed, "random", pair)))
        for pair in range(_CONTROL_PAIRS)
    ]
    tv = max(tvs)
    # a repair is held to rounding error, whatever tolerance the rule itself is given
    return ControlRow(
        control.name, control.source, tv, control.must_fail, tv > (VISIBLE if control.must_fail else 1e-12)
    )


def _table_seed(seed: int, kind: str, pair: int) -> int:
    return (seed * len(KINDS) + KINDS.index(kind)) * 16 + pair


def _report(progress: Progress | None, row: Row) -> None:
    if progress is not None:
        progress(row)
