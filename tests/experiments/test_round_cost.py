"""The cost of a round is taken apart without a rest. Its figures are not looked at here."""

from __future__ import annotations

import pytest

from experiments import round_cost
from published import read_quick


def test_a_quick_run_has_the_published_form(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(round_cost, "CASES", round_cost.CASES[:1] + round_cost.CASES[-1:])
    monkeypatch.setattr(
        round_cost, "measured_in", lambda checkout, sizes, threads, backend: round_cost.measure(*sizes, backend)
    )
    round_cost.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    found = read_quick(tmp_path, "round_cost")
    assert [row["case"] for row in found["rows"]] == ["chain of 4, T=0", "lookup of 8, T=1"]
    assert all(row["engine"] > 0.0 and row["rounds"] > 0 for row in found["rows"])
    assert "chain of 4" in capsys.readouterr().out


def test_the_parts_of_a_round_and_the_calls_of_its_models_are_the_whole_round():
    seconds = {"drafter": 3.0, "target": 5.0, "drafting": 1.0, "warping": 0.5, "rule": 0.25, "commit": 0.25}
    parts = round_cost._parts(seconds, {"drafter": 2.0, "target": 4.5}, 11.0)
    assert parts["around drafter"] == 1.0
    assert parts["around target"] == 0.5
    assert parts["outside"] == 1.0
    assert sum(parts.values()) == pytest.approx(11.0)
    assert set(parts) == {*round_cost.ENGINE, *round_cost.AROUND, *round_cost.MODELS}
