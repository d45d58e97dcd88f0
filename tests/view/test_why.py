"""Every node of a round has a fate, and the figures that decided it."""

from __future__ import annotations

import dataclasses

import pytest

import draftgraph as dg
from draftgraph.view.why import why
from models import perturbed, tiny_lm


@pytest.fixture(scope="module", params=[0.0, 0.9])
def result(request: pytest.FixtureRequest) -> dg.Result:
    target = tiny_lm(vocab=61)
    engine = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.3), budget=12)
    return engine.generate([5, 9, 4], dg.SamplingParams(max_new_tokens=40, temperature=request.param, seed=2))


def test_every_node_tells_its_fate(result):
    for record in result.rounds:
        for node in range(len(record.tokens)):
            said = why(record, node)
            assert said.startswith("accepted") == (node in record.path)
            above = record.parents[node]
            assert said.startswith("not reached") == (above != -1 and above not in record.path)
            assert ("chosen, not drawn" in said) == (not record.sampled[node])


def test_the_figures_are_those_that_the_rule_read(result):
    for record in result.rounds:
        assert len(record.p) == len(record.q) == len(record.masses) == len(record.tokens)
        for node, mass in enumerate(record.masses):
            above = record.parents[node]
            assert mass <= (1.0 if above == -1 else record.masses[above]) + 1e-9
            if node in record.path:
                assert mass > 0.0
                assert record.p[node] > 0.0
            if not any(record.sampled):  # the walk: a node is accepted as often as the target goes there
                assert mass == pytest.approx((1.0 if above == -1 else record.masses[above]) * record.p[node], abs=1e-6)


def test_a_record_without_figures_tells_the_fate_alone(result):
    record = dataclasses.replace(next(r for r in result.rounds if r.tokens), p=(), q=(), masses=())
    assert ";" not in why(record, 0)
