"""Rows that are borrowed, and rounds on them."""

from __future__ import annotations

import pytest
import torch

from draftgraph.draft.terms import Limits
from draftgraph.lab.predict.acceptance import Plan, by_text, survival
from draftgraph.lab.predict.rows import PairRows, Span
from draftgraph.lab.predict.surrogate import (
    Surrogate,
    TreePlan,
    anywhere,
    check_on_chains,
    forecast,
    lengths,
    round_starts,
)
from draftgraph.lab.texts import Text
from draftgraph.verification.registry import get_rule
from text_tables import Law, best_trees, expected_length, table

SHAPE = (2, 2)


def written(p: Law, q: Law, texts: int, length: int, seed: int = 0) -> PairRows:
    """Texts that the target p draws behind a first token 0."""
    generator = torch.Generator().manual_seed(seed)
    tokens = []
    for _ in range(texts):
        text = [0]
        for _ in range(length):
            text.append(int(torch.multinomial(p(text), 1, generator=generator)))
        tokens.append(tuple(text))
    prefixes = [text[:i] for text in tokens for i in range(1, length + 1)]
    return PairRows(
        torch.stack([p(prefix) for prefix in prefixes]),
        torch.stack([q(prefix) for prefix in prefixes]),
        torch.tensor([token for text in tokens for token in text[1:]]),
        [Span(n * length, (n + 1) * length, (n + 1) * length) for n in range(texts)],
        [Text(text, 1, length) for text in tokens],
    )


def short(law: Law, order: int = 1) -> Law:
    """A law that reads the last tokens only, so that borrowed rows are the right ones."""
    return lambda prefix: law(tuple(prefix)[-order:])


@pytest.fixture(scope="module")
def rows() -> PairRows:
    return written(short(table(3, 4)), short(table(4, 4)), 12, 30)


def test_prefixes_along_the_text_have_the_texts_own_rows(rows):
    surrogate = Surrogate(rows)
    text = rows.texts[2].tokens
    start = rows.spans[2].begin + 5
    for length in range(4):
        assert surrogate.row_of(start, text[6 : 6 + length]) == (start + length, True)


def test_prefixes_off_the_text_borrow_the_longest_match_and_keep_it(rows):
    surrogate = Surrogate(rows)
    start = rows.spans[1].begin + 5
    for token in range(4):
        drafted = (token, (token + 1) % 4)
        row, own = surrogate.row_of(start, drafted)
        assert surrogate.row_of(start, drafted) == (row, own)
        number = int(rows.text_of[row])
        at = 1 + row - rows.spans[number].begin
        assert rows.texts[number].tokens[at - 1] == drafted[-1]


def test_a_token_that_no_text_has_borrows_any_row(rows):
    row, own = Surrogate(rows).row_of(0, (99,))
    assert 0 <= row < len(rows)
    assert not own


def test_on_models_that_read_one_token_only_trees_are_expected_to_emit_what_enumeration_says():
    """Then borrowed rows are the true ones, and only the draws of the drafts are left to chance."""
    p, q = short(table(3, 4)), short(table(4, 4))
    rows = written(p, q, 40, 60)
    where = anywhere(rows, len(SHAPE), 600)
    found = lengths(rows, TreePlan.of_shape(SHAPE), where)
    rule = get_rule("layer")
    exact = {last: expected_length(rule, p, best_trees(q, (last,), SHAPE, hybrid=True), (last,)) for last in range(4)}
    text = [token for each in rows.texts for token in each.tokens[:-1]]
    truth = torch.tensor([exact[text[row]] for row in where.tolist()], dtype=torch.float64)
    off = by_text(rows, where, found - truth)
    assert abs(off.value) < 4 * off.error
    assert off.error < 0.05


def test_the_check_on_chains_pairs_both_row_by_row(rows):
    check = check_on_chains(rows, 3, 200)
    assert check.off.value == pytest.approx(check.said.value - check.true.value)
    assert abs(check.off.value) < 4 * check.off.error


def test_round_starts_have_the_odds_of_rounds(rows):
    where = round_starts(rows, 3, 4000)
    given = survival(rows, Plan("block", (1, 1, 1))).given
    room = torch.tensor([span.limit for span in rows.spans])[rows.text_of[where]] - where
    assert bool((room <= 3).any())  # rounds that will be cut short are among them
    lengths_there = 1.0 + given[where[room > 3]].sum(1)
    lengths_anywhere = 1.0 + given[anywhere(rows, 3, len(rows))].sum(1)
    assert float(lengths_there.mean()) < float(lengths_anywhere.mean())
    assert len(where) == 4000


def test_the_last_rounds_of_a_text_are_cut_short(rows):
    last = torch.tensor([span.limit - 1 for span in rows.spans])
    assert lengths(rows, TreePlan.of_shape(SHAPE), last).tolist() == [1.0] * len(last)
    assert float(lengths(rows, TreePlan.of_shape(SHAPE), last - 1).max()) <= 2.0


@pytest.mark.parametrize("greedy", [False, True])
def test_the_production_growth_keeps_its_limits(rows, greedy):
    hard = torch.zeros_like(rows.p).scatter_(1, rows.p.argmax(1, keepdim=True), 1.0)
    some = PairRows(hard if greedy else rows.p, rows.q, rows.tokens, rows.spans, rows.texts, greedy)
    plan = TreePlan(Limits(6, 3, 3, floor=0.02))
    found = forecast(some, plan, anywhere(some, 3, 20))
    assert 1.0 <= found.tokens.value <= 4.0
    assert 1.0 <= found.nodes <= 6.0
    assert found.passes == pytest.approx(sum(1.0 for _ in found.level_rows), abs=1.0)
    assert found.level_rows[0] == 1.0
    assert 0.0 < found.off_text < 1.0


def test_plans_say_what_the_engine_would_grow():
    assert TreePlan.of_shape((3, 2, 1)).limits.budget == 3 + 6 + 6
    assert (TreePlan.of_budget(8).limits.depth, TreePlan.of_budget(64).limits.depth) == (5, 8)
    assert (TreePlan.of_shape((2, 1)).name, TreePlan.of_budget(8).name) == ("tree 2·1", "tree of 8")
