"""One beam is token verification, draw for draw: the same seed gives the same text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise, Role
from draftgraph.sampling.warp import Prefixes, Warper
from draftgraph.types import TokenTree
from draftgraph.verification.base import sample
from draftgraph.verification.registry import get_rule
from models import perturbed, tiny_lm

PROMPT, LENGTH = [5, 9, 2], 24


@torch.inference_mode()
def token_verified(
    target: PreTrainedModel, drafter: PreTrainedModel, params: SamplingParams, depth: int
) -> tuple[list[int], int]:
    """Text and rounds of chains that the token rule verifies, each row from a forward of its own."""
    tokens, rounds, noise = list(PROMPT), 0, Noise(params.seed)
    warper = Warper(params, len(PROMPT), [], torch.device("cpu"))

    def law(model: PreTrainedModel, chain: Sequence[int]) -> torch.Tensor:
        logits = model(torch.tensor([[*tokens, *chain]])).logits[0, -1:]
        return warper.probabilities(logits, Prefixes([*tokens, *chain], lambda row: ()))

    while (left := len(PROMPT) + LENGTH - len(tokens)) > 0:
        chain, laws, length = [], [], len(tokens)
        for i in range(min(depth, left - 1)):
            laws.append(law(drafter, chain))
            chain.append(sample(laws[-1][0], noise.uniform(length, Role.DRAFT, i + 1, 0)))
        p = torch.cat([law(target, chain[:i]) for i in range(len(chain) + 1)])
        tree = TokenTree(chain, range(-1, len(chain) - 1), range(len(chain)), torch.cat(laws) if laws else None)
        verdict = get_rule("token").verdict(tree, p, noise, length)
        tokens += [*chain[: len(verdict.path)], verdict.token]
        rounds += 1
    return tokens[len(PROMPT) :], rounds


@pytest.mark.parametrize("seed", range(6))
def test_one_beam_draws_what_token_verification_draws(seed: int) -> None:
    target = tiny_lm(logit_gain=1.5)
    drafter = perturbed(target, 0.15)
    params = dg.BeamParams(
        num_beams=1, max_new_tokens=LENGTH, temperature=0.8, top_k=30, repetition_penalty=1.2, seed=seed
    )
    depth = 1 + seed % 4
    result = dg.Engine.from_pretrained(target, draft_model=drafter).beam_sample(
        PROMPT, params, num_speculative_tokens=depth
    )
    text, rounds = token_verified(target, drafter, params, depth)
    assert result.token_ids == text
    assert result.stats.num_target_calls == rounds
    assert rounds < LENGTH
