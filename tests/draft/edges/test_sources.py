"""Which edge sources may be asked for, and that they do what their names say in real requests."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph import errors
from draftgraph.draft.edges.rows import PRIOR
from draftgraph.draft.edges.sources import EDGES, edges_beside_model, edges_without_model
from draftgraph.draft.search import SEARCH
from models import perturbed, plain, tiny_lm

BESIDE_MODEL = ("merge", "own", "context", "rejected", "table")


@cache
def target() -> PreTrainedModel:
    return tiny_lm()


@cache
def drafter() -> PreTrainedModel:
    return perturbed(target(), 0.12)


def test_every_source_has_a_prior() -> None:
    assert set(PRIOR) == {*EDGES, SEARCH}


@pytest.mark.parametrize(
    ("options", "has_model", "expected"),
    [
        ({}, True, ("merge", "own", "context", "rejected")),
        ({"structure": "tree"}, True, ()),
        ({"structure": "tree", "edges": ()}, True, ()),
        ({"rule": "block"}, True, ("own", "context")),
        ({"edges": "table"}, True, ("table",)),
        ({"edges": ["own", "own", "merge"]}, True, ("own", "merge")),
        ({}, False, ("own", "context")),
        ({"structure": "chain", "edges": ("own", "table")}, False, ("own", "table")),
        ({"prediction": [1]}, False, ("text", "own", "context")),
        ({"prediction": [1], "edges": "text", "drafter": "text"}, False, ("text",)),
    ],
)
def test_the_sources_in_use(options: dict[str, Any], has_model: bool, expected: tuple[str, ...]) -> None:
    config = dg.Config(**options)
    if has_model:
        assert edges_beside_model(config.edges, config.resolved_structure) == expected
    else:
        assert edges_without_model(config.edges, bool(config.prediction)) == expected


@pytest.mark.parametrize(
    ("options", "has_model", "named"),
    [
        ({"edges": ("own", "text")}, True, "edges='text' is for drafter='text'"),
        ({"edges": "own", "structure": "tree"}, True, "'own' fill .* structure='tree'"),
        ({"edges": "own", "structure": "gsd"}, True, "write structure='graph'"),
        ({"edges": ("own", "merge", "rejected")}, False, "'merge', 'rejected' share rows of a draft model"),
        ({"edges": "text"}, False, "belong together"),
        ({"edges": "own", "prediction": [1]}, False, "belong together"),
        ({"edges": ()}, False, "budget=0"),
    ],
)
def test_sources_that_have_nothing_are_refused(options: dict[str, Any], has_model: bool, named: str) -> None:
    beside = {"draft_model": drafter()} if has_model else {}
    with pytest.raises(errors.OptionError, match=named):
        dg.Engine.from_pretrained(target(), **beside, **options)


@pytest.mark.parametrize("edges", ["tabel", ("own", "tabel"), ("own", 3), 5, None])
def test_unknown_sources_are_refused(edges: Any) -> None:
    with pytest.raises(errors.OptionError, match=r"merge.*own.*table|names of edge sources"):
        dg.Config(edges=edges)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("edges", [(), *((name,) for name in BESIDE_MODEL), BESIDE_MODEL])
def test_only_the_sources_asked_for_are_copied(edges: tuple[str, ...], temperature: float) -> None:
    engine = dg.Engine.from_pretrained(
        target(), draft_model=drafter(), edges=edges, budget=20, num_speculative_tokens=2
    )
    origins: set[str] = set()
    for seed in range(3 if temperature else 2):
        result = engine.generate([9, 4, 9], dg.SamplingParams(max_new_tokens=60, temperature=temperature, seed=seed))
        origins |= {origin for record in result.rounds for origin in record.origins}
        check_sums(result)
    assert origins - {"drafter"} <= set(edges)
    if temperature == 0:
        assert set(edges) <= origins | {"rejected", "context"}
        assert result.token_ids == plain(target(), [9, 4, 9], 60)


def check_sums(result: dg.Result) -> None:
    """Accepted tokens by origin and match length add up to the accepted tokens, counted again from the rounds."""
    stats = result.stats
    counted: dict[str, int] = {}
    for record in result.rounds:
        for node in record.path[: record.emitted]:
            counted[record.origins[node]] = counted.get(record.origins[node], 0) + 1
    assert stats.accepted_by_source == counted
    assert {source: sum(counts) for source, counts in stats.accepted_by_match_length.items()} == counted
    assert sum(counted.values()) == stats.num_accepted_tokens


def test_no_drafter_pass_leaves_a_draft_of_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Limits.depth` 0 with a budget: whatever sources have is copied, at the root too, in any round."""
    from dataclasses import replace

    from draftgraph.engine import course as module

    bounds = module.limits
    rounds = iter(range(10**6))
    monkeypatch.setattr(
        module, "limits", lambda *a, **k: replace(bounds(*a, **k), depth=0 if next(rounds) % 3 else 2, budget=8)
    )
    for temperature in (0.0, 1.0):
        engine = dg.Engine.from_pretrained(target(), draft_model=drafter(), edges=BESIDE_MODEL)
        result = engine.generate([9, 4, 9], dg.SamplingParams(max_new_tokens=80, temperature=temperature, seed=3))
        copied = [record for record in result.rounds if record.tokens and not record.num_passes]
        assert copied
        for record in copied:
            assert set(record.origins) <= set(BESIDE_MODEL)
            assert not any(record.sampled)
        check_sums(result)
        if temperature == 0:
            assert result.token_ids == plain(target(), [9, 4, 9], 80)
            assert sum(len(record.path) for record in copied) > 0
        assert not engine.drafter.model.cache._used


def test_the_table_outlives_requests_and_needs_no_model() -> None:
    """The second of two equal requests finds everything in the table; nothing else would be there."""
    engine = dg.Engine.from_pretrained(target(), drafter="lookup", edges=("table",), budget=8)
    params = dg.SamplingParams(max_new_tokens=60)
    first, second = (engine.generate([9, 4, 9], params) for _ in range(2))
    assert first.token_ids == second.token_ids == plain(target(), [9, 4, 9], 60)
    assert second.stats.mean_acceptance_length > max(1.5, first.stats.mean_acceptance_length)
    assert set(second.stats.accepted_by_source) == {"table"}
    check_sums(second)


@pytest.mark.parametrize("rule", ["layer", "agree"])
def test_the_same_seed_says_the_same(rule: str) -> None:
    """Whatever ran before, without the table; and under `agree` with it."""
    edges = BESIDE_MODEL if rule == "agree" else BESIDE_MODEL[:-1]
    options: dict[str, Any] = {"draft_model": drafter(), "rule": rule, "budget": 20, "num_speculative_tokens": 2}
    engine = dg.Engine.from_pretrained(target(), edges=edges, **options)
    params = dg.SamplingParams(max_new_tokens=50, temperature=1.0, seed=5)
    texts = [engine.generate([9, 4, 9], params).token_ids for _ in range(3)]
    assert texts[0] == texts[1] == texts[2]
    if rule == "agree":
        without = dg.Engine.from_pretrained(target(), edges=(), **options)
        assert without.generate([9, 4, 9], params).token_ids == texts[0]
