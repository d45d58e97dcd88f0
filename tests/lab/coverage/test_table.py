"""The stored table: what it says, that the docs say the same, and how files are read and joined."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from rich.text import Text

from draftgraph.errors import OptionError
from draftgraph.lab.coverage.report import models_markdown, models_report
from draftgraph.lab.coverage.small import named_types
from draftgraph.lab.coverage.table import (
    CRASHED,
    EQUAL,
    REFUSED,
    STORED,
    UNUSABLE,
    WRONG,
    Found,
    Row,
    Table,
    read_table,
)

ROOT = Path(__file__).resolve().parents[3]
VERSIONS = {"draftgraph": "0.1.0", "transformers": "5.24.0"}
GRAPHS = ("graph", "tree", "chain")
CAUSE = "cannot verify drafts: its layers compress; use another architecture"


def table(*rows: Row) -> Table:
    return Table(VERSIONS, "2026-11-28", list(rows))


SOME = table(
    Row("beta", "BetaForCausalLM", {"torch": Found(REFUSED, (), f"BetaForCausalLM {CAUSE}")}),
    Row("gamma", "GammaForCausalLM", {"torch": Found(EQUAL, GRAPHS), "openvino": Found(REFUSED, (), "gamma cannot")}),
    Row("gamma, windows", "GammaForCausalLM", {"torch": Found(EQUAL, ("chain",))}),
    Row("zeta_text", "ZetaForCausalLM", {"torch": Found(REFUSED, (), f"ZetaForCausalLM {CAUSE}")}),
)


# --- what is stored -----------------------------------------------------------------------------------------------------


def test_the_docs_say_what_the_stored_table_says() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert page == models_markdown(read_table()), "write it anew: draftgraph models --out docs/models.md"


def test_the_stored_table_is_whole_and_nothing_in_it_is_wrong() -> None:
    stored = read_table()
    if stored.versions["transformers"] == transformers.__version__:
        assert {row.name for row in stored.rows} >= set(named_types())
    counts = stored.counts("torch")
    assert counts[EQUAL] >= 140
    assert counts[WRONG] == counts[CRASHED] == 0
    assert sum(counts.values()) == len(stored.types)
    for row in stored.rows:
        for found in row.backends.values():
            assert (found.status == EQUAL) is bool(found.drafts) is (not found.why)


def test_the_stored_table_is_small() -> None:
    assert STORED.stat().st_size < 100_000


# --- reports ------------------------------------------------------------------------------------------------------------


def test_causes_that_are_the_same_are_told_once() -> None:
    sheet, *told = models_report(SOME)
    assert [str(cell) for cell in sheet.rows[0]] == ["beta", "refused", "not tried", "(1)"]
    assert [str(cell) for cell in sheet.rows[1]] == ["gamma", "graph, tree, chain", "refused", "(2)"]
    assert [str(cell) for cell in sheet.rows[3]] == ["zeta_text", "refused", "not tried", "(1)"]
    said = [part.plain for part in told if isinstance(part, Text)]
    assert said[:2] == [f"(1) It {CAUSE}.", "(2) It cannot."]
    assert said[2].startswith(
        "torch: of 3 model types 1 are equal (1 with graphs, 0 with chains alone), 2 refused, 0 wrong"
    )
    assert said[3].startswith("openvino: of 1 model types 0 are equal")
    assert said[4] == "tried with draftgraph 0.1.0, transformers 5.24.0 on 2026-11-28"


def test_a_page_begins_with_the_counts() -> None:
    page = models_markdown(SOME)
    assert page.startswith("# Models\n\nEvery model type")
    assert (
        page.index("torch: of 3 model types") < page.index("| gamma, windows | chain |") < page.index("(2) It cannot.")
    )


# --- choosing and joining -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["gamma", "Gamma", "GammaForCausalLM", "gam-ma"])
def test_names_are_found_by_type_and_class(word: str) -> None:
    assert [row.name for row in SOME.only([word]).rows] == ["gamma", "gamma, windows"]


def test_rows_are_chosen_by_status() -> None:
    assert [row.name for row in SOME.only(status=REFUSED).rows] == ["beta", "gamma", "zeta_text"]
    assert SOME.only(["gamma"], UNUSABLE).rows == []


def test_names_and_statuses_that_are_not_possible_are_refused() -> None:
    with pytest.raises(OptionError, match="no model type matches 'delta'"):
        SOME.only(["gamma", "delta"])
    with pytest.raises(OptionError, match="status='fine' is not possible; write equal, refused"):
        SOME.only(status="fine")


def test_a_table_survives_a_file(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_text(SOME.to_json(), encoding="utf-8")
    assert read_table(file) == SOME
    assert len(SOME.to_json().splitlines()) == len(SOME.rows) + 2


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"versions": {}, "date": 3, "rows": []}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "models.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match="is no table of models"):
        read_table(file)
    with pytest.raises(OptionError, match="is no table of models"):
        read_table(tmp_path / "absent.json")


def test_rows_that_are_made_anew_leave_what_others_have_found() -> None:
    anew = SOME.with_rows([Row("gamma", "GammaForCausalLM", {"openvino": Found(EQUAL, GRAPHS)}), Row("alpha", "A", {})])
    assert [row.name for row in anew.rows] == ["alpha", "beta", "gamma", "gamma, windows", "zeta_text"]
    assert anew.rows[2].backends == {"torch": Found(EQUAL, GRAPHS), "openvino": Found(EQUAL, GRAPHS)}
