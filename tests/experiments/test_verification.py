"""The cost of verification is taken from rounds that verify what was drafted. Its figures are not looked at here."""

from __future__ import annotations

from experiments.verification import RULES, SETTINGS, Size

from draftgraph.types import FIXED
from experiments import verification
from published import read_quick


def test_a_quick_run_has_the_published_form(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verification, "QUICK", (Size(256, 32, 1),))
    verification.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    found = read_quick(tmp_path, "verification")
    assert [(row["settings"], row["rule"]) for row in found["rows"]] == [(s, rule) for s in SETTINGS for rule in RULES]
    assert all(min(row["forward"], row["warping"], row["rule_ms"]) > 0 for row in found["rows"])
    kept = {row["settings"]: row["kept"] for row in found["rows"]}
    assert kept["T=0"] == 1.0 <= kept["T=0.6, top-k 20, top-p 0.95"] <= 20.0 < kept["T=1"] == 256.0
    assert "32 drafted nodes" in capsys.readouterr().out


def test_rules_verify_the_same_draft_and_nothing_is_sampled_at_temperature_0():
    pair = verification.make_pair(verification.QUICK[0])
    everybody = list(verification.contenders(pair, list(range(verification.CONTEXT))))
    assert {len(one.tree) for one in everybody} == {32}
    sampled = {one.settings: sum(row != FIXED for row in one.tree.law_row) for one in everybody}
    assert sampled == {settings: 0 if settings == "T=0" else 11 for settings in SETTINGS}
    assert len({tuple(one.tree.tokens) for one in everybody if one.settings == "T=1"}) == 1
