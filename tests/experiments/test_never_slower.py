"""The benchmark of the automatic budget: what it counts and says; it is not timed here."""

from __future__ import annotations

import pytest
from experiments.never_slower import AGAIN, AUTO, FIXED, NONE, PROSE, Row, blocks, forward_ms, pick, ratio, summarise
from hypothesis import given
from hypothesis import strategies as st

from draftgraph.lab.turns import Answer, Timed, Turn
from draftgraph.request.stats import PARTS
from draftgraph.view.sheet import Sheet
from experiments import never_slower
from published import read_quick


def timed(name: str, seconds: float, **parts: float) -> Timed:
    nodes = 0 if name == NONE else 12
    return Timed(0, seconds, seconds, Answer([0] * 8, 4, nodes, dict.fromkeys(PARTS, 0.0) | parts))


def turn(prompt: int, **seconds: float) -> Turn:
    return Turn(prompt, 0, {name: timed(name, each) for name, each in seconds.items()}, {})


def test_ratios_are_of_summed_seconds_and_the_best_fixed_budget_is_picked_on_other_prompts():
    seconds = {
        AUTO: (1.0, 2.0), NONE: (2.0, 4.0), AGAIN: (2.0, 4.0), "chain 4": (0.5, 3.0), "graph 8": (1.5, 1.0),
    }  # fmt: skip
    turns = [turn(prompt, **{name: both[prompt] for name, both in seconds.items()}) for prompt in (0, 1)]
    row = summarise("own", 1.0, "code", [*turns, *turns])
    assert (row.again[0], row.plain[0], row.best) == (1.0, 2.0, "graph 8 / chain 4")
    assert row.fixed[0] == (1.5 + 3.0) / 3.0, "each is measured where the other one was faster"
    assert (row.rounds, row.drafted) == (0.5, 3.0)
    assert row.kept


@given(st.lists(st.tuples(st.floats(0.1, 9.0), st.floats(0.1, 9.0)), min_size=1, max_size=9))
def test_an_interval_holds_between_the_smallest_and_the_largest_ratio(pairs: list[tuple[float, float]]):
    above, below = (dict(enumerate(side)) for side in zip(*pairs, strict=True))
    middle, low, high = ratio(above, below)
    shares = [a / b for a, b in pairs]
    assert min(shares) * (1 - 1e-9) <= low <= high <= max(shares) * (1 + 1e-9)
    assert min(shares) * (1 - 1e-9) <= middle <= max(shares) * (1 + 1e-9)


def test_time_in_forwards_is_counted_per_token():
    one = Turn(0, 0, {AUTO: timed(AUTO, 1.0, target=0.02, rule=9.0), NONE: timed(NONE, 1.0, target=5.0)}, {})
    assert forward_ms([one, one], AUTO, "target") == pytest.approx(20.0 / 8)


def test_one_prompt_is_its_own_other_half():
    assert pick({"x": {0: 2.0}, "y": {0: 1.0}}) == {0: "y"}


def test_rows_that_miss_are_said_to():
    good = Row(
        "own", 0.0, "code", (1.0, 1.0, 1.0), (1.5, 1.4, 1.6), (1.0, 0.9, 1.1), "chain 4", 0.3, 4.0, (6.0, 3.0, 1.0)
    )
    bad = Row("large", 1.0, "noise", (1.0, 1.0, 1.0), (0.9, 0.8, 1.0), (0.9, 0.8, 1.0), NONE, 1.0, 0.0, (6.0, 6.0, 0.0))
    parts = blocks({"prompts": 8, "repeats": 1, "tokens": 64}, "torch", [good, bad])
    text = "\n".join(part.markdown() if isinstance(part, Sheet) else part for part in parts)
    assert text.count("**missed**") == 1
    assert "1 of 2 rows are as wanted." in text
    assert good.ideal == 1.5
    assert "| own, code | 0 | 6.00 | 3.00 | 1.00 | 1.50 | 1.50 | 1.00 |" in text
    assert text.count("large, noise") == 1, "what drafts nothing has no ideal"


def test_a_quick_run_has_the_published_form_and_greedy_texts_are_those_of_plain_decoding(tmp_path, capsys):
    options = ["--quick", "--drafter", "own", "random", "--text", "prose", "--temperature", "0"]
    never_slower.main([*options, "--out", str(tmp_path)])
    found = read_quick(tmp_path, "never_slower")
    assert [(row["drafter"], row["text"]) for row in found["rows"]] == [("own", "prose"), ("random", "prose")]
    runs = [dict(zip(found["run_fields"], run, strict=True)) for run in found["runs"]]
    assert {run["contender"] for run in runs if run["pair"] == "own"} == {AUTO, AGAIN, *FIXED}
    assert {run["contender"] for run in runs if run["pair"] == "random"} == {AUTO, AGAIN, NONE}
    assert all(run["same"] and run["tokens"] == 8 for run in runs)
    assert "rows are as wanted" in capsys.readouterr().out


def test_there_is_prose_for_every_prompt():
    assert len(PROSE) >= 8
