"""The profile, against sums over small tables."""

from __future__ import annotations

import math

import pytest
import torch

from draftgraph.lab.predict.profile import HISTOGRAM_BINS, SLACKS, make_profile
from draftgraph.lab.predict.rows import PairRows
from text_tables import every_text, table


@pytest.fixture
def rows() -> PairRows:
    return every_text(table(1, 4), table(2, 4), 4, 2)[0]


def test_figures_are_means_over_positions(rows):
    found = make_profile(rows)
    tv = 0.5 * (rows.p - rows.q).abs().sum(1)
    assert (found.texts, found.positions) == (16, 32)
    assert found.tv.value == pytest.approx(float(tv.mean()))
    assert found.overlap.value == pytest.approx(1 - float(tv.mean()))
    assert found.rejections.value == pytest.approx(2 * float(tv.mean()))
    assert found.agreement.value == pytest.approx(float((rows.p.argmax(1) == rows.q.argmax(1)).double().mean()))
    assert found.target_entropy == pytest.approx(float(-(rows.p * rows.p.log()).sum(1).mean()))
    assert sum(found.tv_histogram) == 32
    assert len(found.tv_histogram) == HISTOGRAM_BINS
    assert list(found.tv_quantiles) == sorted(found.tv_quantiles)
    assert sum(one.positions for one in found.calibration) == 32


def test_means_along_a_text_leave_tenths_without_positions_out(rows):
    found = make_profile(rows).tv_deciles
    tv = 0.5 * (rows.p - rows.q).abs().sum(1)
    assert found[0] == pytest.approx(float(tv[0::2].mean()))
    assert found[5] == pytest.approx(float(tv[1::2].mean()))
    assert all(math.isnan(found[i]) for i in (1, 2, 3, 4, 6, 7, 8, 9))


def test_slack_helps_and_at_one_it_is_the_overlap(rows):
    found = make_profile(rows)
    for curve in found.slack:
        assert list(curve.kept) == sorted(curve.kept)
        assert len(curve.kept) == len(SLACKS)
    assert found.slack[0].kept[0] == pytest.approx(found.overlap.value)
    best = rows.q.argmax(1, keepdim=True)
    p, q = (laws.scatter(1, best, 0.0) for laws in (rows.p, rows.q))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    assert found.slack[1].kept[2] == pytest.approx(float(torch.minimum(SLACKS[2] * q, p).sum(1).mean()))


def test_models_that_are_alike_have_nothing_between_them():
    rows, _ = every_text(table(1, 3), table(1, 3), 3, 2)
    found = make_profile(rows)
    assert found.tv.value == pytest.approx(0.0, abs=1e-12)
    assert found.agreement.value == 1.0
    assert all(one.promised == pytest.approx(one.confirmed) for one in found.calibration)


def test_greedy_overlap_is_agreement(rows):
    hard = torch.zeros_like(rows.p).scatter_(1, rows.p.argmax(1, keepdim=True), 1.0)
    found = make_profile(PairRows(hard, rows.q, rows.tokens, rows.spans, rows.texts, greedy=True))
    assert found.overlap.value == pytest.approx(found.agreement.value)
