"""Drafter passes of many requests are made as one: as few as the deepest draft needs, and every draft is what it is alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from company import arrived, happened, round_of, running
from draftgraph.draft import joined
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.model import ModelDrafter
from draftgraph.draft.structures.base import Growth
from draftgraph.engine.course import Course
from draftgraph.errors import DrafterError, LogitsError
from draftgraph.types import ROOT
from feature_drafters import write_drafter
from models import perturbed, tiny_lm

PROMPTS = [[3, 14, 15, 9, 26], [7, 8], [26, 5, 35, 8, 9, 7, 26, 5, 35], [1]]
TOKENS = 16
EDGES = ("merge", "own", "context", "rejected")


class Own(dg.structures.Structure):
    """The two best tokens below every node, as written by a user."""

    def grow(self, growth: Growth) -> DraftGraph:
        graph, level = DraftGraph(), [ROOT]
        for _ in range(min(growth.limits.depth, growth.limits.reach)):
            if len(graph) + 2 * len(level) > growth.limits.budget:
                break
            level = [node for below in growth.expand(graph, level, 2, "fixed") for node in below]
        return graph


class Wrapped(dg.Drafter):
    """A drafter of a user's that asks another one."""

    structure = None

    def __init__(self, inside: ModelDrafter) -> None:
        self.inside = inside
        for verb in ("begin", "end", "verified", "overlap"):
            setattr(self, verb, getattr(inside, verb))

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        return self.inside.propose(request, limits)


@cache
def target() -> PreTrainedModel:
    return tiny_lm(window=256)


def engine_of(**options: Any) -> dg.Engine:
    return dg.Engine.from_pretrained(target(), **({"draft_model": perturbed(target(), 0.1), "budget": 8} | options))


class Counted:
    """Rows of every forward: by request, as the seam was asked, and as the model computed them."""

    def __init__(self, model: Any, patch: pytest.MonkeyPatch) -> None:
        self.passes: list[list[int]] = []
        self.computed: list[int] = []
        whole = model.forward

        def forward(feeds: Any, taps: Any = ()) -> Any:
            self.passes.append([feed.num_rows for feed in feeds])
            return whole(feeds, taps)

        patch.setattr(model, "forward", forward)
        if hasattr(model, "call"):
            call = model.call

            def called(**inputs: Any) -> Any:
                self.computed.append(inputs["position_ids"].shape[1])
                return call(**inputs)

            patch.setattr(model, "call", called)


CASES: dict[str, tuple[dict[str, Any], float]] = {
    "graph greedy": ({}, 0.0),
    "graph sampled": ({}, 1.0),
    "agree": ({"rule": "agree"}, 1.0),
    "chain": ({"structure": "chain"}, 1.0),
    "tree": ({"structure": dg.structures.Tree((3, 2, 1))}, 1.0),
    "comb": ({"structure": dg.structures.Comb()}, 1.0),
    "gsd": ({"structure": "gsd"}, 0.0),
    "paths": ({"structure": dg.structures.Paths(2), "rule": "multipath"}, 1.0),
    "copies read ahead": ({"edges": EDGES, "structure": dg.structures.Graph(12)}, 0.6),
    "own structure": ({"structure": Own()}, 0.0),
    "automatic": ({"budget": "auto"}, 0.0),
    "no drafts": ({"budget": 0}, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_passes_and_rows_of_a_round_and_the_drafts_of_each_alone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options, temperature = CASES[case]
    engine = engine_of(**options)
    sampling = [{"max_new_tokens": TOKENS + n, "temperature": temperature, "seed": n} for n in range(len(PROMPTS))]
    alone = [engine.generate(prompt, **its) for prompt, its in zip(PROMPTS, sampling, strict=True)]
    guests = [arrived(engine, prompt, **its) for prompt, its in zip(PROMPTS, sampling, strict=True)]
    with monkeypatch.context() as patch:
        targets, drafters = Counted(engine.target, patch), Counted(engine.drafter.model, patch)
        while some := running(guests):
            check_round(some, targets, drafters)
    for guest, result in zip(guests, alone, strict=True):
        assert guest.request.output == result.token_ids
        if case == "automatic":
            continue  # drafts share one budget
        for ours, theirs in zip(guest.request.rounds, result.rounds, strict=True):
            assert (ours.tokens, ours.parents, ours.num_passes) == (theirs.tokens, theirs.parents, theirs.num_passes)
    assert not engine.target.cache._used  # type: ignore[attr-defined]
    assert not engine.drafter.model.cache._used  # type: ignore[union-attr]


def check_round(guests: list[Course], targets: Counted, drafters: Counted) -> None:
    for counted in (targets, drafters):
        counted.passes.clear()
        counted.computed.clear()
    unread = [len(guest.request.tokens) - len(guest.request.text) for guest in guests]
    round_of(guests)
    records = [guest.request.rounds[-1] for guest in guests]
    expected = [new + len(record.tokens) for new, record in zip(unread, records, strict=True)]
    assert targets.passes == [expected]
    assert targets.computed == [sum(expected)]  # and no row beside them
    assert len(drafters.passes) == max(record.num_passes for record in records)
    for number, rows in enumerate(drafters.passes):
        assert len(rows) == sum(record.num_passes > number for record in records)
    assert drafters.computed == [sum(rows) for rows in drafters.passes]


def test_a_feature_drafter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(draft_model=write_drafter(tmp_path, target()), budget=6)
    for temperature in (0.0, 1.0):
        options = {"max_new_tokens": TOKENS, "temperature": temperature, "seed": 5}
        alone = [engine.generate(prompt, **options).token_ids for prompt in PROMPTS]
        guests = [arrived(engine, prompt, **options) for prompt in PROMPTS]
        with monkeypatch.context() as patch:
            drafters = Counted(engine.drafter.model, patch)
            while some := running(guests):
                drafters.passes.clear()
                round_of(some)
                assert len(drafters.passes) == max(guest.request.rounds[-1].num_passes for guest in some)
        assert [guest.request.output for guest in guests] == alone


def test_a_drafter_of_a_users_that_asks_another(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = engine_of().drafter
    engine = dg.Engine.from_pretrained(target(), drafter=Wrapped(inside), budget=8)  # type: ignore[arg-type]
    alone = [engine.generate(prompt, max_new_tokens=TOKENS).token_ids for prompt in PROMPTS]
    guests = [arrived(engine, prompt, max_new_tokens=TOKENS) for prompt in PROMPTS]
    drafters = Counted(inside.model, monkeypatch)
    round_of(guests)
    assert len(drafters.passes) == max(guest.request.rounds[-1].num_passes for guest in guests)
    while some := running(guests):
        round_of(some)
    assert [guest.request.output for guest in guests] == alone


def test_requests_of_different_structures_and_rules_share_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    kinds: list[dict[str, Any]] = [{}, {"structure": "chain"}, {"structure": "gsd", "budget": 3}, {"rule": "agree"}]
    sampling = {"max_new_tokens": TOKENS, "temperature": 0.8, "seed": 3}
    asked = [(prompt, sampling | its) for prompt, its in zip(PROMPTS, kinds, strict=True)]
    alone = [engine.generate(prompt, **its).token_ids for prompt, its in asked]
    guests = [arrived(engine, prompt, **its) for prompt, its in asked]
    targets, drafters = Counted(engine.target, monkeypatch), Counted(engine.drafter.model, monkeypatch)
    while some := running(guests):
        check_round(some, targets, drafters)
    assert [guest.request.output for guest in guests] == alone


# --- what goes wrong in one of them -----------------------------------------------------------------------------------


class Between(dg.structures.Structure):
    """A graph; something happens after its second pass, for the request whose last token is `last`."""

    def __init__(self, happen: Callable[[], None], last: int, log: list[str]) -> None:
        self.happen, self.last, self.log = happen, last, log

    def grow(self, growth: Growth) -> DraftGraph:
        graph, level = DraftGraph(), [ROOT]
        try:
            for depth in range(min(3, growth.limits.reach)):
                if depth == 2 and list(growth.context[-1:]) == [self.last]:
                    self.happen()
                level = [node for below in growth.expand(graph, level, 1, "fixed") for node in below]
        finally:
            self.log.append("ended")
        return graph


def fail() -> None:
    raise ValueError("on purpose")


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_structure_that_fails_between_passes_ends_its_request_alone() -> None:
    log: list[str] = []
    engine = engine_of(structure=Between(fail, PROMPTS[1][-1], log))
    whole = engine_of(structure=Between(fail, -1, []))
    guests = [arrived(engine, prompt, max_new_tokens=TOKENS) for prompt in PROMPTS[:3]]
    found = happened(guests)
    assert isinstance(found[1], DrafterError)
    assert "on purpose" in str(found[1])
    assert [isinstance(each, Exception) for each in found] == [False, True, False]
    left = [guests[0], guests[2]]
    for guest in left:
        expected = whole.generate(guest.request.tokens[: guest.request.prompt_length], max_new_tokens=1).token_ids
        assert guest.request.output[:1] == expected
        guest.free()
    assert not engine.drafter.model.cache._used  # type: ignore[union-attr]


def test_an_interrupt_in_one_ends_all_of_them_in_order() -> None:
    log: list[str] = []
    engine = engine_of(structure=Between(interrupt, PROMPTS[1][-1], log))
    guests = [arrived(engine, prompt, max_new_tokens=TOKENS) for prompt in PROMPTS[:3]]
    log.clear()
    with pytest.raises(KeyboardInterrupt):
        round_of(guests)
    assert log == ["ended"] * 3  # every `finally` has run
    for guest in guests:
        guest.free()
    assert not engine.target.cache._used  # type: ignore[attr-defined]
    assert not engine.drafter.model.cache._used  # type: ignore[union-attr]
    assert engine.generate(PROMPTS[0], max_new_tokens=3).token_ids


def test_a_pass_that_fails_for_one_is_that_ones_error() -> None:
    engine = engine_of()

    def spoil(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        if 8 in kwargs["input_ids"][0].tolist()[1:]:  # of the second prompt, but for rows that come first
            output.logits.fill_(torch.nan)
        return output

    prompts = [[3, 14], [7, 8], [26, 5]]
    guests = [arrived(engine, prompt, max_new_tokens=TOKENS) for prompt in prompts]
    hook = engine.drafter.model.model.register_forward_hook(spoil, with_kwargs=True)  # type: ignore[union-attr]
    found = happened(guests)
    hook.remove()
    assert [isinstance(each, LogitsError) for each in found] == [False, True, False]


# --- without the package, and beside a user's own state ----------------------------------------------------------------


def test_without_greenlet_every_request_makes_its_own_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "greenlet", None)
    engine = engine_of()
    alone = [engine.generate(prompt, max_new_tokens=TOKENS).token_ids for prompt in PROMPTS]
    guests = [arrived(engine, prompt, max_new_tokens=TOKENS) for prompt in PROMPTS]
    drafters = Counted(engine.drafter.model, monkeypatch)
    round_of(guests)
    assert len(drafters.passes) == sum(guest.request.rounds[-1].num_passes for guest in guests)
    while some := running(guests):
        round_of(some)
    assert [guest.request.output for guest in guests] == alone


class Asking(dg.structures.Structure):
    """Generates with an engine of its own while it grows."""

    def __init__(self, inside: dg.Engine, seen: list[list[int]]) -> None:
        self.inside, self.seen = inside, seen

    def grow(self, growth: Growth) -> DraftGraph:
        graph = DraftGraph()
        below = growth.expand(graph, [ROOT], 1, "fixed")[0]
        if growth.context:
            self.seen.append(self.inside.generate([[3, 4], [5]], max_new_tokens=4)[0].token_ids)
        if growth.limits.reach > 1:
            growth.expand(graph, below, 1, "fixed")
        return graph


def test_a_structure_may_generate_while_it_grows() -> None:
    inside = engine_of()
    seen: list[list[int]] = []
    engine = engine_of(structure=Asking(inside, seen), budget=2, num_speculative_tokens=2)
    alone = [engine.generate(prompt, max_new_tokens=5).token_ids for prompt in PROMPTS]
    guests = [arrived(engine, prompt, max_new_tokens=5) for prompt in PROMPTS]
    while some := running(guests):
        round_of(some)
    assert [guest.request.output for guest in guests] == alone
    assert all(each == seen[0] for each in seen)
