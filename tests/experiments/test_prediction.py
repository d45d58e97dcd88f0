"""The comparison of theory and engine: its setups can be asked for, and its report says what was found."""

from __future__ import annotations

from experiments.prediction import PARTS, SHIPPED, Row, blocks, setups

from draftgraph import Config
from draftgraph.lab.predict.estimate import Estimate
from draftgraph.view.sheet import Sheet
from experiments import prediction
from published import read_quick


def row(part: str, exact: bool, off: float) -> Row:
    said, found = Estimate(2.0, 0.1, 9, 90), Estimate(2.0 + 0.1 * off, 0.1, 9, 80)
    return Row("story-124k", 1.0, part, "chain 4, block", exact, said, found, 0.1 * off, off)


def test_setups_can_be_asked_for():
    for setup in setups():
        Config(**setup.options)
    names = {setup.name for setup in setups()}
    assert len(names) == len(setups())
    assert names > set(SHIPPED)


def test_the_report_marks_and_counts_wide_differences():
    chain = {"said": {"value": 2.1}, "true": {"value": 2.0}, "off": {"value": 0.1, "error": 0.05}}
    checks = [{"pair": "story-124k", "temperature": 1.0, "chains": {"4": chain}}]
    rows = [row("places", True, 0.5), row("given", True, 1.0), row("texts", False, -4.0), row("shipped", True, 9.0)]
    parts = blocks({"texts": 9, "new_tokens": 64, "places": 100}, rows, checks)
    text = "\n".join(part.markdown() if isinstance(part, Sheet) else part for part in parts)
    assert "Identities: 0 of 2 differences beyond 3" in text
    assert "Surrogate rows: 1 of 1 differences beyond 3" in text
    assert "-0.400 (-4.0) !" in text
    assert "4 deep 2.10 for 2.00 (+0.10 ± 0.05)" in text


def test_a_quick_run_has_every_part_and_the_published_form(tiny_material, tmp_path, monkeypatch, capsys):
    few = [setup for setup in setups() if setup.name in (*SHIPPED, "chain 4, agree")]
    monkeypatch.setattr(prediction, "setups", lambda: few)
    options = ["--quick", "--pair", "story-124k", "--new-tokens", "16"]
    prediction.main([*options, "--data", str(tiny_material), "--out", str(tmp_path)])
    found = read_quick(tmp_path, "prediction")
    assert found["settings"] == {"texts": 6, "new_tokens": 16, "places": 12}
    assert {one["part"] for one in found["rows"]} == set(PARTS)
    assert {one["temperature"] for one in found["rows"]} == {1.0}
    assert all(abs(one["off_errors"]) < 6.0 for one in found["rows"] if one["exact"])
    assert "## story-124k, temperature 1" in capsys.readouterr().out
