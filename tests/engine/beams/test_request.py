"""Requests for beams: what they refuse, what they give back, and what they leave behind."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from converted import converted
from draftgraph.data import bundled_pair
from draftgraph.draft.model import ModelDrafter
from draftgraph.engine.beams.chance import RoundChance
from draftgraph.engine.beams.choice import Sampled
from draftgraph.errors import DraftgraphError, LogitsError, ModelError, OptionError, PromptError
from draftgraph.lab.plain_beams import plain_beam_sample
from draftgraph.lab.prove.law import enumerate_draws
from draftgraph.sampling.rng import Noise, Role
from draftgraph.sampling.warp import Prefixes, Warper
from laws import p_value
from models import byte_tokenizer, perturbed, tiny_lm
from own_drafters import Beside
from recurrent import recurrent

PROMPT = [5, 9, 2]


@cache
def pair() -> tuple[PreTrainedModel, PreTrainedModel]:
    target = tiny_lm(logit_gain=1.5)
    return target, perturbed(target, 0.1)


@cache
def engine() -> dg.Engine:
    return dg.Engine.from_pretrained(pair()[0], draft_model=pair()[1])


def used(*engines: dg.Engine) -> set[int]:
    return {cell for each in engines for lm in (each.target, each.drafter.model) for cell in lm.cache._used}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "stop strings": ({"stop": "x"}, "stop=.*stop_token_ids"),
    "stop_when": ({"stop_when": lambda *row: True}, "stop_when=.*engine.generate"),
    "logprobs": ({"logprobs": True}, "logprobs=True"),
    "grammar": ({"grammar": "json"}, "grammar="),
    "nothing to sample": ({"temperature": 0}, "beam_search"),
    "too many returned": ({"num_return_sequences": 5}, "num_return_sequences=5 .* num_beams=4"),
    "few beams at the end": ({"num_return_sequences": 2, "width": "mean"}, "least_beams=2"),
    "no beams": ({"num_beams": 0}, "num_beams=0"),
    "half a beam": ({"num_beams": 1.5}, "num_beams=1.5"),
    "a million beams": ({"num_beams": 10**6}, "1024"),
    "a width": ({"width": "wide"}, "'full', 'threshold' or 'mean'"),
    "a threshold": ({"threshold": 0.0}, "threshold=0.0"),
    "a stopping": ({"early_stopping": "soon"}, "'never'"),
    "a penalty": ({"length_penalty": float("nan")}, "length_penalty=nan"),
    "layers": ({"num_speculative_tokens": -1}, "0 drafts nothing"),
    "a number for a name": ({7: 3}, "key 7"),
    "an unknown name": ({"num_beam": 3}, "num_beams"),
    "a token id": ({"stop_token_ids": [64]}, "stop_token_ids"),
}
SEARCH = {
    "top_k": ({"top_k": 5}, "top_k=5 is for sampling"),
    "temperature": ({"temperature": 0.5}, "temperature=0.5 is for sampling"),
    "width": ({"width": "mean"}, "width='mean' is for sampling"),
    "vocabulary": ({"num_beams": 40}, "80 tokens .* 64"),
}


@pytest.mark.parametrize(("options", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_honoured_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        engine().beam_sample(PROMPT, options)


@pytest.mark.parametrize(("options", "says"), SEARCH.values(), ids=SEARCH)
def test_a_search_refuses_what_only_draws_follow(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        engine().beam_search(PROMPT, options)
    engine().beam_search(PROMPT, temperature=0, max_new_tokens=2)


def test_models_and_drafters_that_cannot_are_refused_by_name() -> None:
    one_path = dg.Engine.from_pretrained(recurrent("olmo_hybrid"))
    with pytest.raises(ModelError, match="read one path"):
        one_path.beam_sample(PROMPT)
    target = pair()[0]
    for options, says in (({"drafter": Beside()}, "Beside"), ({"prediction": [1], "drafter": "text"}, "prediction")):
        with pytest.raises(OptionError, match=f"{says}.* draft_model"):
            dg.Engine.from_pretrained(target, **options).beam_sample(PROMPT)
    with pytest.raises(OptionError, match="drafts no beams"):
        dg.Engine.from_pretrained(target, draft_model=recurrent("olmo_hybrid")).beam_sample(PROMPT)
    with pytest.raises(OptionError, match="params="):
        engine().beam_sample(PROMPT, dg.SamplingParams())
    with pytest.raises(PromptError):
        engine().beam_sample([])
    with pytest.raises(OptionError, match=r"num_beams.*engine\.beam_search"):
        engine().generate(PROMPT, num_beams=4)


def test_stop_strings_of_the_model_are_refused_as_its_own() -> None:
    model = tiny_lm(vocab=256)
    model.generation_config.stop_strings = ["x"]
    with pytest.raises(OptionError, match="own generation_config says stop"):
        dg.Engine.from_pretrained(model, tokenizer=byte_tokenizer()).beam_sample(PROMPT)


def test_rows_that_agree_bit_for_bit_are_refused() -> None:
    pytest.importorskip("openvino")
    model = converted()
    exact = dg.Engine(model.bitwise(), ModelDrafter(model, 64), dg.Config(), None, frozenset())
    with pytest.raises(ModelError, match="bitwise=False"):
        exact.beam_search(PROMPT)


def test_a_seed_gives_the_same_beams_and_samples_differ() -> None:
    options = {"max_new_tokens": 12, "num_return_sequences": 4, "seed": 7}
    first, again, other = (engine().beam_sample(PROMPT, options, sample=sample) for sample in (0, 0, 1))
    assert first == again
    assert first.sequences.tolist() != other.sequences.tolist()
    free = engine().beam_sample(PROMPT, max_new_tokens=6)
    assert engine().beam_sample(PROMPT, max_new_tokens=6, seed=free.seed) == free


def test_no_random_number_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[tuple[int, ...]] = Counter()

    def uniform(self: Noise, *address: int) -> float:
        seen[address] += 1
        return read(self, *address)

    read = Noise.uniform
    monkeypatch.setattr(Noise, "uniform", uniform)
    stats = engine().beam_sample(PROMPT, num_beams=5, max_new_tokens=30, num_speculative_tokens=3, seed=1).stats
    assert len(seen) > 5 * stats.num_layers
    assert set(seen.values()) == {1}
    assert {address[1] for address in seen} == {Role.DRAFT, Role.ACCEPT, Role.BONUS}


def test_tests_pass_as_often_as_they_should_and_independently() -> None:
    """Of two layers with two slots each: the first slots share a uniform, and are independent all the same."""
    chances, counts = (0.3, 0.8, 0.6, 0.45), Counter()
    for seed in range(4000):
        chance = RoundChance(Noise(seed), 7)
        counts[tuple(chance.passes(p, 1 + i // 2, i % 2) for i, p in enumerate(chances))] += 1
    law = {
        outcome: math.prod(p if passed else 1.0 - p for p, passed in zip(chances, outcome, strict=True))
        for outcome in product((False, True), repeat=4)
    }
    assert p_value(list(counts.elements()), law) > 1e-3


def test_results_are_laid_out_as_those_of_transformers() -> None:
    target = tiny_lm(vocab=256, logit_gain=1.0, eos=3)
    target.generation_config.pad_token_id = 1
    asked = dg.Engine.from_pretrained(target, draft_model=perturbed(target), tokenizer=byte_tokenizer())
    results = asked.beam_sample(
        ["ab", "cd"], num_beams=6, num_return_sequences=6, max_new_tokens=30, stop_token_ids=range(20), seed=1
    )
    for prompt, result in zip(("ab", "cd"), results, strict=True):
        ids = asked.tokenizer(prompt)["input_ids"]
        scores = result.sequences_scores.tolist()
        assert scores == sorted(scores, reverse=True)
        assert result.sequences.shape == (6, len(ids) + max(len(beam.token_ids) for beam in result.beams))
        for row, beam in zip(result.sequences.tolist(), result.beams, strict=True):
            end = len(ids) + len(beam.token_ids)
            assert row == [*ids, *beam.token_ids, *[1] * (len(row) - end)]
            assert (beam.token_ids[-1] < 20) == (beam.finish_reason == "stop")
            assert not any(token < 20 for token in beam.token_ids[:-1])
            assert beam.text == asked.tokenizer.decode(beam.token_ids, skip_special_tokens=True)
        assert (result.text, result.token_ids) == (result.beams[0].text, result.beams[0].token_ids)
    assert "stop" in {beam.finish_reason for result in results for beam in result.beams}


@torch.inference_mode()
def test_scores_are_the_log_probabilities_of_the_warped_law() -> None:
    options = {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.2, "max_new_tokens": 9, "length_penalty": 0.5}
    result = engine().beam_sample(PROMPT, num_return_sequences=4, seed=3, **options)
    for beam in result.beams:
        total = sum(
            float(law_of(pair()[0], options, beam.token_ids[:i])[t].log()) for i, t in enumerate(beam.token_ids)
        )
        assert beam.score == pytest.approx(total / 9**0.5, abs=1e-4)


def law_of(model: PreTrainedModel, options: dict[str, Any], output: Any, prompt: list[int] = PROMPT) -> torch.Tensor:
    """The warped law f64[V] behind an output."""
    text = [*prompt, *output]
    shaping = {name: options[name] for name in ("temperature", "top_k", "repetition_penalty")}
    warper = Warper(dg.SamplingParams(**shaping), len(prompt), [], model.device)
    return warper.probabilities(model(torch.tensor([text])).logits[0, -1:], Prefixes(text, lambda row: ()))[0].double()


@pytest.mark.parametrize("early", [True, False])
def test_the_best_beam_has_the_law_of_the_plain_sampler(early: bool) -> None:
    vocab, eos, prompt = 5, 4, [1, 2]
    target = tiny_lm(vocab=vocab, layers=1, logit_gain=1.0)
    options = {"temperature": 0.9, "top_k": 4, "repetition_penalty": 1.2}
    params = dg.BeamParams(
        **options, num_beams=2, max_new_tokens=2, early_stopping=early, stop_token_ids=[eos], num_speculative_tokens=2
    )
    with torch.inference_mode():
        known = cache(lambda output: law_of(target, options, output, prompt))
        law: Counter[tuple[int, ...]] = Counter()
        for mass, beams in enumerate_draws(lambda draw: plain_beam_sample(known, draw, params, {eos})):
            law[beams[0][1]] += mass
    asked = dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.3))
    seen = [tuple(asked.beam_sample(prompt, params, seed=seed).token_ids) for seed in range(300)]
    assert p_value(seen, law) > 1e-3


def test_kept_pairs_are_as_many_as_predicted() -> None:
    """Of the first layer of many requests, whose joint laws are always the same."""
    params = dg.BeamParams(num_beams=4, max_new_tokens=2, width="mean", least_beams=4, num_speculative_tokens=1)
    results = [engine().beam_sample(PROMPT, params, seed=seed) for seed in range(300)]
    laws = torch.tensor([result.stats.predicted_by_layer[0] for result in results])
    assert float((laws - laws[0]).abs().max()) < 1e-5
    law = laws[0].tolist()
    assert 0.02 < law[4] < 0.98
    assert p_value([result.stats.kept_by_layer[0] for result in results], dict(enumerate(law))) > 1e-3


@pytest.mark.parametrize("width", ["threshold", "mean"])
def test_predicted_widths_take_fewer_calls(width: str) -> None:
    options = {"num_beams": 6, "max_new_tokens": 40, "num_speculative_tokens": 3, "draft_beams": 6, "seed": 1}
    full, fewer = (engine().beam_sample(PROMPT, options, width=each).stats for each in ("full", width))
    assert fewer.num_target_calls < full.num_target_calls
    assert fewer.num_layers == full.num_layers == 40
    assert (full.lossless, fewer.lossless) == (True, False)


def test_the_bundled_pair_takes_less_than_a_call_per_layer() -> None:
    target, drafter = bundled_pair()
    asked = dg.Engine.from_pretrained(target, draft_model=drafter, backend="torch")
    for decode in (asked.beam_sample, asked.beam_search):
        stats = decode("def read_file(path):\n", num_beams=4, max_new_tokens=32, seed=0).stats
        assert stats.target_calls_per_layer < 0.9
        assert stats.num_layers == 32


def test_without_a_drafter_every_layer_is_a_call_of_the_same_beams() -> None:
    alone = dg.Engine.from_pretrained(pair()[0])
    result = alone.beam_search(PROMPT, max_new_tokens=10, num_return_sequences=4)
    assert result.stats.num_target_calls == result.stats.num_layers == 10
    drafted = engine().beam_search(PROMPT, max_new_tokens=10, num_return_sequences=4)
    assert drafted.sequences.tolist() == result.sequences.tolist()
    assert drafted.stats.num_target_calls < 10
    plain = dg.Engine.from_pretrained(pair()[0], draft_model=pair()[1], budget=0)
    assert plain.beam_search(PROMPT, max_new_tokens=10).stats.num_drafter_passes == 0


def test_long_prompts_and_windows_change_no_beam() -> None:
    target = tiny_lm("mistral", window=700, num_key_value_heads=2, sliding_window=40, logit_gain=1.5)
    drafter = tiny_lm(window=640, logit_gain=1.5)
    prompt = [(7 * i * i + 3 * i) % 64 for i in range(630)]
    asked, alone = dg.Engine.from_pretrained(target, draft_model=drafter), dg.Engine.from_pretrained(target)
    results = [each.beam_search(prompt, max_new_tokens=100, num_return_sequences=4) for each in (asked, alone)]
    assert results[0].sequences.tolist() == results[1].sequences.tolist()
    assert results[0].sequences.shape == (4, 700)
    assert results[0].stats.num_drafter_passes > 3
    assert used(asked) == set()


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenError])
def test_an_error_leaves_no_cells_behind(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(*given: Any) -> Any:
        calls.append(0)
        if len(calls) == 5:
            raise error
        return pairs(*given)

    pairs = Sampled.pairs
    monkeypatch.setattr(Sampled, "pairs", failing)
    with pytest.raises(error):
        engine().beam_sample(PROMPT, max_new_tokens=30)
    assert used(engine()) == set()
    monkeypatch.undo()
    assert len(engine().beam_sample(PROMPT, max_new_tokens=3).token_ids) == 3


def test_processors_see_every_beam_and_their_errors_are_told() -> None:
    def no_even(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert ids[:, : len(PROMPT)].tolist() == [PROMPT] * len(ids)
        return scores.masked_fill(torch.arange(scores.shape[1]) % 2 == 0, -torch.inf)

    for decode in (engine().beam_sample, engine().beam_search):
        result = decode(PROMPT, logits_processors=[no_even], max_new_tokens=8, num_return_sequences=4)
        assert all(token % 2 for beam in result.beams for token in beam.token_ids)

    def late(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 9:
            raise ValueError("late")
        return scores

    with pytest.raises(LogitsError, match="late"):
        engine().beam_sample(PROMPT, logits_processors=[late], max_new_tokens=30)
    assert issubclass(LogitsError, DraftgraphError)
    assert used(engine()) == set()


@pytest.mark.parametrize("made", [math.nan, -math.inf])
def test_processors_that_leave_no_token_possible_end_a_search_with_an_error(made: float) -> None:
    def nothing(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, made)

    with pytest.raises(LogitsError, match="logits processors left a row that is not a distribution"):
        engine().beam_search(PROMPT, logits_processors=[nothing], max_new_tokens=3)
    assert used(engine()) == set()


def test_what_a_tokenizer_returns_may_be_given_by_name() -> None:
    named = engine().beam_search(input_ids=[PROMPT], attention_mask=[[1] * len(PROMPT)], max_new_tokens=3)
    alone = engine().beam_search(PROMPT, max_new_tokens=3)
    assert isinstance(named, list)
    assert [each.token_ids for each in named] == [alone.token_ids]
    with pytest.raises(PromptError):
        engine().beam_sample(max_new_tokens=3)
