"""draftgraph models: the stored table is printed, and another one is made where that is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from draftgraph.cli import app
from draftgraph.cli.work import models as work
from draftgraph.lab.coverage.run import new_table
from draftgraph.lab.coverage.table import CRASHED, EQUAL, REFUSED, Found, Row, read_table

TRIED: list[tuple[list[str], list[str]]] = []


@pytest.fixture(autouse=True)
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], list[str]]]:
    """What is tried, in place of a trial."""
    TRIED.clear()

    def run(names: Sequence[str], backends: Sequence[str]) -> Iterator[Row]:
        TRIED.append((list(names), list(backends)))
        yield from (Row(name, "Some", {each: Found(EQUAL, ("chain",)) for each in backends}) for name in names)

    monkeypatch.setattr(work, "run", run)
    return TRIED


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments], env={"COLUMNS": "120"})


def refused(result: Result, message: str) -> None:
    assert (result.exit_code, message in result.stderr) == (2, True), result.output


def test_the_stored_table_is_printed_and_nothing_is_tried() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert not TRIED
    for row in read_table().rows:
        assert row.name in result.stdout
    assert "torch: of" in result.stdout


def test_neither_torch_nor_transformers_is_needed_to_read_it() -> None:
    code = """if True:
        import sys
        from draftgraph.cli.work.models import Order, tell_models
        tell_models(Order(["llama"], None, [], False, None, False))
        assert not {"torch", "transformers"} & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, "llama" in done.stdout) == (0, True), done.stderr


def test_types_are_chosen_by_name_backend_and_status() -> None:
    table = json.loads(run("Gemma3", "--json", "--backend", "torch").stdout)
    assert [row["name"] for row in table["rows"]] == [row.name for row in read_table().rows if "gemma3" in row.name]
    assert all(list(row["backends"]) == ["torch"] for row in table["rows"])
    refused_ones = json.loads(run("--status", "refused", "--backend", "torch", "--json").stdout)["rows"]
    assert {row["backends"]["torch"]["status"] for row in refused_ones} == {REFUSED}


def test_what_is_not_possible_is_refused_before_anything_is_tried(tmp_path: Path) -> None:
    refused(run("nosuchmodel"), "no model type matches 'nosuchmodel'")
    refused(run("--run", "nosuchmodel"), "no model type matches 'nosuchmodel'")
    refused(run("--run", "--status", "fine"), "status='fine' is not possible")
    refused(run("--run", "--backend", "tpu"), "backend='tpu' is not possible; write torch or openvino")
    refused(run("--run", "--out", str(tmp_path)), "is not possible; write a file")
    refused(run("--run", "--out", str(tmp_path / "absent" / "models.json")), "is not possible; write a file")
    assert not TRIED


def test_a_page_is_written_from_the_stored_table(tmp_path: Path) -> None:
    page = tmp_path / "models.md"
    assert run("--out", str(page)).exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("# Models\n")


def test_some_types_are_tried_anew_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    before = new_table(
        [Row("beta", "B", {"torch": Found(EQUAL, ("graph",))}), Row("ctrl", "C", {"torch": Found(REFUSED, (), "no")})]
    )
    file.write_text(before.to_json(), encoding="utf-8")
    result = run("ctrl", "--run", "--backend", "torch", "--out", str(file))
    assert result.exit_code == 0, result.output
    assert TRIED == [(["ctrl"], ["torch"])]
    assert "1 of 1  ctrl  torch: equal" in result.stderr
    held = {row.name: row.backends["torch"] for row in read_table(file).rows}
    assert held == {"beta": Found(EQUAL, ("graph",)), "ctrl": Found(EQUAL, ("chain",))}


def test_rows_of_other_versions_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_text('{"versions": {"transformers": "4.0"}, "date": "2026-01-01", "rows": [\n]}', encoding="utf-8")
    refused(
        run("ctrl", "--run", "--out", str(file)),
        "was made with transformers 4.0; try all models, or write another file",
    )
    assert run("--run", "--out", str(file), "--json").exit_code == 0
    assert len(read_table(file).rows) > 180


def test_a_crash_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        work, "run", lambda names, backends: iter([Row("ctrl", "C", {"torch": Found(CRASHED, (), "it died")})])
    )
    result = run("ctrl", "--run", "--backend", "torch")
    assert result.exit_code == 1
    assert "(1) it died." in result.stdout
