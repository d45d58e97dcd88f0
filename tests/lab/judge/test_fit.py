"""Heads: a regression that finds what it was made from, an AUC, and a choice that looks at held-out questions only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from draftgraph.backends.judge_files import read_judge
from draftgraph.errors import ModelError
from draftgraph.lab.judge.fit import MISSED, Mined, fit_head, read_mined, recommended, split
from draftgraph.lab.judge.logistic import fit_logistic, roc_auc
from draftgraph.lab.judge.project import SETTINGS, TARGET, MineSettings, fit
from draftgraph.lab.train.errors import TrainingError

WIDTH = 6


def made(count: int = 1500, noise: float = 1.0, seed: int = 0) -> tuple[Mined, torch.Tensor]:
    """Mismatches whose importance hangs on one direction, and that direction."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2 * WIDTH, generator=random) * torch.logspace(-1, 1, 2 * WIDTH) + 3.0
    direction = torch.randn(2 * WIDTH, generator=random) / torch.logspace(-1, 1, 2 * WIDTH)
    chance = ((x - 3.0) @ direction / noise - 0.5).sigmoid()
    y = torch.rand(count, generator=random) < chance
    return Mined(x, y, torch.arange(count) // 5), direction


def test_the_regression_is_where_the_gradient_of_its_loss_is_zero():
    mined, _ = made(400)
    fitted, penalty = fit_logistic(mined.x, mined.y, 0.03), 0.03
    rows = (mined.x.double() - fitted.mean) / fitted.scale
    off = fitted.scores(mined.x) - mined.y.double()
    torch.testing.assert_close(rows.T @ off / len(off), -penalty * fitted.weight, atol=1e-5, rtol=0.0)
    assert float(off.mean()) == pytest.approx(0.0, abs=1e-5)


def test_it_finds_the_direction_whatever_the_scales():
    mined, direction = made(6000, noise=0.3)
    fitted = fit_logistic(mined.x, mined.y, 1e-4)
    found = fitted.weight / fitted.scale
    assert float(torch.cosine_similarity(found, direction.double(), dim=0)) > 0.97


def test_a_constant_number_says_nothing():
    mined, _ = made(300)
    x = torch.cat([mined.x, torch.full((300, 1), 7.0)], dim=1)
    fitted = fit_logistic(x, mined.y, 1e-3)
    assert bool(fitted.scores(x).isfinite().all())
    assert float(fitted.weight[-1]) == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_the_auc_counts_pairs(rows):
    scores, y = torch.tensor([float(score) for score, _ in rows]), torch.tensor([true for _, true in rows])
    pairs = [(s > t) + 0.5 * (s == t) for s in scores[y].tolist() for t in scores[~y].tolist()]
    auc = roc_auc(scores, y)
    assert auc != auc if not pairs else auc == pytest.approx(sum(pairs) / len(pairs))


def test_held_out_mismatches_are_told_apart_and_shuffled_labels_are_not():
    fits = [fit_head(made(seed=seed)[0], seed) for seed in range(6)]
    assert min(fitted.aucs["test"] for fitted in fits) > 0.7
    shuffled = sum(fitted.aucs["shuffled"] for fitted in fits) / len(fits)
    assert shuffled == pytest.approx(0.5, abs=0.08)


def test_no_question_is_in_two_parts_and_none_is_lost():
    mined, _ = made()
    parts = split(mined, 3)
    questions = [set(part.question.tolist()) for part in parts.values()]
    assert sum(map(len, questions)) == len(set().union(*questions)) == 300
    assert sum(len(part.y) for part in parts.values()) == len(mined.y)
    assert questions != [set(part.question.tolist()) for part in split(mined, 4).values()]


def test_the_recommended_threshold_forgives_few_important_mismatches():
    scores = torch.rand(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    below = float((scores < recommended(scores)).double().mean())
    assert below == pytest.approx(MISSED)
    assert recommended(torch.tensor([0.4, 0.9], dtype=torch.float64)) == 0.4, "of a few important ones none is forgiven"


def test_one_kind_of_mismatch_teaches_nothing():
    mined, _ = made()
    with pytest.raises(
        TrainingError, match=r"mismatches for train, 0 are important: nothing can be learnt without both"
    ):
        fit_head(Mined(mined.x, torch.zeros(1500, dtype=torch.bool), mined.question))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of findings."""
    mined, _ = made()
    (tmp_path / "states").mkdir()
    for number in range(300):
        rows = mined.question == number
        before, behind = (part.contiguous() for part in mined.x[rows].chunk(2, dim=1))
        important = mined.y[rows].to(torch.uint8)
        content = {"before": before, "behind": behind, "important": important}
        safetensors.torch.save_file(content, tmp_path / "states" / f"{number:06}.safetensors")
    settings = MineSettings("tiny", 2, "t", "d", "q", "last-number", 24)
    (tmp_path / SETTINGS).write_text(json.dumps(vars(settings)))
    known = torch.arange(4.0 * WIDTH).reshape(4, WIDTH)
    safetensors.torch.save_file({"probe": torch.tensor([1, 2, 3, 4]), "known": known}, tmp_path / TARGET)
    return tmp_path


def test_a_judge_comes_out_with_what_is_known_of_it(folder: Path):
    report = fit(folder, folder / "judge", seed=2)
    judge, again = read_judge(folder / "judge"), fit(folder, folder / "again", seed=2)
    assert (judge.head.tap, judge.head.width, list(judge.head.probe)) == ("hidden:2", WIDTH, [1, 2, 3, 4])
    assert judge.threshold == report["threshold"] == again["threshold"]
    mined = read_mined(folder)
    direct = fit_head(mined, 2)
    x = mined.x[:9]
    assert judge.head.importance(*x.chunk(2, dim=1)) == pytest.approx(direct.logistic.scores(x).tolist())
    card = json.loads((folder / "judge" / "card.json").read_text())
    assert card["report"]["auc"]["test"] > 0.7
    assert (card["lossless"], card["report"]["seed"]) == (False, 2)
    assert [cut["quantile"] for cut in card["report"]["cuts"]] == sorted(
        cut["quantile"] for cut in card["report"]["cuts"]
    )


def test_findings_that_are_broken_or_not_complete_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(TrainingError, match=r"cannot read .*settings.json.*name a folder of `draftgraph judge mine`"):
        fit(tmp_path / "absent", tmp_path / "judge")
    first = folder / "states" / "000000.safetensors"
    whole = first.read_bytes()
    first.write_bytes(whole[:-3])
    with pytest.raises(ModelError, match="truncated or broken"):
        fit(folder, tmp_path / "judge")
    safetensors.torch.save_file({"before": torch.ones(1, 2)}, first)
    with pytest.raises(ModelError, match="is no file of mismatches"):
        fit(folder, tmp_path / "judge")
    kept = safetensors.torch.load(whole)
    safetensors.torch.save_file(kept | {"before": kept["before"] * torch.nan}, first)
    with pytest.raises(ModelError, match="not finite"):
        fit(folder, tmp_path / "judge")
    (folder / TARGET).unlink()
    with pytest.raises(TrainingError, match="is not complete; run the same `draftgraph judge mine` again"):
        fit(folder, tmp_path / "judge")
