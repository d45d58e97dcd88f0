"""Every field of a GenerationConfig is known: it shapes the law, is translated, is refused, or says nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from draftgraph.errors import OptionError
from draftgraph.sampling import generation_config as gc
from ids import told

TABLES = (gc.OTHER_TEXTS, gc.OTHER_MEANS, gc.NOT_IN_GENERATE, gc.NOT_WHILE_SAMPLING)
START = gc.Start(torch.tensor([[7, 3, 9]]), 3, 20, torch.tensor([5]), 64)


def test_every_field_of_transformers_is_in_one_table() -> None:
    """A new version brings new fields: enter each where it belongs."""
    refused = [name for table in TABLES for name, _, _ in table]
    counts = Counter([*refused, *gc.SHAPERS, *gc.SAMPLING, *gc.LENGTHS, *gc.TEXT_ENDS, *gc.HARMLESS])
    assert [name for name, count in counts.items() if count > 1] == []
    theirs = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert theirs - counts.keys() == set()


def test_fields_that_are_not_set_are_not_there() -> None:
    config = GenerationConfig(temperature=0.5, stop_strings="a")
    fields = gc.fields_of(config)
    fields.pop("transformers_version", None)
    assert fields == {"temperature": 0.5, "stop_strings": "a"}
    assert gc.fields_of(None) == {}
    assert gc.fields_of({"temperature": 0.5, "top_k": None, "_from_model_config": True}) == {"temperature": 0.5}


def test_what_cannot_be_honoured_is_told_with_what_to_write() -> None:
    fields = {"num_beams": 4, "use_cache": True, "penalty_alpha": 0.0, "prompt_lookup_num_tokens": 3}
    told = dict(gc.unsupported(fields, TABLES, gc.WORDS))
    assert told.keys() == {"num_beams=4", "prompt_lookup_num_tokens=3"}
    assert "Engine.from_pretrained(prompt_lookup_num_tokens=...)" in told["prompt_lookup_num_tokens=3"]
    assert not any("{" in instead for _, instead in gc.unsupported(dict.fromkeys(gc.KNOWN, "odd"), TABLES, gc.WORDS))


def test_unknown_fields_are_refused_with_the_nearest_one() -> None:
    with pytest.raises(OptionError, match=r"unknown field of a GenerationConfig 'temperatur'.*'temperature'"):
        gc.refuse_unknown({"temperatur": 1})


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 0}, {"repetition_penalty": "much"}, {"no_repeat_ngram_size": -1}, {"no_repeat_ngram_size": 2.5},
        {"bad_words_ids": [[64]]}, {"bad_words_ids": []}, {"sequence_bias": [[[64], 1.0]]}, {"sequence_bias": {"a": 1}},
        {"suppress_tokens": "none"}, {"forced_bos_token_id": 64}, {"forced_eos_token_id": [5, 64]}, {"min_length": -1},
        {"exponential_decay_length_penalty": 3}, {"encoder_repetition_penalty": -1.0},
    ],
    ids=told,
)  # fmt: skip
def test_values_of_which_transformers_makes_no_processor_are_refused_before_a_forward(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(fields))}=.* of the generation config is not possible"):
        gc.processors(fields, START)


def test_neutral_values_make_no_processor() -> None:
    neutral = {
        "repetition_penalty": 1.0, "encoder_repetition_penalty": 1, "no_repeat_ngram_size": 0, "min_length": 0,
        "remove_invalid_values": False, "renormalize_logits": False,
    }  # fmt: skip
    assert not gc.shapes(neutral)
    assert gc.processors(neutral, START) == ([], [])
    assert gc.shapes(neutral | {"suppress_tokens": [3]})


def test_without_ends_of_texts_nothing_can_delay_them() -> None:
    fields = {"min_length": 9, "min_new_tokens": 9, "exponential_decay_length_penalty": (1, 1.5)}
    never_ending = gc.Start(START.prompt, 3, 20, None, 64)
    assert gc.processors(fields, never_ending) == ([], [])
    assert len(gc.processors(fields, START)[0]) == 3
