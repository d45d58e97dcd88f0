"""Rows of papers: trained, measured, kept one by one, compared in pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import rows


def result(row: str, seed: int, kept: list[str]) -> rows.Result:
    return rows.Result(row, seed, 1000, 1.0, kept, 2)


def test_rows_are_compared_with_rows_that_are_there() -> None:
    for name, row in rows.ROWS.items():
        assert row.against in ("", *rows.ROWS), name
    assert all(name in rows.ROWS and like in rows.ROWS for name, like in rows.SHARED.items())


def test_figures_are_means_over_prompts_and_seeds() -> None:
    one = result("fspad", 0, ["5 1", "0 0"])
    assert one.lengths == [4.0, 1.0]
    assert one.by_position() == [0.5, 0.5, 1.0, 1.0, 1.0]
    mean, error = rows.with_error([[4.0, 1.0], [2.0, 3.0]])
    assert mean == 2.5
    assert error == pytest.approx((0.5 / 2 + 0.0) ** 0.5)  # prompts have means 3 and 2, seeds 2.5 and 2.5
    others = [result("eagle", 0, ["4 0", "0 0"]), result("eagle", 7, ["5 5", "5 5"])]
    assert rows._compared("fspad", [one, result("fspad", 1, ["5", "5"])], others)[2].startswith("+0.50")


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["--quick", "--out", str(tmp_path), "--work", str(tmp_path / "work"), "--seeds", "0", "--rows"]
    measure, measured = rows.measure, []

    def dying(name: str, *rest: Any) -> rows.Result:
        measured.append(name)
        if measured.count("fspad") == 1 and name == "fspad":
            raise KeyboardInterrupt
        return measure(name, *rest)

    monkeypatch.setattr(rows, "measure", dying)
    with pytest.raises(KeyboardInterrupt):
        rows.main([*asked, "eagle", "fspad"])
    rows.main([*asked, "eagle", "fspad"])
    rows.main([*asked, "glide", "glide-comb"])
    assert measured == ["eagle", "fspad", "fspad", "glide", "glide-comb"]
    said = json.loads((tmp_path / "rows-quick.json").read_text(encoding="utf-8"))
    assert [each["row"] for each in said["results"]] == ["eagle", "fspad", "glide", "glide-comb"]
    assert all(each["exact"] == len(each["kept"]) for each in said["results"])
    report = (tmp_path / "rows-quick.md").read_text(encoding="utf-8")
    assert "| fspad | eagle | " in report
    assert {path.name for path in (tmp_path / "work" / "quick").iterdir()} == {"eagle-0-4", "fspad-0-4", "glide-0-4"}


def test_other_settings_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["--quick", "--out", str(tmp_path), "--work", str(tmp_path / "work"), "--seeds", "0", "--rows", "eagle"]
    rows.main(asked)
    rows.main([*asked, "--prompts", "3"])
    said = json.loads((tmp_path / "rows-quick.json").read_text(encoding="utf-8"))
    assert (said["settings"]["prompts"], len(said["results"])) == (3, 1)
