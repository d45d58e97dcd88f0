"""The law of kept beams, by enumeration of real rounds: the drafter's draws, the tests, and the fresh draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch

from beam_tables import (
    ForkingTables,
    distance,
    law_of_layers,
    law_of_round,
    make_run,
    plain_law,
)
from draftgraph.engine.beams.beam import Beam
from draftgraph.engine.beams.choice import Sampled, joint
from draftgraph.engine.beams.round import decode_layers
from draftgraph.lab.prove.law import enumerate_draws
from draftgraph.sampling.beam_params import BeamParams
from draftgraph.verification.beams import Chance

VOCAB = 4
PAIRS = {"both miss tokens": (1, 2), "the drafter misses a token": (1, 1), "the target misses two": (2, 2)}


def table(seed: int, missing: int, like: Callable[[tuple[int, ...]], torch.Tensor] | None = None) -> ForkingTables:
    """Random laws, `missing` tokens of each have probability zero; like  a model that they agree with in part."""

    @cache
    def law(prefix: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(sum((token + 2) * 7**i for i, token in enumerate((seed, *prefix))))
        scores = torch.randn(VOCAB, generator=generator, dtype=torch.float64)
        if like is not None:
            scores = 0.7 * scores + like(prefix).clamp_min(1e-3).log()
        scores[torch.randperm(VOCAB, generator=generator)[:missing]] = -torch.inf
        return scores.softmax(0)

    return ForkingTables(VOCAB, law)


def pair(name: str) -> tuple[ForkingTables, ForkingTables]:
    missing, missed = PAIRS[name]
    target = table(1, missing)
    return target, table(2, missed, target.law)


@pytest.mark.parametrize("name", ["both miss tokens", "the target misses two"])
def test_two_layers_of_kept_beams_are_independent_draws_from_the_joint_laws(name: str) -> None:
    target, drafter = pair(name)
    params = BeamParams(num_beams=2, num_speculative_tokens=2, draft_beams=2)
    assert distance(law_of_layers(target, drafter, params, 2), plain_law(target, 2, 2)) < 1e-12


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("drafted", [1, 3, 4], ids=lambda n: f"{n}-drafted")
def test_one_layer_may_draft_fewer_pairs_than_it_keeps_or_more(name: str, drafted: int) -> None:
    target, drafter = pair(name)
    params = BeamParams(num_beams=2, num_speculative_tokens=1, draft_beams=drafted)
    assert distance(law_of_layers(target, drafter, params, 1), plain_law(target, 2, 1)) < 1e-12


@pytest.mark.parametrize("width", ["threshold", "mean"])
def test_a_layer_whose_width_was_predicted_has_so_many_independent_beams(width: str) -> None:
    target, drafter = pair("the drafter misses a token")
    options = {"num_beams": 3, "num_speculative_tokens": 1, "draft_beams": 3, "threshold": 0.9}
    params = BeamParams(width=width, **options)
    law = law_of_layers(target, drafter, params, 1)
    kept = {sum(count for _, count in state) for state in law}
    assert len(kept) == 1
    assert min(kept) < 3
    assert distance(law, plain_law(target, 3, 1, widths={1: min(kept)})) < 1e-12


def without_replacement(
    self: Sampled, beams: Sequence[Beam], rows: torch.Tensor, depth: int, chance: Chance
) -> tuple[torch.Tensor, list[int], list]:
    """The published mistake: pairs that differ, judged as if they had been drawn independently."""
    law = joint(beams, rows)
    left, drawn = law.clone(), []
    for slot in range(2):
        drawn.append(chance.drafted(left, depth, slot))
        left[drawn[-1]] = 0.0
    return law, drawn, self._merged(beams, rows, drawn)


def test_drawing_without_replacement_gives_another_law(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sampled, "draft", without_replacement)
    target, drafter = pair("the drafter misses a token")
    params = BeamParams(num_beams=2, num_speculative_tokens=1, draft_beams=2)
    assert distance(law_of_layers(target, drafter, params, 1), plain_law(target, 2, 1)) > 0.01


def test_filling_a_failed_layer_up_to_another_width_gives_another_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """A width that looks at the tests is not the width of independent draws: some beams of failed layers are chosen twice."""
    from draftgraph.engine.beams import choice

    def filled(test, drafted, width, chance, depth):
        kept, passed = keep(test, drafted, width, chance, depth)
        more = [] if sum(passed) == width else [chance.fresh(test.p) for _ in range(2 - width)]
        return [*kept, *more], passed

    keep = choice.keep
    monkeypatch.setattr(choice, "keep", filled)
    monkeypatch.setattr(Sampled, "_width", lambda self, test, drafted, length: 1 if drafted else 2)
    target, drafter = pair("the drafter misses a token")
    params = BeamParams(num_beams=2, num_speculative_tokens=1, draft_beams=1)
    law = law_of_layers(target, drafter, params, 1)
    alone = {state: mass for state, mass in law.items() if sum(count for _, count in state) == 1}
    total = sum(alone.values())
    expected = plain_law(target, 2, 1, widths={1: 1})
    assert distance({state: mass / total for state, mass in alone.items()}, expected) > 0.01


def test_the_predicted_law_of_kept_pairs_is_that_of_the_tests() -> None:
    target, drafter = pair("both miss tokens")
    params = BeamParams(num_beams=3, num_speculative_tokens=1, draft_beams=4, width="mean", least_beams=3)
    seen: dict[int, float] = {}
    predicted: set[tuple[float, ...]] = set()

    def program(draw):
        run = make_run(target, drafter, params, 1, draw)
        decode_layers(run)
        predicted.add(tuple(run.choice.seen.predicted[0]))
        return run.choice.seen.kept[0]

    for mass, kept in enumerate_draws(program):
        seen[kept] = seen.get(kept, 0.0) + mass
    (law,) = predicted
    assert law == pytest.approx([seen.get(kept, 0.0) for kept in range(4)], abs=1e-12)


def test_a_round_of_one_call_may_choose_several_layers() -> None:
    target = table(1, 0)
    params = BeamParams(num_beams=2, num_speculative_tokens=2, draft_beams=2)
    sure = law_of_round(lambda draw: make_run(target, target, params, 2, draw))
    assert all(len(tokens) == 2 for state in sure for tokens, _ in state), "a drafter that is the target never fails"
