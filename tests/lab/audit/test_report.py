"""An audit's report says what was found, what could have been, and what was not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from draftgraph.lab.audit.audit import Audit, Findings
from draftgraph.lab.audit.fit import Fit
from draftgraph.lab.audit.report import audit_report, conclusion
from draftgraph.view.sheet import to_markdown

TOKENS = Fit("tokens", "position 1", 2000, 12.0, 9, 0.21, 0.0712)
QUANTILES = Fit("quantiles", "position 2", 2000, 70.0, 9, 1e-11, 0.0658)
SUPPORT = Fit("support", "all positions", 4000, 0.0, 0, 1.0)
HONEST = Findings((TOKENS, replace(QUANTILES, p_value=0.5), SUPPORT), 1.7e-4, 1.0, False, 900, 4000)
BIASED = Findings((replace(TOKENS, p_value=0.3), QUANTILES), 1.7e-4, 6e-11, True, 900, 4000)
HELD = Audit(
    "big", "small", "layer", True, "graph", "auto", 1, 2000, 2, 1e-3, 5, "held", HONEST, "a mistake", BIASED, (0.0712, 0.0658)
)  # fmt: skip


def printed(audit: Audit) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        for part in audit_report(audit):
            console.print(part)
    return captured.get()


def test_everything_is_told():
    text = printed(HELD)
    for words in (
        "big with small: rule layer, structure graph, budget auto; 1 prompt, 2000 texts of 2 tokens each",
        "a bias of TV >= 0.071 at the first position would have been seen with probability 0.9",
        "one of TV >= 0.066 at a later position",
        "a planted mistake (a mistake) is caught, p = 6.0e-11",
        "held: no difference",
        "Seed 5",
    ):
        assert words in text
    row = next(line for line in text.splitlines() if "quantiles │" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "quantiles",
        "position 2",
        "2000",
        "10",
        "0.5",
        "1e-11",
        "0.066",
    ]
    assert "| tokens | position 1 | 2000 | 10 | 0.21 | 3e-01 | 0.071 |" in to_markdown("t", audit_report(HELD))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdict": "refuted", "findings": BIASED}, "NOT distributed as the target's own, although the rule claims"),
        ({"verdict": "refuted", "findings": BIASED, "lossless": False}, "and the rule does not claim"),
        ({"verdict": "inconclusive", "control": HONEST}, "inconclusive: the planted mistake was not seen"),
    ],
)
def test_verdicts(changes, words):
    assert words in conclusion(replace(HELD, **changes)).plain


def test_blind_positions_are_admitted():
    assert "Nothing is known of 1 position" in printed(replace(HELD, detectable=(0.07, None)))
    assert "Power: none" in printed(replace(HELD, detectable=(None, None)))
