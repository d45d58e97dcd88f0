"""The comparison of rules measures what it says, on tiny random models."""

from __future__ import annotations

import json

import pytest
from experiments.drafts import draft_at, expected_length
from experiments.rules_plot import plot

import draftgraph as dg
from experiments import rules, verification
from models import perturbed, tiny_lm


@pytest.fixture(scope="module")
def pair() -> rules.Pair:
    target = tiny_lm()
    texts = [[(7 * i + j) % 60 for j in range(50)] for i in range(3)]
    return rules.Pair("story", target, perturbed(target, 0.3), texts)


@pytest.fixture(scope="module")
def nodes(pair):
    return rules.by_nodes(pair, 1.0, 16)


def test_chains_of_every_length_come_from_one_draft(pair):
    rows = {(row.rule, row.target_nodes): row for row in rules.by_gamma(pair, 1.0)}
    assert len(rows) == 2 * rules.GAMMA
    for gamma in range(1, rules.GAMMA + 1):
        block, token = rows["block", gamma], rows["token", gamma]
        assert block.length >= token.length - 1e-9
        assert block.places == 3
    assert rows["block", 1].length == pytest.approx(rows["token", 1].length)


@pytest.mark.parametrize("rule", ["block", "token"])
def test_the_masses_of_a_chain_are_the_expectation_of_its_rule(pair, rule):
    options = {"structure": "chain", "budget": 5, "num_speculative_tokens": 5, "rule": "block"}
    drafted = draft_at(pair.engine(options), pair.texts[0][:40], 1.0, 3)
    masses = rules.block_masses(drafted) if rule == "block" else rules.token_masses(drafted)
    assert len(drafted.tree) == 5
    if rule == "token":  # block's masses have the same mean over drafts, not draft by draft
        assert 1.0 + sum(masses) == pytest.approx(expected_length(dg.rules()["token"], drafted), rel=1e-5)
    else:
        assert 1.0 + sum(masses) == pytest.approx(expected_length(dg.rules()["layer"], drafted), rel=1e-5)


def test_every_draft_is_judged_by_every_rule_that_verifies_it(nodes):
    rows, gains = nodes
    judged = {(row.draft, row.rule) for row in rows}
    assert judged == {(setup.name, rule) for setup in rules.setups(16) for rule in setup.rules}
    assert all(1.0 <= row.length <= 17.0 for row in rows)
    assert len(gains) == 4
    top = next(row for row in rows if row.draft == "top-k, best first")
    assert top.nodes == 16  # a baseline of the same size


def test_the_report_has_a_table_per_part_and_its_pictures(pair, nodes, tmp_path):
    rows, gains = nodes
    rows = [*rows, *rules.by_gamma(pair, 1.0)]
    report = {"environment": rules.environment()}
    text = rules.markdown(report, rows, gains)
    for title in ("chains of γ tokens", "expected tokens at T=1", "ratios", "python experiments/rules.py"):
        assert title in text
    assert plot({"rows": [vars(row) for row in rows]}, tmp_path / "rules.png")
    assert {path.name for path in tmp_path.iterdir()} == {"rules-gamma.png", "rules-nodes.png"}


def test_without_its_models_there_is_nothing_to_measure(tmp_path):
    with pytest.raises(SystemExit, match="nothing to measure"):
        rules.main(["--data", str(tmp_path), "--out", str(tmp_path)])


def test_the_cost_of_verification_is_reported(tmp_path, capsys):
    verification.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "verification-quick.json").read_text(encoding="utf-8"))
    assert len(report["rows"]) == len(verification.SETTINGS) * len(verification.RULES)
    assert all(row["forward"] > 0 and row["rule_ms"] > 0 for row in report["rows"])
    assert "(warping + rule) / forward" in capsys.readouterr().out
