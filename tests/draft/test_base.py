"""A drafter of one's own: every rule, every budget, and what it may be asked to do beside it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.draft.terms import Overlap
from draftgraph.engine.pair_costs import pair_costs
from draftgraph.engine.strategy import ROUNDS
from draftgraph.errors import DrafterError, OptionError
from ids import told
from models import perturbed, plain, tiny_lm
from own_drafters import Beside, Independent, Line, Same

PROMPT = [5, 9, 5]
DRAFTERS: dict[str, type[dg.Drafter]] = {kind.__name__: kind for kind in (Beside, Line, Same, Independent)}
EVERYTHING = {"layer", "walk", "agree", "traversal", "recursive", "top_beta", "typical"}
VERIFIED = {
    "Beside": EVERYTHING,
    "Line": EVERYTHING | {"block", "token", "kseq", "multipath"},
    "Same": EVERYTHING | {"block", "token"},
    "Independent": EVERYTHING | {"kseq", "multipath"},
}
"""Rules that run above temperature 0. At 0 nothing is known to be SAMPLED, and the last two are refused."""


@cache
def target() -> PreTrainedModel:
    return tiny_lm()


def engine_of(drafter: dg.Drafter, **options: Any) -> dg.Engine:
    return dg.Engine.from_pretrained(target(), drafter=drafter, **options)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("rule", dg.rules())
@pytest.mark.parametrize("name", DRAFTERS)
def test_an_own_drafter_under_every_rule(name: str, rule: str, temperature: float) -> None:
    """Greedy text is that of plain decoding; what the rule does not verify is refused by name before any token."""
    possible = VERIFIED[name] - ({"kseq", "multipath"} if temperature == 0.0 else set())
    params = dg.SamplingParams(max_new_tokens=18, temperature=temperature, seed=4)
    if rule not in possible:
        with pytest.raises(OptionError, match=f"rule '{rule}'") as refused:
            engine_of(DRAFTERS[name](), rule=rule, budget=8).generate(PROMPT, params)
        assert "rule='layer'" in str(refused.value) or "rule='block'" in str(refused.value)
        return
    engine = engine_of(DRAFTERS[name](), rule=rule, budget=8)
    first, second = (engine.generate(PROMPT, params) for _ in range(2))
    assert first.token_ids == second.token_ids
    assert first.stats.num_draft_tokens > 0
    assert not engine.target.cache._used
    if temperature == 0.0:
        assert first.token_ids == plain(target(), PROMPT, 18)


@pytest.mark.parametrize(
    ("name", "rule"), [("Beside", "layer"), ("Line", "block"), ("Same", "walk"), ("Independent", "layer")]
)
def test_the_rule_that_suits_its_laws_is_chosen(name: str, rule: str) -> None:
    drafter = DRAFTERS[name]()
    result = engine_of(drafter, budget=8).generate(
        PROMPT, dg.SamplingParams(max_new_tokens=20, temperature=1.0, seed=1)
    )
    assert result.stats.rule == rule
    assert result.stats.structure == drafter.structure.name
    assert any(any(record.sampled) for record in result.rounds) == ("sampled" in drafter.draws)


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("budget", ["auto", 0, 1, 5])
def test_every_budget(name: str, budget: Any) -> None:
    result = engine_of(DRAFTERS[name](), budget=budget).generate(PROMPT, dg.SamplingParams(max_new_tokens=40))
    assert result.token_ids == plain(target(), PROMPT, 40)
    assert budget == "auto" or max(len(record.tokens) for record in result.rounds) <= budget


def test_its_costs_are_measured_and_its_depth_is_decided() -> None:
    """Nothing is known of it but what its rounds took."""
    engine = engine_of(Beside())
    costs = pair_costs(engine.target, engine.drafter, engine.config, engine._decode)
    assert costs.drafter is None
    assert costs.levels
    assert costs.note == "measured now"
    assert costs.widest == 2
    engine.__dict__["costs"] = costs
    result = engine.generate(PROMPT, dg.SamplingParams(max_new_tokens=40))
    assert result.token_ids == plain(target(), PROMPT, 40)
    assert "costs measured now" in result.rounds[0].reason


class Told(Line):
    """Writes down what it is told."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.told = fails, list[str]()

    def note(self, what: str) -> None:
        self.told.append(what)
        if what == self.fails:
            raise ValueError("on purpose")

    def begin(self, request: Any) -> None:
        self.note("begin")

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        self.note("propose")
        return super().propose(request, limits)

    def observe(self, *seen: Any) -> None:
        self.note("observe")

    def overlap(self, request: Any) -> None:
        if self.fails == "overlap":
            self.note("overlap")

    def end(self, request: Any) -> None:
        self.note("end")


def test_it_is_told_what_happens() -> None:
    drafter = Told()
    result = engine_of(drafter, budget=4).generate(PROMPT, dg.SamplingParams(max_new_tokens=12))
    told = [what for record in result.rounds for what in (["propose"] if record.tokens else []) + ["observe"]]
    assert drafter.told == ["begin", *told, "end"]
    assert "propose" in told
    stream = engine_of(drafter, budget=4).stream(PROMPT)
    next(stream)
    drafter.told.clear()
    stream.close()
    assert drafter.told == ["end"]


@pytest.mark.parametrize("fails", ["begin", "propose", "observe", "overlap", "end"])
def test_a_drafter_that_fails_is_named_and_the_engine_goes_on(fails: str) -> None:
    drafter = Told(fails)
    engine = engine_of(drafter, budget=4)
    params = dg.SamplingParams(max_new_tokens=12)
    if fails == "overlap":  # asked where it may change how drafts are drawn
        drafter.draws, drafter.structure = ("fixed", "sampled"), None
        engine, params = engine_of(drafter, budget=4, structure="graph"), dg.SamplingParams(temperature=0.4, seed=1)
    with pytest.raises(DrafterError, match=f"the drafter Told failed while .*{fails[:4]}.*ValueError: on purpose"):
        engine.generate(PROMPT, params)
    assert drafter.told.count("begin") == drafter.told.count("end") == 1
    assert not engine.target.cache._used
    drafter.fails = ""
    assert engine.generate(PROMPT, dg.SamplingParams(max_new_tokens=12)).token_ids == plain(target(), PROMPT, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "tree"}, "structure=tree is for drafts of a draft model, and Beside makes its own"),
        ({"edges": "own"}, "edges=.*'own'.* is for drafters without a model that are ours"),
        ({"prediction": "text"}, "prediction='text' is for"),
        ({"draft_model": "models/none"}, "drafter=Beside drafts without it; leave out draft_model"),
        ({"rule": "block"}, r"rule 'block' verifies.*Beside says of its drafts.*structure = dg.structures.Chain\(\)"),
        (
            {"drafter": Beside},
            "drafter=<class .* is not possible; write 'model', 'lookup', 'text', 'search', or a dg.Drafter",
        ),
        ({"drafter": 7}, "drafter=7 is not possible"),
    ],
    ids=told,
)
def test_what_only_our_drafters_can_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        dg.Engine.from_pretrained(target(), **{"drafter": Beside()} | options)


def test_a_model_of_its_own_bounds_the_text() -> None:
    small = dg.Engine.from_pretrained(tiny_lm(window=32)).target

    class Small(Line):
        model = small

    result = engine_of(Small(), budget=4).generate(PROMPT, dg.SamplingParams(max_new_tokens=60))
    assert len(result.token_ids) == 60
    late = [record for record in result.rounds if record.length > 32]
    assert late
    assert not any(record.tokens for record in late)


def test_what_it_has_in_common_with_the_target_is_its_own_to_say() -> None:
    """A weak drafter of a given structure goes on drafting as it does."""

    class Weak(Line):
        def overlap(self, request: Any) -> Overlap:
            return Overlap(0.0, ROUNDS)

    result = engine_of(Weak(), budget=4).generate(PROMPT, dg.SamplingParams(max_new_tokens=20, temperature=0.3, seed=1))
    assert result.choice.sampled


def test_a_drafter_may_grow_the_structures_of_the_engine() -> None:
    """`structure = None`, as our own drafters have it."""

    class Grows(dg.Drafter):
        structure = None

        def propose(self, request: Any, limits: Any) -> dg.Draft:
            width = request.choice.structure.width
            graph = dg.DraftGraph()
            for token in range(min(width or limits.budget, limits.budget, limits.reach * limits.budget)):
                graph.fix(dg.ROOT, token, score=0.1)
            return dg.Draft(graph)

    for structure, size in (("chain", 1), ("tree", 6)):
        result = engine_of(Grows(), structure=structure, budget=6).generate(PROMPT, dg.SamplingParams(max_new_tokens=9))
        assert {len(record.tokens) for record in result.rounds} <= {0, size}
        assert result.token_ids == plain(target(), PROMPT, 9)


def test_it_drafts_inside_transformers_too() -> None:
    import torch

    loop = dg.custom_generate(drafter=Beside(), budget=6)
    ids = torch.tensor([PROMPT])
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    expected = target().generate(ids, **options)
    assert torch.equal(target().generate(ids, custom_generate=loop, **options), expected)


def test_ours_are_made_anew_for_timing() -> None:
    ours = dg.Engine.from_pretrained(target(), draft_model=perturbed(target(), 0.1), edges=("table",)).drafter
    assert ours.fresh() is not ours
    assert ours.fresh().table is not ours.table
    assert (ours.fresh().model, ours.fresh().edges) == (ours.model, ours.edges)
    lookup = dg.Engine.from_pretrained(target(), drafter="text", prediction=[1, 2, 3]).drafter
    assert (lookup.fresh().edges, lookup.fresh().prediction) == (("text", "own", "context"), [])
    own = Beside()
    assert own.fresh() is own
