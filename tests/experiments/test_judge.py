"""Digit sums in words, and the report on forgiven mismatches."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from draftgraph.lab.judge.questions import last_number
from experiments import judge, sums
from models import perturbed, tiny_lm


def test_every_spelling_of_a_sum_is_right_and_is_one_token_per_word() -> None:
    chance, words = random.Random(0), sums.tokenizer()
    answers = set()
    for _ in range(200):
        terms = sums.terms_of(chance)
        text = f"{sums.prompt_of(terms)} {sums.answer_of(terms, chance)}"
        assert last_number(str(sum(terms)), text)
        ids = words(text)["input_ids"]
        assert words.decode(ids) == text
        assert len(ids) == len(text.split())
        answers.add(text)
    assert len({sums.answer_of([1, 2, 3], chance) for _ in range(50)}) > 30


def test_the_likelier_word_hangs_on_the_numbers() -> None:
    chance = random.Random(1)
    counts = {word: sum(sums._one_of(sums.MAKES, 4, chance) == word for _ in range(2000)) for word in sums.MAKES}
    assert counts["makes"] == pytest.approx(2000 * sums.LIKELIER, abs=100)
    assert counts["is"] == pytest.approx(counts["gives"], abs=100)


def answered(right: list[bool]) -> judge.Answered:
    return judge.Answered("way", 0.5, 0.5, 0.5, right, 0, 2.0)


def test_a_loss_has_a_paired_interval() -> None:
    exact = answered([True] * 100)
    low, high = judge.lost(answered([True] * 90 + [False] * 10), exact)
    assert low < -10.0 < high < 0.0
    assert low == pytest.approx(-16.0, abs=2.0)
    assert judge.lost(exact, exact) == (0.0, 0.0)
    assert judge.lost(answered([True] * 100), exact) == (pytest.approx(-2.95, abs=0.01), 0.0), "none of 100 may be 3 %"


def test_the_committed_figures_show_what_the_docs_say() -> None:
    found = json.loads((Path(__file__).parents[2] / "docs" / "benchmarks" / "judge.json").read_text(encoding="utf-8"))
    ways, controls = found["ways"], found["controls"]
    lengths = [way["length"] for way in ways]
    assert lengths == sorted(lengths), "of rising thresholds"
    right = {way["name"]: sum(way["right"]) / len(way["right"]) for way in ways + controls}
    assert (ways[0]["threshold"], ways[0]["same"]) == (0.0, len(ways[0]["right"]))
    half = next(way for way in ways if way["name"] == "quantile 0.5")
    assert half["length"] > 1.2 * ways[0]["length"]
    assert right["quantile 0.5"] > right["exact"] - 0.02
    for control in ("coin", "shuffled"):
        assert right[f"{control}, as quantile 0.5"] < right["quantile 0.5"] - 0.3, "as many mismatches, but others"
    aucs = [(auc["test"], auc["shuffled"]) for auc in found["aucs"]]
    assert min(test for test, _ in aucs) > 0.7
    assert abs(sum(shuffled for _, shuffled in aucs) / len(aucs) - 0.5) < 0.1
    assert found["cpu_seconds"] < 480


def test_a_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a random pair, whose answers are right by chance: all of it but the training."""
    target = tiny_lm(vocab=len(sums.WORDS))
    pair = iter([target, perturbed(target, 0.2)])
    monkeypatch.setattr(sums, "train", lambda shape, seed: next(pair))
    monkeypatch.setattr(judge, "last_number", lambda reference, answer: len(answer) % 3 > 0)
    monkeypatch.setattr(judge, "MOST", 10)
    monkeypatch.setattr(judge, "SEEDS", range(1))
    judge.main(["--questions", "5", "--mined", "20", "--quick", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "judge-quick.json").read_text(encoding="utf-8"))
    lengths = [way["length"] for way in found["ways"]]
    assert (found["ways"][0]["name"], found["ways"][0]["same"]) == ("exact", 5)
    assert lengths[0] < lengths[-1]
    assert [way["threshold"] for way in found["ways"]] == sorted(way["threshold"] for way in found["ways"])
    assert len(found["controls"]) == 2 * len(judge.CONTROLLED)
    assert "| exact | 0 | 0% | 0% |" in (tmp_path / "judge-quick.md").read_text(encoding="utf-8")
