"""The comparison of rules measures what it says, on tiny random models."""

from __future__ import annotations

import pytest

import draftgraph as dg
from draftgraph.lab.pair import Pair
from experiments import rules
from models import perturbed, tiny_lm
from published import read_quick


@pytest.fixture(scope="module")
def subject() -> rules.Subject:
    target = tiny_lm()
    texts = [[(7 * i + j) % 60 for j in range(50)] for i in range(3)]
    return rules.Subject("story-124k", Pair.load(target, perturbed(target, 0.3)), texts)


def test_chains_of_every_length_come_from_one_draft(subject):
    rows = {(row.rule, row.target_nodes): row for row in rules.by_gamma(subject, 1.0)}
    assert len(rows) == 2 * rules.GAMMA
    for gamma in range(1, rules.GAMMA + 1):
        block, token = rows["block", gamma], rows["token", gamma]
        assert block.length >= token.length - 1e-9
        assert block.places == 3
    assert rows["block", 1].length == pytest.approx(rows["token", 1].length)


@pytest.mark.parametrize(("judge", "masses"), [("token", rules.token_masses), ("layer", rules.block_masses)])
def test_the_masses_of_a_chain_are_the_expectation_of_its_rule(subject, judge, masses):
    chain = rules.Setup("chain", {"structure": "chain", "budget": 5, "num_speculative_tokens": 5}, ())
    for _, drafted in subject.drafted(chain, 1.0):
        assert len(drafted.tree) == 5
        expected = rules.expected_length(dg.rules()[judge], drafted)
        assert 1.0 + sum(masses(drafted)) == pytest.approx(expected, rel=1e-5)


def test_every_draft_is_judged_by_every_rule_that_verifies_it(subject):
    rows, gains = rules.by_nodes(subject, 1.0, 16)
    judged = {(row.draft, row.rule) for row in rows}
    assert judged == {(setup.name, rule) for setup in rules.setups(16) for rule in setup.rules}
    assert all(1.0 <= row.length <= 17.0 for row in rows)
    assert [(gain.winner, gain.baseline) for gain in gains] == list(rules.GAINS)
    length = {f"{row.draft}, {row.rule}": row.length for row in rows}
    assert all(gain.ratio == pytest.approx(length[gain.winner] / length[gain.baseline]) for gain in gains)
    top = next(row for row in rows if row.draft == "top-k, best first")
    assert top.nodes == 16  # a baseline of the same size


def test_a_quick_run_leaves_the_published_form_and_its_pictures(tiny_material, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rules, "CUTS", (40,))
    monkeypatch.setattr(rules, "GAMMA", 4)
    arguments = ["--quick", "--pair", "story-124k", "--temperature", "1"]
    rules.main([*arguments, "--data", str(tiny_material), "--out", str(tmp_path)])
    found = read_quick(tmp_path, "rules")
    assert {row["part"] for row in found["rows"]} == {"gamma", "nodes"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".png"}
    assert {path.stem for path in tmp_path.glob("*.png")} == {"rules-quick-gamma", "rules-quick-nodes"}
    told = capsys.readouterr().out
    for words in (
        "chains of γ tokens",
        "expected tokens at T=1",
        "ratios",
        f"python -m experiments.rules {arguments[0]}",
    ):
        assert words in told
    assert (tmp_path / "rules-quick.md").read_text(encoding="utf-8") in told
