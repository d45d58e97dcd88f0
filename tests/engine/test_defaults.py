"""A GenerationConfig means what it means in transformers; the model's own is applied, or what is not applied is said."""

from __future__ import annotations

import copy
import logging
from functools import cache
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

import draftgraph as dg
from draftgraph.errors import OptionError, PromptError
from ids import told
from models import byte_tokenizer, perturbed, plain, tiny_lm

PROMPT = [7, 3, 9, 7, 3]
TOKENS = 24
model = cache(tiny_lm)
drafter = cache(lambda: perturbed(model()))

LAWS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.4},
    {"encoder_repetition_penalty": 1.8},
    {"no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 1},
    {"suppress_tokens": [10, 28], "begin_suppress_tokens": [32, 24]},
    {"bad_words_ids": [[10], [11, 20], [28, 58]]},
    {"sequence_bias": [[[11, 20], -9.0], [[28, 58], -9.0], [[50], 6.0]]},
    {"sequence_bias": [[[50], 6.0]], "repetition_penalty": 1.7},
    {"eos_token_id": [61, 54]},
    {"eos_token_id": 20, "min_new_tokens": 14},
    {"eos_token_id": 20, "min_length": 19, "forced_eos_token_id": 20},
    {"eos_token_id": 2, "exponential_decay_length_penalty": (6, 1.6)},
    {"renormalize_logits": True, "remove_invalid_values": True},
]
"""What `generate` applies at temperature 0."""


def with_own(**fields: Any) -> PreTrainedModel:
    """The model with a generation config of its own; the weights are shared."""
    other = copy.copy(model())
    other.generation_config = GenerationConfig(**fields)
    return other


def engine(target: PreTrainedModel | None = None, **options: Any) -> dg.Engine:
    return dg.Engine.from_pretrained(target or model(), **({"draft_model": drafter(), "budget": 8} | options))


@pytest.mark.parametrize("fields", LAWS, ids=told)
def test_the_models_own_config_shapes_greedy_text_as_in_transformers(fields: dict[str, Any]) -> None:
    expected = plain(model(), PROMPT, TOKENS, **fields)
    for options in ({}, {"draft_model": None}, {"budget": 0}):
        own = engine(with_own(**fields), **options)
        assert own.generate(PROMPT, max_new_tokens=TOKENS).token_ids == expected
        assert own.generate(PROMPT, dg.SamplingParams(max_new_tokens=TOKENS)).token_ids == expected


@pytest.mark.parametrize(
    "fields", [*LAWS, {"max_length": 11}, {"num_beams": 1, "return_dict_in_generate": True}], ids=told
)
def test_a_given_config_gives_what_transformers_gives(fields: dict[str, Any]) -> None:
    length = {} if "max_length" in fields else {"max_new_tokens": TOKENS}
    asked = {"do_sample": False} | length | fields
    tokens = 11 - len(PROMPT) if "max_length" in fields else TOKENS
    kept = {name: value for name, value in fields.items() if name not in ("max_length", "return_dict_in_generate")}
    expected = plain(model(), PROMPT, tokens, **kept)
    assert engine().generate(PROMPT, GenerationConfig(**asked)).token_ids == expected
    assert engine().generate(PROMPT, asked).token_ids == expected
    if "eos_token_id" not in fields:
        assert engine().generate(PROMPT, params=GenerationConfig(**asked), max_new_tokens=3).token_ids == expected[:3]


def test_sampling_fields_are_those_of_our_params() -> None:
    config = GenerationConfig(do_sample=True, temperature=0.7, top_k=20, top_p=0.9, min_p=0.01, max_new_tokens=TOKENS)
    same = dg.SamplingParams(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01, max_new_tokens=TOKENS, seed=5)
    assert engine().generate(PROMPT, config, seed=5).token_ids == engine().generate(PROMPT, same).token_ids


def test_open_fields_are_the_models_own_then_those_of_transformers() -> None:
    asked = GenerationConfig(max_new_tokens=TOKENS)
    own = engine(with_own(do_sample=True, temperature=0.7, top_p=0.8))
    same = dg.SamplingParams(temperature=0.7, top_p=0.8, top_k=50, max_new_tokens=TOKENS, seed=5)
    assert own.generate(PROMPT, asked, seed=5).token_ids == engine().generate(PROMPT, same).token_ids
    assert engine().generate(PROMPT, asked).token_ids == plain(model(), PROMPT, TOKENS)
    assert (
        len(engine().generate(PROMPT, GenerationConfig(do_sample=False)).token_ids) == 123
    )  # the window; 128 by default
    assert (
        own.generate(PROMPT, own.generation_config, seed=5, max_new_tokens=4).token_ids
        == engine().generate(PROMPT, same.with_options(max_new_tokens=4)).token_ids
    )


def test_without_do_sample_it_is_greedy() -> None:
    expected = plain(model(), PROMPT, TOKENS)
    own = engine(with_own(do_sample=True, temperature=1.0))
    for config in (
        GenerationConfig(do_sample=False, max_new_tokens=TOKENS),
        {"do_sample": False, "max_new_tokens": TOKENS},
    ):
        assert own.generate(PROMPT, config).token_ids == expected


def test_options_by_name_come_before_both_configs() -> None:
    own = engine(with_own(repetition_penalty=1.8, eos_token_id=20, min_new_tokens=9))
    for config in (None, GenerationConfig(repetition_penalty=3.0, min_new_tokens=4)):
        result = own.generate(
            PROMPT, config, max_new_tokens=TOKENS, repetition_penalty=1.0, min_new_tokens=0, ignore_eos=True
        )
        assert result.token_ids == plain(model(), PROMPT, TOKENS)
        result = own.generate(
            PROMPT, config, max_new_tokens=TOKENS, repetition_penalty=1.4, min_new_tokens=0, ignore_eos=True
        )
        assert result.token_ids == plain(model(), PROMPT, TOKENS, repetition_penalty=1.4)
    explicit = dg.SamplingParams(max_new_tokens=TOKENS, repetition_penalty=1.0, min_new_tokens=0, ignore_eos=True)
    assert own.generate(PROMPT, explicit).token_ids == plain(model(), PROMPT, TOKENS)


def test_processors_of_the_user_come_after_those_of_the_config() -> None:
    def favour(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_add(1, torch.tensor([50]), torch.full((len(scores), 1), 9.0))

    fields = {"suppress_tokens": [50, 10], "renormalize_logits": True}
    result = engine(with_own(**fields)).generate(PROMPT, max_new_tokens=TOKENS, logits_processors=[favour])
    assert 50 not in result.token_ids
    assert result.token_ids == plain(model(), PROMPT, TOKENS, suppress_tokens=[50, 10])


def test_stop_strings_of_a_config_end_the_text() -> None:
    own_tokenizer = byte_tokenizer(vocab=64)
    said = plain(model(), PROMPT, TOKENS)
    stop = own_tokenizer.decode(said[6:8])
    for target, config in (
        (model(), {"do_sample": False, "stop_strings": [stop]}),
        (with_own(stop_strings=stop), None),
    ):
        result = engine(target, tokenizer=own_tokenizer).generate(PROMPT, config)
        assert result.finish_reason == "stop"
        assert len(result.token_ids) == 8
    other = engine(with_own(stop_strings=stop), tokenizer=own_tokenizer).generate(
        PROMPT, stop=["~~"], max_new_tokens=TOKENS
    )
    assert other.token_ids == said


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_beams": 4}, "num_beams=4.*write num_beams=1"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6.*contrastive"),
    ({"guidance_scale": 2.0}, "guidance_scale=2.0"),
    ({"prompt_lookup_num_tokens": 3}, r"write Engine.from_pretrained\(prompt_lookup_num_tokens"),
    ({"assistant_ensemble_weight": 0.5}, "assistant_ensemble_weight=0.5.*changes the law"),
    ({"max_time": 1.0}, "max_time=1.0.*stop_when"),
    ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences=2.*batch"),
    ({"token_healing": True}, "token_healing=True"),
    ({"output_scores": True}, "output_scores=True.*logprobs"),
    ({"do_sample": True, "typical_p": 0.9}, "typical_p=0.9.*custom_generate"),
    ({"do_sample": True, "eta_cutoff": 0.1}, "eta_cutoff=0.1"),
    ({"do_sample": "yes"}, "do_sample='yes' is not possible"),
    ({"do_sample": True, "temperature": "hot"}, "temperature='hot'"),
    ({"do_sample": True, "top_p": 1.5}, "top_p=1.5"),
    ({"max_length": 5}, "max_length=5 leaves no room after a prompt of 5 tokens; write max_new_tokens"),
    ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ({"min_new_tokens": 9, "max_new_tokens": 4}, "min_new_tokens=9 is more than max_new_tokens=4"),
    ({"eos_token_id": 64}, "eos_token_id=64 is not possible; write token ids from 0 to 63"),
    ({"eos_token_id": [2, -1]}, "eos_token_id="),
    ({"eos_token_id": "2"}, "eos_token_id="),
    ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
    ({"bad_words_ids": [[99]]}, "bad_words_ids=.*not possible"),
    ({"suppress": [3]}, "unknown field of a GenerationConfig 'suppress'.*'suppress_tokens'"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[str(fields) for fields, _ in REFUSED])
def test_fields_that_cannot_be_honoured_are_refused_by_name_before_a_forward(
    fields: dict[str, Any], message: str
) -> None:
    made = engine()
    made.target.forward = pytest.fail  # type: ignore[method-assign]
    config = GenerationConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    for given in (config, {"do_sample": False} | fields):
        with pytest.raises(OptionError, match=message):
            made.generate(PROMPT, given)


def test_warpers_that_do_nothing_in_greedy_text_are_let_pass() -> None:
    config = GenerationConfig(do_sample=False, typical_p=0.9, top_h=0.3, max_new_tokens=TOKENS)
    assert engine().generate(PROMPT, config).token_ids == plain(model(), PROMPT, TOKENS)


# --- what is said -----------------------------------------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "draftgraph"]


@pytest.mark.parametrize(
    ("own", "asked", "expected"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {}, "do_sample=True, temperature=0.6, top_p=0.9"),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.8}, "says top_p=0.9, which"),
        ({"do_sample": True, "typical_p": 0.9}, {"temperature": 0.8}, "typical_p=0.9"),
        ({"max_length": 40}, {}, "max_length=40"),
        ({"num_beams": 4, "early_stopping": True}, {"max_new_tokens": 4}, "num_beams=4"),
        ({"max_time": 3.0}, {}, "max_time=3.0"),
        ({}, {"params": GenerationConfig(temperature=0.7)}, "temperature, which do nothing without do_sample=True"),
    ],
    ids=told,
)  # fmt: skip
def test_what_is_not_followed_is_said_once(
    own: dict[str, Any], asked: dict[str, Any], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = engine(with_own(**own), budget=0)
    for _ in range(2):
        made.generate(
            PROMPT, **({"max_new_tokens": 4} | asked if "max_length" not in own and "params" not in asked else asked)
        )
    assert len(said(caplog)) == 1
    assert expected in said(caplog)[0]
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("own", "asked"),
    [
        ({}, {}),
        ({"use_cache": False, "pad_token_id": 0, "cache_implementation": "hybrid"}, {}),
        ({"temperature": 0.6, "top_p": 0.9}, {}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 9}, {"temperature": 0.0}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 9}, {"temperature": 0.7, "top_k": 5}),
        ({"do_sample": True, "temperature": 0.6, "max_length": 40}, {"params": GenerationConfig(max_new_tokens=4)}),
        ({"repetition_penalty": 1.2, "suppress_tokens": [3]}, {}),
        ({}, {"params": GenerationConfig(do_sample=False, temperature=0.7)}),
    ],
    ids=told,
)
def test_what_is_followed_needs_no_word(
    own: dict[str, Any], asked: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine(with_own(**own), budget=0).generate(PROMPT, **({"max_new_tokens": 4} | asked))
    assert said(caplog) == []


# --- whose config -----------------------------------------------------------------------------------------------------


def test_an_empty_config_leaves_the_models_own_aside() -> None:
    own = engine(with_own(repetition_penalty=1.8), generation_config=GenerationConfig())
    assert own.generate(PROMPT, max_new_tokens=TOKENS).token_ids == plain(model(), PROMPT, TOKENS)


def test_another_config_takes_the_place_of_the_models_own() -> None:
    given = GenerationConfig(repetition_penalty=1.4, eos_token_id=54)
    made = engine(generation_config=given)
    expected = plain(model(), PROMPT, TOKENS, repetition_penalty=1.4, eos_token_id=54)
    given.repetition_penalty = 9.0  # it was copied
    assert made.generate(PROMPT, max_new_tokens=TOKENS).token_ids == expected
    with pytest.raises(OptionError, match=r"generation_config=.*write a transformers GenerationConfig"):
        engine(generation_config={"temperature": 1})


def test_the_users_config_stays_as_it_was() -> None:
    target = with_own(repetition_penalty=1.8, do_sample=True)
    before = target.generation_config.to_dict()
    engine(target).generate(PROMPT, GenerationConfig(max_new_tokens=4), seed=1)
    assert target.generation_config.to_dict() == before


def test_custom_generate_applies_nothing_twice() -> None:
    target = with_own(repetition_penalty=1.4, suppress_tokens=[10])
    expected = plain(target, PROMPT, TOKENS)
    assert expected == plain(model(), PROMPT, TOKENS, repetition_penalty=1.4, suppress_tokens=[10])
    assert plain(target, PROMPT, TOKENS, custom_generate=dg.custom_generate(drafter(), budget=8)) == expected


def test_a_minimum_of_the_models_own_is_no_reason_to_refuse_a_short_answer() -> None:
    own = engine(with_own(eos_token_id=20, min_new_tokens=14))
    for config in (None, GenerationConfig(do_sample=False)):
        assert len(own.generate(PROMPT, config, max_new_tokens=3).token_ids) == 3


def test_a_prompt_is_refused_before_its_config() -> None:
    with pytest.raises(PromptError):
        engine().generate([], GenerationConfig(num_beams=1))


@pytest.mark.parametrize("field", ["suppress_tokens", "begin_suppress_tokens"])
@pytest.mark.parametrize("ids", [[10**6], [3, -1]], ids=["beyond", "negative"])
def test_tokens_that_cannot_be_suppressed_are_refused(field: str, ids: list[int]) -> None:
    with pytest.raises(OptionError, match=rf"{field}=.*the vocabulary has 64 tokens"):
        engine().generate(PROMPT, {field: ids, "do_sample": False}, max_new_tokens=3)


def test_stop_strings_of_the_model_that_are_none_are_told_as_its_own() -> None:
    spoiled = engine(with_own(stop_strings=[5]))
    with pytest.raises(OptionError, match=r"the model's own generation_config says stop_strings=\[5\]"):
        spoiled.generate(PROMPT, max_new_tokens=3)
    assert spoiled.generate(PROMPT, max_new_tokens=3, stop=()).finish_reason == "length"


def test_fields_of_the_model_that_nobody_knows_are_said(caplog: pytest.LogCaptureFixture) -> None:
    engine(with_own(chat_format="raw")).generate(PROMPT, max_new_tokens=3)
    assert "chat_format='raw'" in caplog.text
