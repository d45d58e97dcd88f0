"""Tokens against their own laws: exact cells, plain recomputed laws, and no alarm about honest draws."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from draftgraph.backends.torch_model import TorchModel
from draftgraph.lab.audit.evidence import CELLS, QUANTILES, SHARED_BY, Evidence, Sample
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.warp import Prefixes, Warper
from models import perturbed, tiny_lm

PROMPT = [1, 2]
VOCAB = 12
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def target():
    return tiny_lm(vocab=VOCAB, layers=1, logit_gain=1.0)


def collected(target, samples, drafter=None, length=2, **options) -> Evidence:
    params = SamplingParams(**{"temperature": 1.0, "max_new_tokens": length, **options})
    evidence = Evidence(length, drafter is not None, True, seed=7)
    backends = TorchModel(target), None if drafter is None else TorchModel(drafter)
    evidence.collect(*backends, Warper(params, len(PROMPT), [], CPU), PROMPT, samples)
    return evidence


def plain_law(target, prefix, **options) -> torch.Tensor:
    params = SamplingParams(**{"temperature": 1.0, **options})
    with torch.inference_mode():
        row = target(torch.tensor([[*PROMPT, *prefix]])).logits[:, -1]
    return Warper(params, len(PROMPT), [], CPU).probabilities(row, Prefixes(PROMPT, lambda _: prefix))[0].double()


def draws(target, count: int, length: int, **options) -> list[Sample]:
    """Plain sampling, token by token, without an engine."""
    torch.manual_seed(2)
    texts: list[tuple[int, ...]] = [()] * count
    for _ in range(length):
        laws = {prefix: plain_law(target, prefix, **options) for prefix in set(texts)}
        texts = [(*text, int(torch.multinomial(laws[text], 1))) for text in texts]
    return [Sample(text, frozenset({0, 1})) for text in texts]


class Grid:
    """Uniform numbers that are spread evenly."""

    def random(self, count: int):
        return (torch.arange(count, dtype=torch.float64).numpy() + 0.5) / count


def test_the_probability_integral_transform_is_uniform():
    """Given its law, a token's cell has probability 1/10 for every cell: summed over tokens, integrated over the uniform."""
    law = torch.tensor([[0.37, 0.0, 0.05, 0.41, 0.17]], dtype=torch.float64)
    evidence = Evidence(1, False, True, seed=0)
    evidence._uniform = Grid()
    mass = torch.zeros(QUANTILES, dtype=torch.float64)
    for token, chance in enumerate(law[0].tolist()):
        cells, shares = evidence._quantiles(law, torch.zeros(20000, dtype=torch.int64), torch.full((20000,), token))
        mass += chance * torch.bincount(cells, minlength=QUANTILES) / 20000
    assert torch.allclose(mass, shares[0], atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 5, "repetition_penalty": 1.4}])
def test_expected_counts_come_from_plain_forwards(target, options):
    """By rank and by q / p, as computed token by token; texts of two lengths, one of which ended early."""
    drafter = perturbed(target, 0.3)
    texts = [*product(range(4), repeat=2), (5,)]
    evidence = collected(target, [Sample(text) for text in texts], drafter, **options)
    for position in range(2):
        ranks, likings = (torch.zeros(CELLS[kind], dtype=torch.float64) for kind in ("ranks", "drafter"))
        for text in texts:
            if position < len(text):
                p, q = (plain_law(model, text[:position], **options) for model in (target, drafter))
                sorted_p = p.sort(descending=True).values.tolist()
                for rank, mass in enumerate(sorted_p):
                    ranks[[0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4][rank]] += mass
                for mass, draft in zip(p.tolist(), q.tolist(), strict=True):
                    if mass:
                        likings[sum(draft / mass >= edge for edge in (0.5, 1.0, 2.0))] += mass
        assert torch.allclose(evidence.at[position]["ranks"].expected, ranks, atol=1e-4)
        assert torch.allclose(evidence.at[position]["drafter"].expected, likings, atol=1e-4)
    assert evidence.tokens == 33
    assert evidence.at[1]["ranks"].samples == 16


def test_a_token_is_counted_in_the_cell_of_its_rank(target):
    order = plain_law(target, ()).argsort(descending=True).tolist()
    evidence = collected(target, [Sample((order[0],)), Sample((order[0],)), Sample((order[3],))], length=1)
    assert evidence.at[0]["ranks"].observed.tolist() == [2, 0, 1, 0, 0, 0, 0]


def test_tokens_that_the_target_cannot_emit_are_counted(target):
    order = plain_law(target, ()).argsort(descending=True).tolist()
    evidence = collected(target, [Sample((token,)) for token in order], length=1, top_k=4)
    assert evidence.impossible == VOCAB - 4


def test_only_tokens_that_begin_a_later_round_are_round_starts(target):
    samples = [Sample((1, 2), frozenset({0, 1})), Sample((1, 3), frozenset({0})), Sample((2, 3), frozenset({0}))]
    evidence = collected(target, samples)
    assert evidence.starts["ranks"].samples == 1
    assert not Evidence(2, False, False, 0).starts


def test_honest_draws_raise_no_alarm(target):
    """Two thousand draws; the second position has groups by prefix, and all tests have something to test."""
    drafter = perturbed(target, 0.3)
    fits = collected(target, draws(target, 2000, 2), drafter).fits()
    assert [fit.kind for fit in fits].count("tokens") == 2
    assert all(fit.freedom > 0 for fit in fits)
    assert fits[4].where == "position 2"
    assert SHARED_BY < fits[4].samples <= 2000
    assert min(fit.p_value for fit in fits) > 1e-3


def test_draws_at_another_temperature_are_seen_by_every_kind(target):
    fits = collected(target, draws(target, 2000, 2, temperature=1.4), perturbed(target, 0.3)).fits()
    worst = {kind: min(fit.p_value for fit in fits if fit.kind == kind) for kind in ("tokens", "quantiles", "ranks")}
    assert max(worst.values()) < 1e-6
