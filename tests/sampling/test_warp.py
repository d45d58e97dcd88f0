"""Probabilities are transformers' own, prefix by prefix, at every node at once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st

import draftgraph as dg
from draftgraph.errors import LogitsError, OptionError
from draftgraph.sampling.warp import Prefixes, Warper
from draftgraph.types import FIXED, ROOT
from ids import told
from models import perturbed, plain, tiny_lm

VOCAB, EOS = 24, 3
PROMPT = [1, 2, 3, 4, 5, 2]
TREE = dg.TokenTree([7, 8, 2, 7, 9, 1], [ROOT, ROOT, 0, 0, 2, 4], [FIXED] * 6)
CPU = torch.device("cpu")


def transformed(params: dict[str, Any], processors: list[Any], row: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The law of one row as `generate` makes it: processors one after the other on this row's own prefix."""
    chain = [*processors]
    if (temperature := params.get("temperature", 1.0)) != 1.0:
        chain.append(hf.TemperatureLogitsWarper(temperature))
    for name, kind in (("top_k", hf.TopKLogitsWarper), ("top_p", hf.TopPLogitsWarper), ("min_p", hf.MinPLogitsWarper)):
        if name in params:
            chain.append(kind(params[name]))
    return hf.LogitsProcessorList(chain)(torch.tensor([ids]), row[None]).softmax(-1)[0]


class AddPosition(hf.LogitsProcessor):
    """A processor of the user's own: it depends on the whole prefix."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + torch.sin(input_ids.sum(dim=1, keepdim=True) + torch.arange(scores.shape[1]))


class Returns:
    def __init__(self, spoil: Callable[[torch.Tensor], Any]) -> None:
        self.spoil = spoil

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        return self.spoil(scores)


def fail(scores: torch.Tensor) -> None:
    raise KeyError("lost")


CASES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "temperature": ({"temperature": 0.6}, []),
    "top_k": ({"temperature": 1.0, "top_k": 4}, []),
    "top_p": ({"temperature": 0.8, "top_p": 0.7}, []),
    "min_p": ({"temperature": 1.3, "min_p": 0.2}, []),
    "all filters": ({"temperature": 0.9, "top_k": 12, "top_p": 0.8, "min_p": 0.05}, []),
    "repetition": ({"temperature": 0.7, "repetition_penalty": 1.7}, [hf.RepetitionPenaltyLogitsProcessor(1.7)]),
    "bias": (
        {"temperature": 1.0, "logit_bias": {3: 2.0, 7: -100.0}},
        [hf.SequenceBiasLogitsProcessor({(3,): 2.0, (7,): -100.0})],
    ),
    "min_new_tokens": (
        {"temperature": 1.0, "min_new_tokens": 2},
        [hf.MinNewTokensLengthLogitsProcessor(len(PROMPT), 2, [EOS], CPU)],
    ),
    "custom": ({"temperature": 0.7, "top_k": 9, "logits_processors": (AddPosition(),)}, [AddPosition()]),
    "no repeated bigram": (
        {"temperature": 1.0, "logits_processors": (hf.NoRepeatNGramLogitsProcessor(2),)},
        [hf.NoRepeatNGramLogitsProcessor(2)],
    ),
}


def rows(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(seed)
    return 3.0 * torch.randn(len(TREE) + 1, VOCAB, dtype=dtype)


def prefixes() -> Prefixes:
    return Prefixes.of_tree(PROMPT, TREE)


def warper(**params: Any) -> Warper:
    return Warper(dg.SamplingParams(**params), len(PROMPT), [EOS], CPU)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_transformers_own_processors(case: str, dtype: torch.dtype) -> None:
    params, processors = CASES[case]
    logits = rows(dtype=dtype)
    laws = warper(**params).probabilities(logits, prefixes())
    assert laws.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = logits.to(laws.dtype)
    for row in range(len(TREE) + 1):
        expected = transformed(params, processors, wide[row], [*PROMPT, *TREE.path_tokens(row - 1)])
        torch.testing.assert_close(laws[row], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_greedy_is_the_argmax_after_the_processors(case: str) -> None:
    params, processors = CASES[case]
    logits = rows()
    laws = warper(**params | {"temperature": 0.0}).probabilities(logits, prefixes())
    for row in range(len(TREE) + 1):
        expected = transformed({}, processors, logits[row], [*PROMPT, *TREE.path_tokens(row - 1)]).argmax()
        assert laws[row].nonzero().tolist() == [[int(expected)]]
        assert float(laws[row].sum()) == 1.0


def test_presence_and_frequency_count_output_tokens_only() -> None:
    logits = torch.zeros(len(TREE) + 1, VOCAB)
    scores = warper(presence_penalty=0.5, frequency_penalty=0.25).scores(logits, prefixes())
    for row in range(len(TREE) + 1):
        path = TREE.path_tokens(row - 1)
        for token in range(VOCAB):
            expected = -0.5 * (token in path) - 0.25 * path.count(token)
            assert scores[row, token] == pytest.approx(expected)


@given(
    st.floats(0.05, 5.0), st.integers(0, 30), st.floats(0.01, 1.0), st.floats(0.0, 1.0), st.floats(0.2, 3.0),
    st.integers(0, 1000),
)  # fmt: skip
def test_laws_are_distributions(t: float, k: int, top_p: float, min_p: float, penalty: float, seed: int) -> None:
    logits = rows(seed)
    shaped = warper(temperature=t, top_k=k, top_p=top_p, min_p=min_p, repetition_penalty=penalty)
    laws = shaped.probabilities(logits, prefixes())
    assert bool((laws >= 0).all())
    torch.testing.assert_close(laws.sum(dim=1), torch.ones(len(laws)))
    best = shaped.scores(logits, prefixes()).argmax(dim=1, keepdim=True)
    assert bool((laws.gather(1, best) > 0).all())


@pytest.mark.parametrize("temperature", [1e-4, 1e-12, 1e-38])
def test_very_low_temperatures_are_greedy(temperature: float) -> None:
    laws = warper(temperature=temperature).probabilities(rows(), prefixes())
    torch.testing.assert_close(laws, warper(temperature=0.0).probabilities(rows(), prefixes()))


@pytest.mark.parametrize("temperature", [1e-3, 1e-12, 1e-38, 1e-40, 1e-46, 5e-324])
@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_tokens_that_tie_share_the_mass_at_every_temperature_above_0(
    temperature: float, filters: dict[str, Any]
) -> None:
    """The law is the limit for small temperatures: no division by a float32 of 0, and no greedy choice among equals."""
    logits = torch.full((len(TREE) + 1, VOCAB), -7.0)
    logits[:, [2, 9]] = 3.0
    laws = warper(temperature=temperature, **filters).probabilities(logits, prefixes())
    expected = torch.zeros(VOCAB)
    expected[[2, 9]] = 0.5
    torch.testing.assert_close(laws, expected.expand_as(laws))


@pytest.mark.parametrize("temperature", [1e20, 1e39, 1e300])
def test_endless_heat_spreads_the_mass_evenly_over_what_is_possible(temperature: float) -> None:
    made = warper(temperature=temperature, logit_bias={4: float("-inf")})
    laws = made.probabilities(rows(), prefixes())
    expected = torch.full((VOCAB,), 1.0 / (VOCAB - 1))
    expected[4] = 0.0
    torch.testing.assert_close(laws, expected.expand_as(laws))


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
@pytest.mark.parametrize("penalty", [1e30, -1e30])
def test_the_largest_penalties_leave_a_distribution(name: str, penalty: float) -> None:
    for temperature in (0.0, 1.0):
        laws = warper(temperature=temperature, **{name: penalty}).probabilities(rows(), prefixes())
        torch.testing.assert_close(laws.sum(dim=1), torch.ones(len(laws)))


SPOILT = {
    "raises": (fail, "Returns raised KeyError"),
    "nan": (lambda scores: scores * torch.nan, "not a distribution"),
    "one nan": (lambda scores: scores.index_fill(1, torch.tensor([5]), torch.nan), "not a distribution"),
    "inf": (lambda scores: scores.index_fill(1, torch.tensor([5]), torch.inf), "not a distribution"),
    "nothing possible": (lambda scores: torch.full_like(scores, -torch.inf), "not a distribution"),
    "wrong shape": (lambda scores: scores[:, :-1], "must return scores of shape"),
    "nothing": (lambda scores: None, "must return scores of shape"),
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_processors(case: str, temperature: float) -> None:
    spoil, message = SPOILT[case]
    with pytest.raises(LogitsError, match=message):
        warper(temperature=temperature, logits_processors=(Returns(spoil),)).probabilities(rows(), prefixes())


def test_processors_are_not_asked_about_what_cannot_happen() -> None:
    """A grammar may know no state below a token that it has ruled out, and must not be asked there."""
    asked: list[list[int]] = []

    def grammar(batch: int, ids: torch.Tensor) -> list[int]:
        asked.append(ids.tolist())
        return [(int(ids[-1]) + 1) % VOCAB]

    model = tiny_lm(vocab=VOCAB)
    processors = (hf.PrefixConstrainedLogitsProcessor(grammar, 1),)
    expected = plain(model, [4], 20, logits_processor=list(processors))
    asked.clear()
    for temperature in (0.0, 1.0):
        params = dg.SamplingParams(max_new_tokens=20, temperature=temperature, logits_processors=processors)
        for options in ({"drafter": "text", "prediction": [5, 6, 7, 9, 9, 10, 11]}, {"draft_model": perturbed(model)}):
            assert dg.Engine.from_pretrained(model, budget=8, **options).generate([4], params).token_ids == expected
    assert all(b == (a + 1) % VOCAB for ids in asked for a, b in pairwise(ids))


BAD: list[tuple[str, Any]] = [
    ("temperature", -0.1), ("temperature", float("nan")), ("temperature", float("inf")), ("top_p", 0.0), ("top_p", 1.1),
    ("top_p", -1.0), ("top_k", -1), ("min_p", 1.5), ("min_p", -0.1), ("repetition_penalty", 0.0), ("max_new_tokens", 0),
    ("presence_penalty", float("nan")), ("min_new_tokens", -1), ("stop", ("",)), ("stop", ""), ("sample", -1),
    ("logits_processors", (3,)),
    ("logits_processors", AddPosition()),
    ("temperature", "hot"),
    ("temperature", None),
    ("seed", "abc"),
    ("seed", 1.5),
    ("max_new_tokens", 2.5),
    ("top_k", 1.5),
    ("stop", None),
    ("stop", 3),
    ("stop_token_ids", 5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD, ids=[told(f"{n}={v}") for n, v in BAD])
def test_impossible_parameters(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=rf"{name}=.*is not possible; write "):
        dg.SamplingParams(**{name: value})


def test_a_greedy_round_names_its_choices_and_spells_them_out_on_demand() -> None:
    """For rounds of any size in turn, since they share a buffer; of equal logits the first is the choice."""
    warper = Warper(dg.SamplingParams(), 1, [], CPU)
    generator = torch.Generator().manual_seed(3)
    for rows in (3, 5, 1, 5, 2):
        scores = torch.randint(0, 4, (rows, VOCAB), generator=generator).float()
        laws = warper.shape_round(scores)
        assert laws.choices == [row.index(max(row)) for row in scores.tolist()]
        torch.testing.assert_close(laws.p, warper.shape(scores), rtol=0, atol=0)
        assert laws.p.argmax(dim=1).tolist() == laws.choices
        assert float(laws.p.sum()) == rows
    sampled = Warper(dg.SamplingParams(temperature=0.7), 1, [], CPU).shape_round(scores)
    assert sampled.choices is None
    torch.testing.assert_close(sampled.p, torch.softmax(scores / 0.7, dim=1))
