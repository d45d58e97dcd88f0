"""Audits of real engines on tiny random pairs: honest ones hold, biased ones do not, blind ones say so."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from typing import Any, ClassVar

import pytest
import torch

from draftgraph import Engine, Outcome, SamplingParams, TokenTree
from draftgraph.errors import OptionError, PromptError
from draftgraph.lab.audit.audit import Audit, audit, best_of_two
from draftgraph.verification.layer import LayerRule
from models import perturbed, tiny_lm

VOCAB, N, PROMPT = 12, 200, [1, 2]
HONEST: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "warped": ({"structure": "tree", "budget": 6}, {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2}),
    "chain": ({"rule": "block", "structure": "chain", "budget": 2}, {}),
    "noise by position": ({"rule": "agree", "budget": 6}, {}),
    "plain": ({"budget": 0}, {}),
    "texts that end": ({"structure": "tree", "budget": 4}, {"stop_token_ids": (0,)}),
}


@pytest.fixture(scope="module")
def pair():
    target = tiny_lm(vocab=VOCAB, layers=1, logit_gain=1.0)
    return target, perturbed(target, 0.4)


@pytest.fixture(scope="module")
def honest(pair):
    """Audits of honest engines, each made once."""
    return cache(lambda case: run(pair, *HONEST[case]))


def run(pair, options: dict[str, Any] | None = None, params: dict[str, Any] | None = None) -> Audit:
    engine = Engine.from_pretrained(pair[0], draft_model=pair[1], **(options or {}))
    chosen = {"max_new_tokens": 2, "temperature": 1.0, "seed": 3, **(params or {})}
    return audit(engine, PROMPT, SamplingParams(**chosen), n=N)


@pytest.mark.parametrize("case", HONEST)
def test_honest_engines_hold_and_the_planted_mistake_is_caught(honest, case):
    found = honest(case)
    assert found.verdict == "held"
    assert found.p_value > found.alpha > found.control.p_value
    assert all(tv is not None and 0.05 < tv < 0.4 for tv in found.detectable)
    assert ("round starts" in {fit.where for fit in found.findings.fits}) <= (case != "noise by position")


def test_the_planted_mistake_is_the_law_of_the_likelier_of_two_draws():
    law = torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    expected = torch.zeros(4, dtype=torch.float64)
    for a, b in product(range(4), repeat=2):
        expected[a if law[a] >= law[b] else b] += law[a] * law[b]
    assert torch.allclose(best_of_two(law), expected)
    assert torch.allclose(best_of_two(3.0 * law), 9.0 * expected)


class ForgetsTheDraft(LayerRule):
    """The bonus token comes from p, not from what the draft left of it."""

    name: ClassVar[str] = "forgets the draft"

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        return Outcome(super().outcome(tree, p).stop, lambda row: p[row])


def test_a_biased_rule_is_refuted(pair):
    worse = perturbed(pair[0], 0.8)
    found = run((pair[0], worse), {"rule": ForgetsTheDraft(), "structure": "chain", "budget": 1})
    assert found.verdict == "refuted"
    assert found.p_value < 1e-3
    assert found.lossless


def test_a_token_outside_top_k_is_refuted_whatever_else_fits(pair):
    class Leaks(LayerRule):
        """A few bonus tokens in a hundred are some that the target cannot emit."""

        name: ClassVar[str] = "leaks"

        def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
            honest = super().outcome(tree, p)
            return Outcome(honest.stop, lambda row: torch.where(p[row] > 0.0, honest.bonus(row), 0.05 / VOCAB))

    found = run(pair, {"rule": Leaks(), "budget": 0}, {"top_k": 4})
    assert found.verdict == "refuted"
    support = found.findings.fits[-1]
    assert support.kind == "support"
    assert support.p_value < found.findings.level


def test_what_has_nothing_random_about_it_is_inconclusive(pair):
    found = run(pair, {"budget": 2}, {"top_k": 1})
    assert found.verdict == "inconclusive"
    assert {fit.kind for fit in found.findings.fits} == {"quantiles", "support"}


def test_a_seed_repeats_an_audit_and_it_is_plain_data(pair, honest):
    first = honest("plain")
    assert first == run(pair, *HONEST["plain"])
    data = json.loads(json.dumps(first.to_dict()))
    assert data["verdict"] == "held"
    assert data["findings"]["fits"][0]["kind"] == "tokens"
    assert data["findings"]["tokens"] == 2 * N


def test_a_pair_several_prompts_and_progress(pair):
    told: list[tuple[int, int]] = []
    params = SamplingParams(max_new_tokens=1, temperature=1.0)
    found = audit(
        (pair[0], pair[1]), [PROMPT, [3]], params, n=100, progress=lambda done, total: told.append((done, total))
    )
    assert found.prompts == 2
    assert found.findings.tokens == 200
    assert told == [(i, 400) for i in range(1, 401)]
    assert {fit.where for fit in found.findings.fits} == {"position 1", "all positions"}
    assert found.detectable[0] is not None


def test_without_a_draft_model(pair):
    engine = Engine.from_pretrained(pair[0], drafter="lookup")
    found = audit(engine, [1, 2, 3, 1, 2], SamplingParams(max_new_tokens=2, temperature=1.0, seed=1), n=N)
    assert found.verdict == "held"
    assert found.drafter == "text already seen"
    assert "drafter" not in {fit.kind for fit in found.findings.fits}


def test_texts_may_end_early(honest):
    """Later positions have fewer tokens then."""
    found = honest("texts that end").findings
    assert N < found.tokens < 2 * N
    assert max(fit.samples for fit in found.fits if fit.where == "position 2") == found.tokens - N


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, ("nothing random", "temperature=1", "budget=0")),
        ({"n": 20}, ("n=20", "write n=", "half the bias")),
        ({"alpha": 2.0}, ("alpha=2.0", "1e-3")),
        ({"prompts": []}, ("a prompt is needed",)),
    ],
)
def test_what_is_not_possible_is_refused(pair, options, words):
    engine = Engine.from_pretrained(pair[0], draft_model=pair[1])
    params = SamplingParams(max_new_tokens=2, temperature=options.pop("temperature", 1.0))
    with pytest.raises(OptionError) as error:
        audit(engine, options.pop("prompts", PROMPT), params, **options)
    for word in words:
        assert word in str(error.value)


def test_the_samples_that_are_asked_for_are_enough(pair):
    engine = Engine.from_pretrained(pair[0], draft_model=pair[1])
    params = SamplingParams(max_new_tokens=1, temperature=1.0, seed=1)
    with pytest.raises(OptionError) as error:
        audit(engine, PROMPT, params, n=1)
    needed = int(str(error.value).split("write n=")[1].split()[0])
    assert audit(engine, PROMPT, params, n=needed).detectable[0] is not None


def test_an_empty_prompt_is_refused(pair):
    engine = Engine.from_pretrained(pair[0], draft_model=pair[1])
    with pytest.raises(PromptError, match="empty"):
        audit(engine, [PROMPT, []], SamplingParams(max_new_tokens=2, temperature=1.0))
