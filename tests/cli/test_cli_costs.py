"""draftgraph costs: the table that is printed is the one that requests read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.text import Text
from typer.testing import CliRunner, Result

from cost_tables import costs
from draftgraph.budget import cost_cache
from draftgraph.cli import app
from draftgraph.cli.work.costs import costs_report
from draftgraph.engine import pair_costs as pairs
from pairs import save_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return list(map(str, save_pair(tmp_path_factory.mktemp("pair"))))


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often something was measured, into a folder of this test; models stay converted in the one of all tests."""
    times: list[int] = []

    def measure(target: object, drafter: object, run: object, chains: bool, *more: object) -> object:
        times.append(1)
        return costs(drafter=None if drafter is None else 0.5)

    monkeypatch.setattr(pairs, "measure", measure)
    monkeypatch.setattr("draftgraph.engine.engine.pair_costs", pairs.pair_costs)
    monkeypatch.setattr(cost_cache, "_MEASURED", set())
    monkeypatch.setattr(cost_cache, "folder", lambda: tmp_path / "cache")
    return times


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["costs", *arguments])


def test_rows_milliseconds_and_the_file(pair: list[str], measured: list[int], tmp_path: Path) -> None:
    result = run(*pair)
    assert result.exit_code == 0, result.output
    [file] = (tmp_path / "cache").glob("*.json")
    told = " ".join(result.stdout.split())
    assert file.name in told.replace(" ", "")
    assert "a pass of the target" in told
    assert "a pass of the drafter" in told
    assert "│ 65 │ 14.60 │ 14.60 │ 14.60 │ 2.92 │ 3 │" in told
    assert "plain decoding takes 5.20 ms per token" in told
    assert result.stderr.count("timing these models on this machine") == 1


def test_changes_and_paths_are_told_where_they_cost_something() -> None:
    table = costs(drafter=None)
    dearer = replace(table, target=replace(table.target, change=2e-3, path=1e-3))
    told = [str(text) for text in costs_report(dearer, None) if isinstance(text, Text)]
    assert "a pass of another size than the last one takes 2.00 ms more" in told
    assert "every further path of a draft takes 1.00 ms more, beside its rows" in told
    assert not any("more" in str(text) for text in costs_report(table, None) if isinstance(text, Text))


def test_a_second_time_it_is_read_and_a_refresh_times_again(pair: list[str], measured: list[int]) -> None:
    assert "timing" in run(*pair).stderr
    again = run(*pair)
    assert again.stderr == ""
    assert "read from costs-" in " ".join(again.stdout.split())
    assert len(measured) == 1
    run(*pair, "--refresh")
    assert len(measured) == 2


def test_json_is_one_object_and_nothing_else(pair: list[str], measured: list[int]) -> None:
    result = run(pair[0], "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["target"]["rows"] == [1, 2, 65]
    assert found["drafter"] is None
    assert Path(found["file"]).is_file()
    assert found["busy"] is False


def test_generate_reads_the_same_table(pair: list[str], measured: list[int]) -> None:
    run(*pair)
    models = ["--model", pair[0], "--draft-model", pair[1], "--max-new-tokens", "4"]
    assert CliRunner().invoke(app, ["generate", "def f", *models]).exit_code == 0
    assert len(measured) == 1


def test_the_structure_has_a_table_of_its_own(pair: list[str], measured: list[int]) -> None:
    run(*pair)
    run(*pair, "--structure", "chain")
    assert len(measured) == 2


def test_without_a_folder_it_says_so(pair: list[str], measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_cache, "folder", lambda: None)
    monkeypatch.setattr(cost_cache, "_UNSAVED", {})
    monkeypatch.setattr(cost_cache, "_TOLD", set())
    result = run(*pair)
    assert "kept nowhere" in result.stdout
    assert "DRAFTGRAPH_CACHE" in result.stderr
    assert json.loads(run(*pair, "--json").stdout)["file"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        ["--structure", "bush"],
        ["--dtype", "float3"],
        ["--rule", "nothing"],
        ["--draft-weights", "int3"],
        ["a", "--model", "b"],
    ],
)
def test_misuse_is_one_line(wrong: list[str], pair: list[str], measured: list[int]) -> None:
    result = run(*(wrong if wrong[0] == "a" else [*pair, *wrong]))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith("error: ")
