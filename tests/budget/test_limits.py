"""The automatic budget on made-up costs and made-up texts: nothing here is timed, and no model runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import draftgraph as dg
from cost_tables import cost, costs, with_chains
from draftgraph.budget.automatic import COMPARED_EVERY, LEARNING, MOST_COPIES, PROBE_DEPTH, PROBE_SHARE, AutoBudget
from draftgraph.budget.costs import Costs
from draftgraph.budget.form import BRANCHES, MEASURED, Form
from draftgraph.budget.ledger import LEAST_GAIN, Ledger
from draftgraph.draft.terms import Limits
from draftgraph.draft.whole_sizes import paying
from draftgraph.request.record import RoundRecord, decisions
from draftgraph.request.stats import PARTS
from models import perturbed, tiny_lm

SCORE = 0.8
"""Of every token that the drafter of `play` proposes."""
Agreement = Callable[[int], float]
"""agreement(committed length) -> chance that the next token of a drafted chain is accepted."""


def play(
    table: Costs, agreement: Agreement, tokens: int = 400, seed: int = 0, narrows: bool = False
) -> tuple[list[RoundRecord], float]:
    """A request whose drafts are chains, and the seconds that its rounds cost by the table."""
    auto, draw, length, seconds = AutoBudget(table, narrows=narrows), random.Random(seed), 20, 0.0
    read, records = 0, []
    while length < 20 + tokens:
        limits = auto.plan(length, records, 20 + tokens - length - 1)
        depth = 0
        while depth < min(limits.depth, limits.budget, limits.reach) and SCORE**depth >= limits.price_pass(depth):
            depth += 1
        accepted = 0
        while accepted < depth and draw.random() < agreement(length):
            accepted += 1
        if depth:
            seconds += 1e-5 * (length - read)  # what the drafter has missed, as a table of flat passes does not say
            read = length
        seconds += table.round(depth, [1.0] * depth) if depth else table.plain
        records.append(record(length, depth, accepted, limits))
        length += accepted + 1
    return records, seconds


def record(length: int, depth: int, accepted: int, limits: Limits | None = None, score: float = SCORE) -> RoundRecord:
    return RoundRecord(
        length, [1] * depth, list(range(-1, depth - 1)), [False] * depth, ["drafter"] * depth,
        [score**d for d in range(1, depth + 1)], [None] * depth, tuple(range(accepted)), 2, accepted + 1, depth, depth,
        dict.fromkeys(PARTS, 0.0), "" if limits is None else limits.reason,
    )  # fmt: skip


@pytest.mark.parametrize("narrows", [False, True])
@pytest.mark.parametrize("reached", [0.0, 0.3, 0.8])
def test_a_hostile_drafter_is_dropped_and_seldom_asked_again(reached: float, narrows: bool):
    table = with_chains(costs(reached=reached), reached)
    records, seconds = play(table, lambda length: 0.02, narrows=narrows)
    kinds = decisions(records)
    assert kinds.get("draft", 0) <= 20
    assert 1 <= kinds["probe"] <= 10
    assert records[-1].decision in ("plain", "probe")
    assert 400 * table.plain / seconds >= 0.96  # where the table was wrong, each form is tried for some rounds


def test_probes_take_no_more_than_their_share_if_none_finds_anything():
    table = costs(reached=0.0)
    records, seconds = play(table, lambda length: 0.0, tokens=2000)
    assert decisions(records)["probe"] >= 2
    assert seconds <= 2000 * table.plain * (1.0 + 2 * PROBE_SHARE)
    waits = [i for i, record in enumerate(records) if record.decision == "probe"]
    gaps = [b - a for a, b in pairwise(waits)]
    assert gaps == sorted(gaps), "every failure doubles the wait"


def test_a_drafter_as_large_as_the_target_is_never_asked():
    records, _ = play(costs(drafter=5.0, reached=0.9), lambda length: 1.0, tokens=50)
    assert decisions(records) == {"plain": 50}
    assert "no draft is faster if all of it is accepted" in records[0].reason


@pytest.mark.parametrize("reached", [0.0, 0.8])
def test_a_good_drafter_is_used_whatever_the_table_expected(reached: float):
    table = costs(reached=reached)
    records, seconds = play(table, lambda length: 0.85, tokens=800)
    assert all(record.decision == "draft" for record in records[-60:-1])
    assert 800 * table.plain / seconds > 1.5
    late = records[-20:]
    assert sum(len(record.tokens) for record in late) / len(late) >= 4


@pytest.mark.parametrize("narrows", [False, True])
def test_drafting_comes_back_when_the_text_changes(narrows: bool):
    table = with_chains(costs(), 0.6, less=0.5)

    def agreement(length: int) -> float:
        return 0.9 if length < 200 or length > 800 else 0.02

    records, seconds = play(table, agreement, tokens=1600, narrows=narrows)
    kinds = [(record.length, record.decision) for record in records]
    assert all(kind == "draft" for length, kind in kinds if length < 200)
    assert all(kind != "draft" for length, kind in kinds if 300 < length < 800)
    assert all(kind == "draft" for length, kind in kinds[:-1] if length > 1200), "but for the last token"
    assert 1600 * table.plain / seconds > 1.2


def test_looking_up_costs_no_passes_and_plain_wins_only_by_its_rows():
    cheap, _ = play(costs(drafter=None, row=0.01), lambda length: 0.3)
    assert cheap[-5].decision == "draft"


def test_rows_that_cost_more_need_higher_scores():
    steep, flat = (AutoBudget(costs(row=row)).plan(20, [], 99) for row in (0.5, 0.001))
    assert flat.floor < steep.floor
    assert (flat.budget, flat.depth) == (steep.budget, steep.depth) == (64, 8), "prices decide, nothing else"


def test_passes_that_cost_more_need_higher_scores():
    prices = [AutoBudget(costs(drafter=ms)).plan(20, [], 99).price_passes for ms in (0.1, 1.0, 2.0)]
    assert all(cheap < dear for few, many in pairwise(prices) for cheap, dear in zip(few[1:], many[1:], strict=True))
    assert {first for first, *_ in prices} == {0.0}, "a draft has one pass at least"


def test_a_fixed_shape_is_as_deep_as_pays():
    depths = [AutoBudget(costs(drafter=ms), width=1).plan(20, [], 99).depth for ms in (0.1, 1.0, 2.0)]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > depths[-1]
    chain, paths = (AutoBudget(costs(), width=width).plan(20, [], 99) for width in (1, 3))
    assert (chain.budget, paths.budget) == (chain.depth, 3 * paths.depth)


def forms(table: Costs, narrows: bool = True, **options) -> tuple[AutoBudget, str]:
    """A budget, and the form of its first draft."""
    auto = AutoBudget(table, narrows=narrows, **options)
    return auto, "chain" if auto.plan(20, [], 99).narrow else "graph"


def test_the_form_that_gives_more_tokens_per_second_is_drafted():
    graphs = costs(drafter=0.1, reached=0.85)
    assert [forms(with_chains(graphs, 0.65, less=ms))[1] for ms in (0.0, 2.0, 3.0)] == ["graph", "chain", "chain"]
    assert forms(with_chains(graphs, 0.75, less=2.0), narrows=False)[1] == "graph", "where a structure was asked for"
    assert forms(graphs)[1] == "graph", "where chains were not measured"
    assert "draft: a chain, " in forms(with_chains(graphs, 0.75, less=2.0))[0].plan(20, [], 99).reason


def test_what_a_chain_misses_tells_of_graphs_and_a_form_is_left_for_one_that_is_better_by_more_than_a_little():
    auto, first = forms(with_chains(costs(drafter=0.1, reached=0.85), 0.75, less=3.0))
    chain, graph = auto.forms
    assert first == "chain"
    before = [form.expected().rate for form in auto.forms]
    records = []
    for i in range(4):
        records.append(record(20 + i, 4, 0, score=0.9))
        auto.plan(21 + i, records, 99)
    after = [form.expected().rate for form in auto.forms]
    assert all(b < 0.8 * a for a, b in zip(before, after, strict=True)), "the graph's own counts know nothing of it"
    chain._known = graph.expected()._replace(rate=graph.expected().rate * 0.98)
    assert auto.plan(40, records, 99).narrow, "about as fast"
    chain._known = graph.expected()._replace(rate=graph.expected().rate * 0.9)
    assert not auto.plan(40, records, 99).narrow


def test_a_form_that_misses_less_is_taken_to_miss_less_of_what_the_other_one_met():
    auto, _ = forms(with_chains(costs(drafter=0.1, reached=0.85), 0.7, less=3.0))
    chain, graph = auto.forms
    for share in (0.9, 0.5, 0.02):
        for _ in range(60):
            one = replace(record(20, 1, 0), masses=[share])
            chain.learn(one, 1)
            graph.hear(one, 1)
        odds = share / (1.0 - share) * graph.ledger.odds
        assert chain.ledger.survival()[0] == pytest.approx(share, abs=0.02)
        assert graph.ledger.survival()[0] == pytest.approx(odds / (1.0 + odds), abs=0.03)


def test_what_was_measured_of_two_forms_is_pooled():
    chain, graph = forms(with_chains(costs(drafter=0.1, reached=0.85), 0.7))[0].forms
    told = (0.85 / 0.15) / (0.7 / 0.3)
    assert graph.ledger.odds == pytest.approx(BRANCHES * (told / BRANCHES) ** MEASURED)
    assert chain.ledger.odds == pytest.approx(1.0 / graph.ledger.odds)
    (first, *_), (wide, *_) = chain.ledger.survival(), graph.ledger.survival()
    assert 0.7 < first < wide < 0.85
    alone = Form(costs(drafter=0.1, reached=0.85), 8)
    seen = [each.above + each.above_heard for each in (graph.ledger.depths[0], alone.ledger.depths[0])]
    assert seen[0] == seen[1], "it is not believed any longer"


def test_chances_teach_what_outcomes_do():
    lucky, sober = Ledger((), 8, alike=True), Ledger((), 8, alike=True)
    for i in range(40):
        lucky.enter(record(20, 2, 2 if i % 2 else 0), 8)
        sober.enter(replace(record(20, 2, 2 if i % 2 else 0), masses=[0.5, 0.5]), 8)
    assert sober.survival()[0] == pytest.approx(0.5, abs=0.02)
    assert lucky.survival()[0] == pytest.approx(0.5, abs=0.06)


def test_every_level_of_a_chain_tells_of_the_others():
    alike, apart = (Ledger((), 8, alike=alike) for alike in (True, False))
    for ledger in (alike, apart):
        for _ in range(30):
            ledger.enter(record(20, 2, 2, score=0.5), 2)
    shares = [[b / a for a, b in pairwise([1.0, *ledger.survival()])] for ledger in (alike, apart)]
    assert shares[0][4] > 0.6 > shares[1][4] == pytest.approx(0.5)


def test_where_passes_are_padded_a_chain_is_drafted_whole():
    """An early end would save no rows of the target, and the next longer draft would pay for a change of size."""
    sizes = tuple(range(1, 66))
    padded = with_chains(replace(costs(), target=replace(costs().target, sizes=sizes)), 0.6)
    whole, priced = (AutoBudget(table, width=1).plan(20, [], 99) for table in (padded, with_chains(costs(), 0.6)))
    assert whole.depth > 1
    assert (whole.budget, whole.floor, whole.price_passes) == (whole.depth, 0.0, ())
    assert max(priced.price_passes) > 0.0
    assert whole.depth < priced.depth, "what pays best, not a little more that prices would cut"


def test_draws_say_nothing_of_their_tokens_so_a_chain_of_draws_is_no_longer_than_pays_best():
    table = with_chains(costs(drafter=0.3), 0.7)
    drawn, best = (AutoBudget(table, narrows=True, draws=draws).forms[0].expected() for draws in (True, False))
    assert drawn.depth < best.depth
    assert drawn.rate == best.rate


def test_a_draft_that_was_decided_stands_for_some_rounds_once_enough_was_seen():
    records, _ = play(costs(), lambda length: 0.7)
    drafted = [record.reason for record in records if record.decision == "draft"]
    changes = [number for number, (a, b) in enumerate(pairwise(drafted), 1) if a != b]
    assert [*range(1, LEARNING + 1)] == changes[:LEARNING]
    assert [*range(LEARNING + COMPARED_EVERY, len(drafted), COMPARED_EVERY)] == changes[LEARNING:]


def test_a_decision_that_stands_keeps_to_what_is_left_of_the_text():
    auto, records = AutoBudget(costs()), []
    for left in range(40, 0, -1):
        limits = auto(60 - left, records, left)
        assert limits.reach == left
        records.append(record(60 - left, min(limits.depth, left), 0, limits))
        auto.offer(limits)


def test_the_last_token_is_not_drafted():
    limits = AutoBudget(costs()).plan(20, [], 0)
    assert (limits.budget, limits.depth) == (0, 0)
    assert limits.reason.startswith("plain: the next token is the last one")


def test_the_first_reason_says_where_the_costs_come_from():
    auto = AutoBudget(costs(note="measured again: the cache has version 0"))
    first = auto.plan(20, [], 99)
    assert first.reason.startswith("draft: ")
    assert first.reason.endswith("costs measured again: the cache has version 0")
    assert "costs" not in auto.plan(23, [record(20, first.depth, 2, first)], 99).reason


def test_decisions_look_at_counts_only():
    again = [play(costs(), lambda length: 0.5, seed=3) for _ in range(2)]
    assert again[0] == again[1]


def test_copies_and_the_drafter_s_own_nodes_are_judged_apart():
    ledger = Ledger((), 8)
    for _ in range(30):
        ledger.enter(record(20, 2, 2, score=0.5), 8)
        ledger.judge(replace(record(20, 2, 0, score=0.5), origins=["context", "context"]))
    assert ledger.drafted.floor(0.3) < 0.33 < ledger.copied.floor(0.3)


def test_without_a_drafter_the_scores_of_copies_decide():
    table = costs(drafter=None, row=0.5)
    table = replace(table, overhead=(table.plain_overhead + 3e-4, *table.overhead[1:]))  # looking takes time
    auto = AutoBudget(table, computes=False, copies=True)
    first = auto.plan(20, [], 50)
    assert first.reason.startswith("copies: ")
    assert (first.depth, first.budget) == (0, MOST_COPIES), "they take no drafter"
    assert list(first.seconds) == [table.plain, *(table.verifying(nodes) for nodes in range(1, MOST_COPIES + 1))]
    assert first.worth(0.9) == pytest.approx(0.9)
    records = [replace(record(20 + i, 4, 0, first, 0.9), origins=["own"] * 4) for i in range(30)]
    plans = [auto.plan(60, records, 50) for _ in range(9)]
    assert any(each.budget == 0 for each in plans), "and not looked for in every round"
    later = next(each for each in plans if each.budget)
    assert paying([later.worth(0.9**depth) for depth in range(1, 5)], later.seconds).size == 0, (
        "what is never accepted is not proposed any more"
    )
    assert auto.plan(60, records, 0).budget == 0


def humped(drafter: float | None = None) -> Costs:
    """One row more costs as much as a token, a third one nothing, as on many processors."""
    table = costs(drafter=drafter)
    times = tuple(5e-3 * part for part in (1.0, 1.75, 2.2, 1.55, 1.77, 1.8, 2.1, 2.55, 3.3))
    return replace(table, target=cost(*times, rows=(1, 2, 3, 4, 5, 8, 9, 17, 33)))


def test_nodes_that_cost_less_together_are_priced_together():
    """The chord to one node is .75 of a token, to three of them .18: drafts of one node must be able to grow."""
    auto, smooth = AutoBudget(humped(drafter=0.1)), AutoBudget(costs(drafter=0.1))
    auto.plan(20, [], 99)
    for counts in auto.forms[0].ledger.depths:
        counts.nodes = counts.rounds / 8.0  # one node a round
    chord = humped().target(4) - humped().target(1) + 3 * 0.02e-3
    assert auto.forms[0]._slope() == pytest.approx(chord / 3)
    assert smooth.forms[0]._slope() == pytest.approx(0.15e-3 + 0.02e-3), (
        "and nothing changes where every row costs the same"
    )


def test_a_draft_model_s_drafts_grow_where_the_second_row_is_dear():
    table = humped(drafter=0.1)
    records, seconds = play(table, lambda length: 0.85, tokens=600)
    assert sum(len(record.tokens) for record in records[-20:]) / 20 >= 4
    assert 600 * table.plain / seconds > 1.2


@pytest.mark.parametrize("drafter", [0.5, 5.0])
def test_where_a_drafter_does_not_pay_there_are_copies(drafter: float):
    auto = AutoBudget(costs(drafter=drafter, reached=0.0), copies=True)
    plans = [auto.plan(20 + i, [record(20 + j, 0, 0) for j in range(i)], 50) for i in range(20)]
    assert {plan.reason.partition(":")[0] for plan in plans} == {"copies"}
    assert all((plan.depth, plan.budget) == (0, MOST_COPIES) for plan in plans)
    bare = AutoBudget(costs(drafter=drafter, reached=0.0))
    assert bare.plan(20, [], 50).reason.startswith("plain: ")


def test_a_level_that_was_not_drafted_keeps_what_is_known_of_it():
    ledger = Ledger((), 8)
    before = [counts.gain for counts in ledger.depths]
    ledger.weigh(record(20, 3, 3, score=0.5), 8)
    after = [counts.gain for counts in ledger.depths]
    assert after[:3] > before[:3]
    assert before[4] < after[4] < after[2], "but for the next ones, which would never be tried"
    assert after[5:] == before[5:]
    assert ledger.survival() == sorted(ledger.survival(), reverse=True)


def test_scores_are_believed_as_far_as_the_target_confirms_them():
    ledger = Ledger((), 8)
    for _ in range(60):
        ledger.weigh(record(20, 4, 4, score=0.5), 8)
    assert ledger.depths[2].gain == pytest.approx(1.0 / 0.5**2, rel=0.05), "too small by a factor of four"
    for _ in range(200):
        ledger.weigh(record(20, 4, 1, score=1.0), 8)
    assert ledger.depths[2].gain == pytest.approx(LEAST_GAIN)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.floats(0.01, 1.0)), max_size=40), st.integers(1, 8))
def test_whatever_was_counted_limits_are_in_order(rounds: list[tuple[int, int, float]], deepest: int):
    auto, records, length = AutoBudget(costs(drafter=0.1), deepest), [], 20
    for drafted, accepted, score in rounds:
        limits = auto.plan(length, records, 99)
        depth = min(drafted, limits.depth)
        records.append(record(length, depth, min(accepted, depth), limits, score))
        length += len(records[-1].path) + 1
        assert 0 <= limits.depth <= deepest
        assert 0.0 <= limits.floor <= 1.0
        assert all(0.0 < price < float("inf") for price in limits.price_passes[1:])
        assert (limits.budget == 0) == (limits.depth == 0)


class TestEngine:
    """With models that run, and the table of `conftest.known_costs`."""

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_a_chain_is_drafted_by_the_very_structure_that_would_branch(self, temperature: float):
        params = dg.SamplingParams(max_new_tokens=40, temperature=temperature, seed=3)
        table = with_chains(costs(drafter=0.1), 0.7, less=3.0)
        for options, chains in (({}, True), ({"structure": "graph"}, False), ({"structure": "tree"}, False)):
            result = self.engine(table, **options).generate([1, 2, 3], params)
            drafts = [record for record in result.rounds if record.tokens]
            assert all([*record.parents] == list(range(-1, len(record.tokens) - 1)) for record in drafts) == chains
            assert all("a chain" in record.reason for record in drafts) == chains
            assert result.stats.mean_acceptance_length > 1.5

    def engine(self, table: Costs | None = None, **options) -> dg.Engine:
        target = tiny_lm()
        engine = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05), **options)
        if table is not None:
            engine.__dict__["costs"] = table
        return engine

    @pytest.mark.parametrize("reached", [0.0, 0.9])
    def test_greedy_text_is_that_of_plain_decoding_through_probes_and_all(self, reached: float):
        params = dg.SamplingParams(max_new_tokens=90)
        plain = self.engine(budget=0).generate([1, 2, 3], params)
        result = self.engine(costs(drafter=0.02, reached=reached)).generate([1, 2, 3], params)
        assert result.token_ids == plain.token_ids
        assert len(decisions(result.rounds)) >= (2 if reached == 0.0 else 1)
        assert {record.decision for record in plain.rounds} == {"fixed"}

    @pytest.mark.parametrize("temperature", [0.5, 1.0])
    def test_a_seed_gives_the_same_text_and_decisions_whatever_ran_before(self, temperature: float):
        params = dg.SamplingParams(max_new_tokens=60, temperature=temperature, seed=7)
        fresh, used = self.engine(), self.engine()
        used.generate([5, 6], dg.SamplingParams(max_new_tokens=30, temperature=1.0, seed=1))
        first, second = (engine.generate([1, 2, 3], params) for engine in (fresh, used))
        assert first.token_ids == second.token_ids
        assert [r.reason for r in first.rounds] == [r.reason for r in second.rounds]

    def test_the_drafter_catches_up_after_plain_rounds(self):
        result = self.engine(costs(drafter=0.02, reached=0.0)).generate(
            [1, 2, 3], dg.SamplingParams(max_new_tokens=110)
        )
        probes = [record for record in result.rounds if record.decision == "probe"]
        assert all(record.num_passes <= PROBE_DEPTH for record in probes)
        assert any(record.path for record in result.rounds if record.decision in ("probe", "draft")), (
            "it read what it missed"
        )

    @pytest.mark.parametrize("temperature", [0.0, 0.9])
    def test_copies_beside_a_hopeless_drafter_and_without_one(self, temperature: float):
        params = dg.SamplingParams(max_new_tokens=60, temperature=temperature, seed=2)
        looked_up = dg.Engine.from_pretrained(tiny_lm(), drafter="lookup")
        for engine in (self.engine(costs(drafter=9.0)), looked_up):
            result = engine.generate([1, 2, 3, 1, 2, 3], params)
            assert set(decisions(result.rounds)) <= {"copies", "plain"}
            assert result.stats.num_drafter_passes == 0
            if temperature == 0.0:
                assert result.stats.num_accepted_tokens > 0
                assert result.token_ids == self.engine(budget=0).generate([1, 2, 3, 1, 2, 3], params).token_ids

    @pytest.mark.parametrize("depth", [1, 3, None])
    def test_copies_are_as_deep_as_was_asked_for(self, depth: int | None):
        engine = dg.Engine.from_pretrained(tiny_lm(), drafter="lookup", num_speculative_tokens=depth)
        result = engine.generate([1, 2, 3, 4] * 6, dg.SamplingParams(max_new_tokens=60))
        deepest = max(max(record.depths(), default=0) for record in result.rounds)
        assert deepest > 3 if depth is None else deepest == depth

    def test_a_fixed_budget_asks_for_no_costs(self):
        engine = self.engine(budget=4)
        engine.generate([1, 2], dg.SamplingParams(max_new_tokens=8))
        assert "costs" not in engine.__dict__
