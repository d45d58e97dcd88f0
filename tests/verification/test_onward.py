"""Verdicts about a chain whose last token has no row behind it: the law of the text, enumerated, and rules that would wait."""

from __future__ import annotations

import pytest
import torch

from draftgraph.draft.structures.chain import Chain
from draftgraph.lab.prove.law import Draw, Laws, Tables, drafted, random_tables, total_variation
from draftgraph.sampling.laws import TargetLaws
from draftgraph.sampling.rng import Noise
from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import Rule
from draftgraph.verification.onward import OnwardRule, beginning, reads_last_row
from draftgraph.verification.registry import RULES, get_rule
from draftgraph.verification.walk import WalkRule

CHAINS = (
    "layer",
    "block",
    "token",
    "walk",
    "agree",
    "traversal",
    "recursive",
    "kseq",
    "multipath",
    "top_beta",
    "typical",
)


def sampled_chain(length: int, kind: str):  # type: ignore[no-untyped-def]
    def program(q: Laws, draw: Draw) -> TokenTree:
        tokens: list[int] = []
        laws: list[torch.Tensor] = []
        for _ in range(length):
            laws.append(q(tuple(tokens)))
            tokens.append(draw(laws[-1]) if kind == "sampled" else int(laws[-1].argmax()))
        rows = range(length) if kind == "sampled" else [-1] * length
        return TokenTree(tokens, range(-1, length - 1), list(rows), torch.stack(laws))

    return program


def text_law(rule: Rule, tables: Tables, length: int, kind: str, carry: torch.Tensor | None = None) -> torch.Tensor:
    """f64[texts], the law of a round's tokens, which the target goes on from. carry  what stands in for the last row."""
    law = torch.zeros((tables.vocab,) * (tables.depth + 1), dtype=torch.float64)

    def add(text: tuple[int, ...], mass: float) -> None:
        if len(text) == tables.depth + 1:
            law[text] += mass
            return
        for token, p in enumerate(tables.target(text).tolist()):
            if mass * p > 0.0:
                add((*text, token), mass * p)

    for draft in drafted(tables, sampled_chain(length, kind)):
        p = draft.p.clone()
        p[-1] = p[-2] if carry is None else carry
        outcome = rule.outcome(draft.tree, p)
        for entry, stop in enumerate(outcome.stop):
            if entry == length:
                add(draft.paths[entry], draft.probability * stop)
            elif stop > 0.0:
                bonus = outcome.bonus(entry).double()
                for token, share in enumerate((bonus / bonus.sum()).tolist()):
                    add((*draft.paths[entry], token), draft.probability * stop * share)
    return law.flatten()


@pytest.mark.parametrize("kind", ["random", "sparse", "disjoint", "equal", "greedy"])
@pytest.mark.parametrize("name", ["layer", "block", "token", "walk", "traversal", "recursive"])
def test_the_text_has_the_law_of_the_target_whatever_stands_in_for_the_last_row(name: str, kind: str) -> None:
    tables = random_tables(kind, 3, 3, 7)
    right = tables.target_law(4)
    for slots in ("sampled", "fixed"):
        for length in (1, 2, 3):
            for carry in (None, torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)):
                assert total_variation(text_law(get_rule(name), tables, length, slots, carry), right) <= 1e-12


@pytest.mark.parametrize("name", CHAINS)
def test_no_rule_of_ours_reads_the_last_row(name: str) -> None:
    for sampled in (True, False):
        if Chain().verified_by(RULES[name], sampled):
            assert not reads_last_row(RULES[name], sampled)


class Waits(WalkRule):
    name = "waits"

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        found = super().outcome(tree, p)
        return Outcome([*found.stop[:-1], found.stop[-1] * float(p[-1].max())], found.bonus)


def test_a_rule_that_reads_the_last_row_is_found() -> None:
    assert reads_last_row(Waits(), False)


@pytest.mark.parametrize("accepted", [0, 1, 2, 3])
def test_the_last_token_becomes_the_one_behind_the_path(accepted: int) -> None:
    """At temperature 0 and above, whatever part of the chain is right."""
    chain = [3, 1, 2]
    tree = TokenTree(chain, [-1, 0, 1], [-1, -1, -1])
    choices = [token if i < accepted else 0 for i, token in enumerate(chain)]
    p = torch.nn.functional.one_hot(torch.tensor(choices), 4).double()
    for rule in ("walk", "block", "token", "layer", "agree"):
        for known in (choices, None):
            judge = OnwardRule(get_rule(rule), tree)
            verdict = judge.decide(beginning(tree, 2), TargetLaws(lambda: p, known), Noise(1), 5)
            assert verdict.path == tuple(range(min(accepted, 2)))
            assert verdict.token == (chain[2] if accepted == 3 else 0)
            assert len(verdict.masses) == 2
