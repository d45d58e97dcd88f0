"""Real rounds whose randomness is enumerated: the drafter's draws, where a rule stops, and the bonus token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import pytest
import torch

from draftgraph.draft import model
from draftgraph.draft.terms import Draw as Draws
from draftgraph.lab.prove.law import Draw
from draftgraph.sampling.rng import Noise
from draftgraph.types import TokenTree, Verdict
from draftgraph.verification.base import Rule


def by_row(draw: Draw) -> Draws:
    return lambda laws, depth, addresses: [draw(law) for law in laws]


class EnumeratedNoise(Noise):
    """The randomness of one request: the enumerator's."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(0)
        self.draw = draw


def enumerated_rule(rule: Rule) -> Rule:
    """The rule, with verdicts that are enumerated."""

    class Enumerated(type(rule)):  # type: ignore[misc]
        def verdict(self, tree: TokenTree, p: torch.Tensor, noise: Any, length: int) -> Verdict:
            outcome = self.outcome(tree, p)
            end = noise.draw(torch.tensor(outcome.stop, dtype=torch.float64))
            return Verdict(tuple(tree.path(end - 1)), noise.draw(outcome.bonus(end)))

    return Enumerated()


def enumerate_drafts(patch: pytest.MonkeyPatch) -> None:
    """Let draft models take their draws from the noise of a request, which is the enumerator's."""
    patch.setattr(model, "_drawer", lambda request: by_row(request.noise.draw))


class Target(Protocol):
    """target  the law f64[V] of the token after these; texts have at most `depth` + 1 tokens."""

    vocab: int
    depth: int

    def target(self, prefix: Sequence[int]) -> torch.Tensor: ...


def continued(masses: defaultdict[tuple[int, ...], float], target: Target) -> torch.Tensor:
    """The law of the text f64[V ** (depth + 1)] if the target goes on alone behind these beginnings."""
    for length in range(target.depth + 1):
        for prefix in [prefix for prefix in masses if len(prefix) == length]:
            mass = masses.pop(prefix)
            for token, p in enumerate(target.target(prefix).tolist()):
                masses[*prefix, token] += mass * p
    law = torch.zeros((target.vocab,) * (target.depth + 1), dtype=torch.float64)
    for text, mass in masses.items():
        law[text] = mass
    return law.flatten()
