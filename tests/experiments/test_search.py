"""Searched drafts beside lookup: everybody writes the same texts, and exact best-first is what the search is to find."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

from experiments.replay import Recorded, rounds_of

import draftgraph as dg
from draftgraph.draft.ngrams.table import NgramTable
from draftgraph.draft.puct import Search
from draftgraph.draft.search import SearchDrafter
from experiments import search
from models import tiny_lm


def test_everybody_writes_the_same_texts_and_a_second_pass_accepts_more() -> None:
    engine = dg.Engine.from_pretrained(tiny_lm(), drafter="lookup", budget=4)
    prompts = [[5, 6, 5, 7, 5, 6], [9, 4]]
    task = search.Task(
        "tiny", engine, prompts, [engine.generate(prompt, max_new_tokens=24).token_ids for prompt in prompts]
    )
    rows = {row.name: row for row in search.measure(task, 0.0, 6, 24)}
    assert all((row.same, row.texts) == (2, 2) for row in rows.values())
    assert rows["lookup"].over_lookup == (1.0, 0.0)
    assert rows["search, shared, second pass"].tokens > rows["search, shared"].tokens
    assert rows["search, corpus"].tokens > rows["search"].tokens
    assert all(row.microseconds > 0 for row in rows.values())
    assert "search, no value term" in str(search.report([*rows.values()], {"tiny": "a command"})[2])


def test_best_first_finds_the_likeliest_prefixes() -> None:
    draw, table = random.Random(3), NgramTable()
    table.learn([], [draw.randrange(5) for _ in range(200)])
    trust = lambda length: 0.9  # noqa: E731
    best = search.BestFirst([1, 2], table.behind, trust, 4).found(12)
    scores = [each.score for each in best]
    assert scores == sorted(scores, reverse=True)
    found = {each.path: each.score for each in Search([1, 2], table.behind, trust, 4).found(12, 400)}
    searched = sorted(found.values(), reverse=True)[:12]
    assert 0.97 * sum(scores) <= sum(searched) <= sum(scores) + 1e-9


def test_recorded_texts_are_replayed_as_the_engine_decodes_them() -> None:
    """The same rounds, without the model."""
    model = tiny_lm()
    engine = dg.Engine.from_pretrained(model, drafter="search", edges=("context",), budget=6)
    result = engine.generate([5, 6, 5, 7, 5, 6], max_new_tokens=40)
    text = Recorded([5, 6, 5, 7, 5, 6], result.token_ids)
    assert rounds_of(SearchDrafter(("context",)), text, 6, 64) == result.stats.num_rounds


def test_rows_of_texts_that_are_not_measured_anew_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "search.json"
    assert search.held(file, ["code"]) == ([], {})
    rows = [search.Row(kind, 0.0, 8, "lookup", 1.5, (1.0, 0.0), 9.0, 2, 2) for kind in ("stories", "code")]
    held = {"rows": [asdict(row) for row in rows], "commands": {"stories": "one", "code": "other"}}
    file.write_text(json.dumps(held), encoding="utf-8")
    assert search.held(file, ["code"]) == (rows[:1], {"stories": "one"})
