"""The benchmark of the automatic budget: what it counts and says; it is not timed here."""

from __future__ import annotations

from dataclasses import replace

import pytest
from experiments.clock import Run
from experiments.never_slower import (
    AGAIN,
    AUTO,
    FIXED,
    NONE,
    PROSE,
    Row,
    forward_ms,
    markdown,
    parse,
    pick,
    ratio,
    summarise,
)
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.request.stats import PARTS


def run(name: str, seconds: float, prompt: str = "a") -> Run:
    drafted = 3 * (name != NONE)
    return Run("own", 1.0, name, prompt, 0, 0, seconds, 8, 4, 4 * drafted, None, (0.0,) * len(PARTS))


def test_ratios_are_of_summed_seconds_and_the_best_fixed_budget_is_picked_on_other_prompts():
    seconds = {
        AUTO: (1.0, 2.0), NONE: (2.0, 4.0), AGAIN: (2.0, 4.0), "chain 4": (0.5, 3.0), "graph 8": (1.5, 1.0),
    }  # fmt: skip
    runs = [run(name, each, prompt) for name, both in seconds.items() for prompt, each in zip("ab", both, strict=True)]
    row = summarise("own", "code", [*runs, *runs])
    assert (row.again[0], row.plain[0], row.best) == (1.0, 2.0, "graph 8 / chain 4")
    assert row.fixed[0] == (1.5 + 3.0) / 3.0, "each is measured where the other one was faster"
    assert (row.rounds, row.drafted) == (0.5, 3.0)
    assert row.kept


@given(st.lists(st.tuples(st.floats(0.1, 9.0), st.floats(0.1, 9.0)), min_size=1, max_size=9))
def test_an_interval_holds_between_the_smallest_and_the_largest_ratio(pairs: list[tuple[float, float]]):
    above, below = ({str(i): each[side] for i, each in enumerate(pairs)} for side in (0, 1))
    middle, low, high = ratio(above, below)
    shares = [a / b for a, b in pairs]
    assert min(shares) * (1 - 1e-9) <= low <= high <= max(shares) * (1 + 1e-9)
    assert min(shares) * (1 - 1e-9) <= middle <= max(shares) * (1 + 1e-9)


def test_time_in_forwards_is_counted_per_token():
    its = run(AUTO, 1.0)
    timed = replace(its, parts=tuple(0.01 * (1 + i) for i in range(len(PARTS))))
    assert forward_ms([timed, timed, run(NONE, 1.0)], AUTO, "target") == pytest.approx(20.0 / its.tokens)


def test_one_prompt_is_its_own_other_half():
    assert pick(["x", "y"], {"x": {"a": 2.0}, "y": {"a": 1.0}}) == {"a": "y"}


def test_rows_that_miss_are_said_to():
    good = Row(
        "own", 0.0, "code", (1.0, 1.0, 1.0), (1.5, 1.4, 1.6), (1.0, 0.9, 1.1), "chain 4", 0.3, 4.0, (6.0, 3.0, 1.0)
    )
    bad = Row("large", 1.0, "noise", (1.0, 1.0, 1.0), (0.9, 0.8, 1.0), (0.9, 0.8, 1.0), NONE, 1.0, 0.0, (6.0, 6.0, 0.0))
    environment = dict.fromkeys(
        ("cpu", "instructions", "cores", "threads", "system", "load_before", "python", "torch", "transformers", "draftgraph",
         "commit", "date"), "?",
    )  # fmt: skip
    text = markdown({"settings": vars(parse(["--quick"])), "environment": environment}, [good, bad])
    assert text.count("**missed**") == 1
    assert "1 of 2 rows are as wanted." in text
    assert good.ideal == 1.5
    assert "| own, code | 0 | 6.00 | 3.00 | 1.00 | 1.50 | 1.50 | 1.00 |" in text
    assert text.count("large, noise") == 1, "what drafts nothing has no ideal"


def test_every_configuration_can_be_asked_for():
    assert set(FIXED) >= {NONE}
    assert parse(["--drafter", "large"]).drafter == ["large"]
    assert len(PROSE) >= parse([]).prompts
