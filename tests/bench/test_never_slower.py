"""The benchmark of the automatic budget: what it counts and says; it is not timed here."""

from __future__ import annotations

from bench.clock import Run
from bench.never_slower import AGAIN, AUTO, FIXED, NONE, PROSE, Row, markdown, parse, summarise

from draftgraph.stats import PARTS


def run(name: str, seconds: float, prompt: str = "a") -> Run:
    drafted = 3 * (name != NONE)
    return Run("own", 1.0, name, prompt, 0, 0, seconds, 8, 4, 4 * drafted, None, (0.0,) * len(PARTS))


def test_ratios_are_taken_within_turns_and_the_best_fixed_budget_is_found():
    runs = [run(AUTO, 1.0), run(NONE, 2.0), run(AGAIN, 2.0), run("chain 4", 0.9), run("graph 8", 1.5)]
    runs += [
        run(AUTO, 2.0, "b"),
        run(NONE, 4.0, "b"),
        run(AGAIN, 4.0, "b"),
        run("chain 4", 1.8, "b"),
        run("graph 8", 3, "b"),
    ]
    row = summarise("own", "code", runs)
    assert (row.again[0], row.plain[0], row.best) == (1.0, 2.0, "chain 4")
    assert row.fixed[0] == 0.9
    assert (row.rounds, row.drafted) == (0.5, 3.0)
    assert not row.kept


def test_rows_that_miss_are_said_to():
    good = Row("own", 0.0, "code", (1.0, 1.0, 1.0), (1.5, 1.4, 1.6), (1.0, 0.9, 1.1), "chain 4", 0.3, 4.0)
    bad = Row("large", 1.0, "noise", (1.0, 1.0, 1.0), (0.9, 0.8, 1.0), (0.9, 0.8, 1.0), NONE, 1.0, 0.0)
    environment = dict.fromkeys(
        ("cpu", "instructions", "cores", "threads", "system", "load_before", "python", "torch", "transformers", "draftgraph",
         "commit", "date"), "?",
    )  # fmt: skip
    text = markdown({"settings": vars(parse(["--quick"])), "environment": environment}, [good, bad])
    assert text.count("**missed**") == 1
    assert "1 of 2 rows are as wanted." in text


def test_every_configuration_can_be_asked_for():
    assert set(FIXED) >= {NONE}
    assert parse(["--drafter", "large"]).drafter == ["large"]
    assert len(PROSE) >= parse([]).prompts
