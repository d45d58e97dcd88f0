"""The prover: every rule is proven, every mistake is caught."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch

from draftgraph.errors import DraftError, OptionError
from draftgraph.lab.prove.addressing import agree_mismatches, by_position, chain, rounds
from draftgraph.lab.prove.cases import CASES, by_depth, grow, replaced
from draftgraph.lab.prove.controls import CONTROLS
from draftgraph.lab.prove.exact import Setting, enumerate_draws, output_law, prove_all, total_variation
from draftgraph.lab.prove.law import KINDS, random_tables
from draftgraph.lab.prove.prover import prove
from draftgraph.sampling.rng import Noise
from draftgraph.types import Outcome
from draftgraph.verification.agree import AgreeRule, choose
from draftgraph.verification.published.greedy_block import GreedyBlockRule
from draftgraph.verification.registry import RULES
from oracles import LiteralLayer, SiblingsWithoutResidual

SMALL = [case for case in CASES if case.laws in ("fixed", "hybrid", "with replacement")]


# Enumeration


def test_enumeration_covers_every_sequence_of_draws():
    first = torch.tensor([0.5, 0.0, 0.5])
    second = torch.tensor([2.0, 6.0])  # not normalised

    def program(draw):
        a = draw(first)
        return (a, draw(second)) if a == 2 else (a,)

    assert sorted((p, v) for p, v in enumerate_draws(program)) == [(0.125, (2, 0)), (0.375, (2, 1)), (0.5, (0,))]


def test_a_program_without_draws_runs_once():
    assert list(enumerate_draws(lambda draw: "only")) == [(1.0, "only")]


@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_laws_and_the_target_alone_has_its_own_law(kind):
    tables = random_tables(kind, 3, 2, 1)
    law = tables.target_law(3)
    assert float(law.sum()) == pytest.approx(1.0)
    text = (2, 0, 1)
    assert float(law[2 * 9 + 0 * 3 + 1]) == pytest.approx(
        float(torch.stack([tables.target(text[:i])[text[i]] for i in range(3)]).prod())
    )
    empty = output_law(RULES["layer"], tables, grow(by_depth(), replaced, 0), 3)
    assert total_variation(empty.law, law) < 1e-15
    assert (empty.drafts, empty.expected_tokens) == (1, 1.0)


# Proofs


def test_the_layer_rule_is_lossless():
    proof = prove("layer")
    assert proof.holds
    assert (proof.status, proof.lossless) == ("proven", True)
    assert proof.max_tv <= 1e-12
    assert all(row.refused is None for row in proof.cases)
    assert json.loads(json.dumps(proof.to_dict()))["holds"] is True


@pytest.mark.parametrize("name", ["agree", "walk", "block", "token"])
def test_the_other_rules_are_lossless_where_they_apply(name):
    proof = prove(name, depth=2, controls=False)
    assert proof.holds
    refused = {row.structure for row in proof.cases if row.refused}
    assert refused == (
        set() if name in ("agree", "walk") else {case.structure for case in CASES if case.structure != "chain"}
    )
    assert all("and this draft" in row.refused for row in proof.cases if row.refused)


@pytest.mark.parametrize(("vocab", "depth"), [(2, 1), (2, 3), (4, 1), (4, 2)])
def test_other_sizes(vocab, depth):
    assert prove("layer", vocab=vocab, depth=depth, controls=False, cases=SMALL, seed=vocab + depth).holds


def test_single_precision():
    setting = Setting(depth=2, controls=False, dtype=torch.float32, tolerance=1e-5)
    for proof in prove_all(list(RULES.values()), setting):
        assert proof.holds, proof.rule
        assert proof.max_tv > 1e-12, proof.rule  # it was not double precision


def test_several_rules_are_proven_as_each_alone():
    """Drafts are enumerated once for all of them; what a rule refuses does not touch the others."""
    setting = Setting(depth=2, cases=tuple(SMALL), controls=False)
    for proof in prove_all([RULES["token"], RULES["layer"], RULES["agree"]], setting):
        assert proof == prove(proof.rule, depth=2, cases=SMALL, controls=False)


def test_progress_reports_every_row():
    rows = []
    proof = prove("block", depth=1, progress=rows.append)
    assert rows == [*proof.cases, *proof.controls]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tables": ["randon"]}, "unknown kind of tables 'randon'.*'random'"),
        ({"tables": []}, "at least one kind"),
        ({"vocab": 1}, "vocab >= 2"),
        ({"vocab": 50}, "cannot be enumerated"),
        ({"depth": 0}, "depth >= 1"),
    ],
)
def test_what_cannot_be_proven_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        prove("layer", **options)


def test_a_rule_that_accepts_nothing_is_not_proven():
    only_trees = [case for case in CASES if case.structure.startswith("tree")]
    proof = prove("token", depth=2, cases=only_trees, controls=False)
    assert (proof.status, proof.holds) == ("unproven", False)
    with pytest.raises(DraftError):
        output_law(RULES["token"], random_tables("random", 3, 2, 0), only_trees[0].program(2), 3)


# Refutations


def test_a_layer_rule_that_keeps_its_capacity_is_refuted():
    assert prove(LiteralLayer(), depth=2, controls=False).holds
    proof = prove(LiteralLayer(recompute=False), depth=2, controls=False)
    assert proof.lossless
    assert (proof.status, proof.holds) == ("refuted", False)
    assert proof.max_tv > 1e-2


def test_a_token_rule_stretched_to_trees_is_refuted():
    proof = prove(SiblingsWithoutResidual(), depth=2, controls=False)
    assert not proof.holds
    assert proof.max_tv > 1e-2
    assert all(row.tv < 1e-12 for row in proof.cases if row.structure == "chain")


class Greedy(LiteralLayer):
    """Accepts everything."""

    name = "greedy"

    def outcome(self, tree, p):
        end = len(tree)
        return Outcome([0.0] * end + [1.0], lambda row: p[row])


class Labelled(Greedy):
    lossless = False


def test_a_rule_that_says_that_it_is_lossy_holds_and_is_not_proven():
    refuted, labelled = (prove(rule(), depth=2, controls=False, cases=SMALL) for rule in (Greedy, Labelled))
    assert refuted.max_tv == labelled.max_tv > 1e-2
    assert (refuted.status, refuted.holds) == ("refuted", False)
    assert (labelled.status, labelled.holds) == ("lossy, as labelled", True)


class Forgetful(GreedyBlockRule):
    """Greedy block verification in a loop that goes on with the plain target."""

    lossless = True
    continues = False


class Careless(GreedyBlockRule):
    """Re-targets one position too few."""

    def continuation(self, tree, p, end, token):
        state = super().continuation(tree, p, end, token)
        return replace(state, left=max(0, state.left - 1))


def test_a_rule_that_sets_later_laws_is_proven_with_them():
    proof = prove(GreedyBlockRule())
    assert (proof.status, proof.holds, proof.continues, proof.lossless) == ("proven", True, True, False)
    assert {row.structure for row in proof.cases if row.refused is None} == {"chain"}
    for rule in (Forgetful(), Careless()):
        refuted = prove(rule, controls=False)
        assert refuted.status == "refuted"
        assert refuted.max_tv > 1e-2


def test_a_control_that_is_not_caught_breaks_the_proof(monkeypatch):
    blind = [type(c)(c.name, c.source, c.must_fail, lambda tables: 0.0) for c in CONTROLS]
    monkeypatch.setattr(sys.modules["draftgraph.lab.prove.exact"], "CONTROLS", tuple(blind))
    proof = prove("block", depth=1)
    assert (proof.status, proof.holds) == ("unproven", False)
    assert proof.max_tv < 1e-12


# Addresses


def test_token_verification_does_not_look_at_noise_behind_a_rejection():
    """Why position-keyed draft noise went unnoticed for so long: only joint rules look ahead."""
    tables = random_tables("random", 3, 2, 0)
    assert rounds(RULES["token"], chain, by_position)(tables) < 1e-12
    assert rounds(RULES["block"], chain, by_position)(tables) > 1e-3


def test_agree_is_plain_seeded_sampling_token_by_token():
    assert agree_mismatches(RULES["agree"], 4, 2, seed=11, runs=600) == (0, 600)


def test_agree_with_noise_of_its_own_is_refuted():
    class Streamed(AgreeRule):
        """Keys its noise by the round: lossless in law, but not the text of plain sampling."""

        def verdict(self, tree, p, noise, length):
            return super().verdict(tree, p, Noise(noise.seed + 1), length)

    mismatches, _ = agree_mismatches(Streamed(), 3, 2, seed=0, runs=100)
    assert mismatches > 10
    assert not prove(Streamed(), depth=1, controls=False, cases=SMALL).holds


def test_choose_draws_from_p():
    p = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    counts = torch.zeros(4, dtype=torch.float64)
    for seed in range(4000):
        counts[choose(p, Noise(seed), 17)] += 1
    assert counts[1] == 0
    expected = 4000 * p[p > 0]
    assert float(((counts[p > 0] - expected) ** 2 / expected).sum()) < 13.8  # chi-squared, 2 degrees, 99.9 %
