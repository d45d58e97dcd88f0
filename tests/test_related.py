"""The table of docs/related.md: every line of code runs, every command is one, and every test that it names is there."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

import draftgraph as dg
from draftgraph.cli import app
from draftgraph.data import bundled_pair
from draftgraph.engine.config import DRAFTERS
from judges import head_for, save_head

ROOT = Path(__file__).parents[1]
PROMPT, TOKENS = "def add(a, b):", 12
NAMES = "draftgraph.lab.train.features.names"
NETWORKS = import_module(NAMES).NAMES if find_spec(NAMES) is not None else ()
TRAINED = {
    "GliDe": "glide", "FSPAD": "fspad", "GRIFFIN": "griffin", "Chimera": "chimera", "FREE": "exit",
    "SpecDec, drafting": "specdec", "SpecDiff": "specdiff",
}  # fmt: skip
PARTS = {
    "ADED": "search" in DRAFTERS,
    "PEARL": "schedule" in {field.name for field in fields(dg.Config)},
    "DSBD": "BeamParams" in dg.__all__,
    **{system: network in NETWORKS for system, network in TRAINED.items()},
}
"""Rows of parts that come on their own, and whether they are here."""


@dataclass(frozen=True)
class Row:
    system: str
    write: str
    lossless: bool
    test: str


def rows() -> list[Row]:
    found = []
    for line in (ROOT / "docs" / "related.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] not in ("system", "---"):
            assert len(cells) == 6, line
            system = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", cells[0])
            found.append(Row(system, cells[2].strip("`"), cells[3] != "**no**", cells[5].strip("`")))
    return found


ROWS = [pytest.param(row, id=row.system) for row in rows()]
CODE = [pytest.param(row, id=row.system) for row in rows() if not row.write.startswith("draftgraph ")]
COMMANDS = [pytest.param(row, id=row.system) for row in rows() if row.write.startswith("draftgraph ")]


@cache
def pair() -> tuple[Any, Any, Any]:
    """Loaded: nothing is converted."""
    target, drafter = bundled_pair()
    return *map(AutoModelForCausalLM.from_pretrained, (target, drafter)), AutoTokenizer.from_pretrained(target)


def engine(**options: Any) -> dg.Engine:
    target, drafter, words = pair()
    drafting = {} if options.get("drafter") else {"draft_model": drafter}
    return dg.Engine.from_pretrained(target, tokenizer=words, **drafting, **options)


def needed(row: Row) -> None:
    if not PARTS.get(row.system, True):
        pytest.skip("this part is not here yet")


def test_all_systems_of_the_two_papers_have_a_row() -> None:
    named = " ".join(row.system for row in rows())
    for system in (
        "DSBD", "FSPAD", "ADED", "Chimera", "GliDe", "CaPE", "MCSD", "AutoJudge", "GRIFFIN", "Yin", "PEARL", "SpecDiff", "EMS-SD",
        "FREE", "SpecDec", "GSD", "Block Verification",
    ):  # fmt: skip
        assert system in named
    assert PARTS.keys() <= {row.system for row in rows()}


@pytest.mark.parametrize("row", ROWS)
def test_the_test_that_a_row_names_is_there(row: Row) -> None:
    needed(row)
    assert (ROOT / row.test).is_file()


@pytest.mark.parametrize("row", CODE)
def test_code_runs_on_the_bundled_pair(row: Row, tmp_path: Path) -> None:
    """Greedy texts of lossless rows are those of plain decoding, and every result says whether its rule is lossless."""
    needed(row)
    if row.write.startswith("engine."):
        results = eval(row.write, {"dg": dg, "engine": engine(budget=6)})
        for result in results if isinstance(results, list) else []:
            assert result.stats.lossless is row.lossless
        assert results
        return
    names: dict[str, Any] = {"dg": dg}
    if "FOLDER" in row.write:
        names["FOLDER"] = save_head(tmp_path / "judge", head_for(pair()[0]), 0.9)
    options = eval(f"dict({row.write})", names)
    shaped = "Tree(" in row.write
    speculating = engine(**options, **({} if shaped else {"budget": 6}))
    greedy = speculating.generate(PROMPT, max_new_tokens=TOKENS)
    assert greedy.stats.lossless is row.lossless
    assert greedy.stats.num_draft_tokens > 0
    if row.lossless:
        assert greedy.token_ids == engine(budget=0).generate(PROMPT, max_new_tokens=TOKENS).token_ids
        assert speculating.generate(PROMPT, max_new_tokens=TOKENS, temperature=0.8, seed=1).stats.lossless


@pytest.mark.parametrize("row", COMMANDS)
def test_commands_are_commands(row: Row) -> None:
    needed(row)
    _, name, *arguments = shlex.split(row.write)
    group: Any = typer.main.get_command(app)
    command = group.get_command(None, name)
    parsed = command.make_context(name, arguments).params
    if row.system in TRAINED:
        assert parsed["network"] == TRAINED[row.system]
