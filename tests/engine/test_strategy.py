"""Rule and slots per request: from the options, the laws at hand and what was measured, with the reason in the result."""

from __future__ import annotations

import pytest

import draftgraph as dg
from cost_tables import costs
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.model import ModelDrafter
from draftgraph.draft.terms import Overlap
from draftgraph.engine.config import Config
from draftgraph.engine.strategy import FIXED_PAYS_UP_TO, ROUNDS, WEAK, choose, may_narrow, plan, reconsider
from draftgraph.errors import OptionError
from models import perturbed, tiny_lm

SEEN = Overlap(WEAK / 2, ROUNDS)
MODEL, LOOKUP = ModelDrafter(None, 64), LookupDrafter(("own",))
SHAPE, CHILDREN = dg.structures.Tree((2, 1)), dg.structures.Tree((2, 1), children="with_replacement")


@pytest.mark.parametrize(
    ("options", "temperature", "drafter", "rule", "structure", "sampled"),
    [
        ({}, 1.0, MODEL, "layer", "graph", True),
        ({}, 0.0, MODEL, "walk", "graph", False),
        ({"drafter": "lookup"}, 1.0, LOOKUP, "walk", "graph", False),
        ({"structure": "chain"}, 0.7, MODEL, "block", "chain", True),
        ({"structure": "chain"}, 0.0, MODEL, "walk", "chain", False),
        ({"structure": "gsd"}, 1.0, MODEL, "walk", "gsd", False),
        ({"structure": SHAPE}, 1.0, MODEL, "layer", "tree", True),
        ({"structure": dg.structures.Tree((2, 1), "fixed")}, 1.0, MODEL, "walk", "tree", False),
        ({"structure": dg.structures.Tree((1, 1))}, 1.0, MODEL, "block", "tree", True),
        ({"rule": "agree"}, 1.0, MODEL, "agree", "graph", False),
        ({"rule": "token"}, 1.0, MODEL, "token", "chain", True),
        ({"rule": "recursive"}, 0.0, MODEL, "recursive", "graph", False),
    ],
)
def test_the_choice_follows_from_options_and_laws(options, temperature, drafter, rule, structure, sampled):
    choice = choose(Config(**options), temperature, drafter)
    assert (choice.rule.name, choice.structure.name, choice.sampled) == (rule, structure, sampled)
    assert ("was asked for" in choice.reason) == ("rule" in options)
    assert choice.to_dict()["slots"] == ("sampled" if sampled else "fixed")


@pytest.mark.parametrize(
    ("options", "structure"),
    [
        ({}, "chain"),
        ({"drafter": "lookup"}, "graph"),
        ({"drafter": "search"}, "graph"),
        ({"drafter": "lookup", "budget": 5}, "chain"),
        ({"drafter": "lookup", "structure": "chain"}, "chain"),
        ({"structure": "graph"}, "graph"),
    ],
)
def test_bit_for_bit_only_copies_branch_where_prices_say_how_far(options, structure):
    config = Config(bitwise=True, **options)
    drafter = MODEL if "drafter" not in options else LookupDrafter(("own",))
    assert choose(config, 0.0, drafter).structure.name == structure
    reads_paths = plan(Config(bitwise=True, **options | {"budget": "auto"}), drafter, 0.0, lambda: costs())
    assert reads_paths.unrolled
    assert not plan(Config(drafter="lookup"), LookupDrafter(("own",)), 0.0, lambda: costs()).unrolled


@pytest.mark.parametrize("options", [{}, {"bitwise": True}, {"rule": "agree"}, {"structure": "chain"}], ids=str)
def test_plain_decoding_says_that_nothing_is_drafted(options):
    for temperature in (0.0, 1.0):
        assert choose(Config(budget=0, **options), temperature, MODEL).reason == "budget=0: nothing is drafted"


@pytest.mark.parametrize("rule", ["multipath", "kseq"])
def test_a_rule_of_sampled_slots_is_refused_where_nothing_is_sampled(rule):
    options = {"structure": CHILDREN} if rule == "kseq" else {}
    config = Config(rule=rule, **options)
    assert choose(config, 1.0, MODEL).sampled
    with pytest.raises(OptionError, match=f"rule '{rule}'.*rule='layer'"):
        choose(config, 0.0, MODEL)


def test_a_weak_drafter_at_a_low_temperature_drafts_fixed_slots():
    first = choose(Config(), FIXED_PAYS_UP_TO, MODEL)
    later = reconsider(first, Config(), FIXED_PAYS_UP_TO, SEEN)
    assert (later.rule.name, later.sampled, later.structure.name) == ("walk", False, "graph")
    assert f"overlap by {SEEN.mean:.2f} over {ROUNDS} rounds at temperature {FIXED_PAYS_UP_TO:g}" in later.reason
    assert reconsider(later, Config(), FIXED_PAYS_UP_TO, SEEN) == later


@pytest.mark.parametrize(
    ("options", "temperature", "overlap"),
    [
        ({}, 1.0, SEEN),
        ({}, FIXED_PAYS_UP_TO, None),
        ({}, FIXED_PAYS_UP_TO, Overlap(SEEN.mean, ROUNDS - 1)),
        ({}, FIXED_PAYS_UP_TO, Overlap(WEAK, ROUNDS)),
        ({"rule": "layer"}, FIXED_PAYS_UP_TO, SEEN),
        ({"structure": SHAPE}, FIXED_PAYS_UP_TO, SEEN),
        ({"structure": "chain"}, FIXED_PAYS_UP_TO, SEEN),
    ],
)
def test_otherwise_the_choice_stays(options, temperature, overlap):
    config = Config(**options)
    first = choose(config, temperature, MODEL)
    assert reconsider(first, config, temperature, overlap) is first


def test_the_result_says_what_was_chosen_and_why():
    target = tiny_lm("llama")
    engine = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 8.0), budget=6)
    cold = engine.generate([3, 4, 5], dg.SamplingParams(max_new_tokens=60, temperature=0.3, seed=1))
    assert cold.choice.reason.startswith("drafter and target overlap by 0.")
    assert (cold.stats.rule, cold.stats.lossless) == ("walk", True)
    sampled = [any(record.sampled) for record in cold.rounds if record.tokens]
    assert sampled[: ROUNDS - 2] == [True] * (ROUNDS - 2)
    assert not any(sampled[ROUNDS + 1 :])
    again = engine.generate([3, 4, 5], dg.SamplingParams(max_new_tokens=60, temperature=0.3, seed=1))
    assert again.token_ids == cold.token_ids
    hot = engine.generate([3, 4, 5], dg.SamplingParams(max_new_tokens=60, temperature=1.0, seed=1))
    assert (hot.stats.rule, hot.choice.sampled) == ("layer", True)
    greedy = engine.generate([3, 4, 5], dg.SamplingParams(max_new_tokens=6))
    assert "longest match" in greedy.choice.reason
    alone = dg.Engine.from_pretrained(target, budget=6).generate([3, 4, 5], dg.SamplingParams(temperature=1.0, seed=2))
    assert "no law" in alone.choice.reason


@pytest.mark.parametrize(
    ("options", "may"),
    [
        ({}, True),
        ({"rule": "agree"}, True),
        ({"structure": "graph"}, False),
        ({"structure": "chain"}, False),
        ({"rule": "traversal"}, True),
        ({"rule": "multipath"}, False),
        ({"rule": "block"}, False),
        ({"bitwise": True}, False),
    ],
)
def test_drafts_may_be_chains_where_no_structure_was_asked_for(options, may):
    assert may_narrow(Config(**options), ModelDrafter(tiny_lm(), 64)) == may
    assert not may_narrow(Config(**options), LookupDrafter(("own",)))


@pytest.mark.parametrize(
    ("options", "temperature", "settled"),
    [
        ({}, FIXED_PAYS_UP_TO, False),
        ({}, FIXED_PAYS_UP_TO + 0.1, True),
        ({}, 0.0, True),
        ({"structure": "chain"}, FIXED_PAYS_UP_TO, True),
        ({"rule": "layer"}, FIXED_PAYS_UP_TO, True),
    ],
    ids=str,
)
def test_a_choice_is_settled_where_nothing_that_is_seen_would_change_it(options, temperature, settled):
    config = Config(**options)
    choice = choose(config, temperature, MODEL)
    assert choice.settled is settled
    changed = reconsider(choice, config, temperature, SEEN)
    assert (changed == choice) is settled
    assert changed.settled


@pytest.mark.parametrize("temperature", [FIXED_PAYS_UP_TO, 1.0])
def test_what_drafter_and_target_have_in_common_is_counted_where_it_may_change_the_choice(temperature):
    target = tiny_lm("llama", seed=0)
    engine = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.2), budget=4)
    seen = []
    engine.drafter.overlap = lambda request: seen.append(request)
    result = engine.generate([1, 2, 3], max_new_tokens=12, temperature=temperature, seed=0)
    assert len(seen) == (len(result.rounds) if temperature <= FIXED_PAYS_UP_TO else 0)
