"""The comparison of theory and engine: its setups can be asked for, and its report says what was found."""

from __future__ import annotations

import pytest
from experiments.prediction import Row, markdown, parse, setups

from draftgraph import Config
from draftgraph.lab.predict.estimate import Estimate


def row(part: str, exact: bool, off: float) -> Row:
    said, found = Estimate(2.0, 0.1, 9, 90), Estimate(2.0 + 0.1 * off, 0.1, 9, 80)
    return Row("story-124k", 1.0, part, "chain 4, block", exact, said, found, 0.1 * off, off)


def test_setups_can_be_asked_for():
    for setup in setups():
        Config(**setup.options)
    assert len({setup.name for setup in setups()}) == len(setups())


def test_the_report_marks_and_counts_wide_differences():
    checks = [
        {
            "pair": "story-124k",
            "temperature": 1.0,
            "chains": {"4": {"said": {"value": 2.1}, "true": {"value": 2.0}, "off": {"value": 0.1, "error": 0.05}}},
        }
    ]
    rows = [row("places", True, 0.5), row("given", True, 1.0), row("texts", False, -4.0), row("shipped", True, 9.0)]
    machine = dict.fromkeys(
        ["cpu", "instructions", "cores", "threads", "system", "load_before", "python", "torch"], "x"
    )
    machine |= dict.fromkeys(["transformers", "draftgraph", "commit", "date"], "x")
    settings = {"texts": 9, "new_tokens": 64, "places": 100}
    text = markdown({"environment": machine, "settings": settings}, rows, checks)
    assert "Identities: 0 of 2 differences beyond 3" in text
    assert "Surrogate rows: 1 of 1 differences beyond 3" in text
    assert "-0.400 (-4.0) !" in text
    assert "4 deep 2.10 for 2.00 (+0.10 ± 0.05)" in text


@pytest.mark.parametrize("wrong", [["--temperature", "0"], ["--texts", "1"], ["--new-tokens", "4"]])
def test_what_cannot_be_compared_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        parse(wrong)
    assert "error" in capsys.readouterr().err


def test_quick_is_small():
    options = parse(["--quick"])
    assert (options.texts, options.places, options.pair, options.temperature) == (6, 12, ["story-124k"], [1.0])
