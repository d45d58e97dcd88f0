"""Positions for long texts: what is read before the switch, over it and behind it is what `generate` reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel

import draftgraph as dg
from draftgraph.backends import rope, torch_model
from draftgraph.backends.base import Feed
from draftgraph.backends.rope import Switch, find_switch, switch_lengths
from draftgraph.errors import ModelError
from draftgraph.types import ROOT
from models import perturbed, plain, tiny_lm

SWITCH = 32
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 8.0,
    "original_max_position_embeddings": SWITCH,
}  # fmt: skip
BASE = {"tie_word_embeddings": False, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "phi3": BASE | {"pad_token_id": 0, "sliding_window": None, "original_max_position_embeddings": SWITCH},
    "phimoe": BASE | {"num_local_experts": 2, "original_max_position_embeddings": SWITCH, "sliding_window": None},
    "llama": BASE,
}
"""The first two read the text anew at the switch; the last one goes on with what it has cached."""
PROMPT = [(7 * i * i + 3 * i) % 61 for i in range(60)]


def model(family: str) -> PreTrainedModel:
    scales = {"short_mscale": 1.0, "long_mscale": 1.3} if family == "phimoe" else {}
    return tiny_lm(family, window=256, **FAMILIES[family], rope_parameters=LONG | scales)


def engine(lm: PreTrainedModel, structure: str = "graph", most_rows: int = 7) -> dg.Engine:
    made = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=12, structure=structure)
    made.target.most_rows = most_rows  # long prompts are read in pieces
    return made


@pytest.mark.parametrize(
    ("family", "length", "structure"),
    [
        (family, length, ("graph", "chain")[(i + j) % 2])
        for i, family in enumerate(FAMILIES)
        for j, length in enumerate((20, 31, 32, 33, 34, 50))
    ],
)
def test_a_text_is_that_of_transformers_on_both_sides_of_the_switch(family: str, length: int, structure: str) -> None:
    lm = model(family)
    result = engine(lm, structure).generate(PROMPT[:length], max_new_tokens=30)
    assert result.token_ids == plain(lm, PROMPT[:length], 30)
    assert result.stats.num_accepted_tokens > 0


@pytest.mark.parametrize("most_rows", [7, 1024])
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_of_a_batch_cross_the_switch_one_by_one(family: str, most_rows: int) -> None:
    lm = model(family)
    prompts = [PROMPT[:length] for length in (5, 20, 31, 50)]
    results = engine(lm, most_rows=most_rows).generate(prompts, max_new_tokens=30)
    assert [result.token_ids for result in results] == [plain(lm, prompt, 30) for prompt in prompts]


LEFT_OUT = {
    "the reading anew": ("phi3", 20, lambda made: setattr(made.target, "_switch", Switch(SWITCH, rereads=False))),
    "the end of drafts": ("phi3", 20, lambda made: setattr(type(made.target), "switch", None)),
    "the row in front": ("phi3", 50, lambda made: setattr(torch_model, "needs_lead", lambda feeds, switch: False)),
    "what is cached": ("llama", 20, lambda made: setattr(made.target, "_switch", Switch(SWITCH, rereads=True))),
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_without_any_part_of_it_the_text_is_another(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, length, leave_out = LEFT_OUT[what]
    monkeypatch.setattr(torch_model.TorchModel, "switch", torch_model.TorchModel.switch)  # put back at the end
    monkeypatch.setattr(torch_model, "needs_lead", torch_model.needs_lead)
    lm = model(family)
    made = engine(lm)
    leave_out(made)
    assert made.generate(PROMPT[:length], max_new_tokens=30).token_ids != plain(lm, PROMPT[:length], 30)


@torch.inference_mode()
def test_texts_of_both_sides_may_be_read_in_one_pass() -> None:
    over = torch_model.TorchModel(model("phi3"))
    short, long = over.open(64), over.open(64)
    over.expect(short, 10)
    over.expect(long, 50)
    feeds = [Feed(long, PROMPT[:20]), Feed(short, PROMPT[:10], [3], [ROOT])]
    first, rows = (scored.logits for scored in over.forward(feeds))
    assert (len(first), len(rows)) == (1, 2)
    rows = torch.cat([rows, over.forward([Feed(long, PROMPT[20:50])])[0].logits])
    plain_rows = [over.plain(torch.tensor([ids]), 1)[0] for ids in (PROMPT[:10], [*PROMPT[:10], 3], PROMPT[:50])]
    torch.testing.assert_close(rows, torch.cat(plain_rows), atol=2e-4, rtol=1e-3)


@torch.inference_mode()
def test_taps_and_logits_are_those_of_the_rows_behind_the_one_in_front() -> None:
    over = torch_model.TorchModel(model("phi3"))
    texts = [over.open(64), over.open(64)]
    for text in texts:
        over.expect(text, 50)
    scored = over.forward([Feed(texts[0], PROMPT[:5]), Feed(texts[1], PROMPT[:3], [4], [ROOT])], ["hidden:1"])
    assert [len(each.taps["hidden:1"]) for each in scored] == [5, 4]
    torch.testing.assert_close(scored[0].taps["hidden:1"][:3], scored[1].taps["hidden:1"][:3], atol=2e-4, rtol=1e-3)
    assert len(over.cache._used) == 9


def test_the_lengths_that_a_configuration_names() -> None:
    config = PretrainedConfig()
    config.rope_parameters = None
    assert switch_lengths(config) == set()
    config.rope_parameters = {"rope_type": "yarn", "original_max_position_embeddings": 8}
    assert switch_lengths(config) == set()
    layers = [LONG, LONG | {"original_max_position_embeddings": 64}, {"rope_type": "default"}]
    config.rope_parameters = dict(zip("abc", layers, strict=True))
    assert switch_lengths(config) == {32, 64}


def test_a_switch_beyond_the_context_window_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_switch(model("llama"), 32) is None
    assert find_switch(model("llama"), 33) == Switch(32, rereads=False)
    assert find_switch(model("phi3"), 256) == Switch(32, rereads=True)
    monkeypatch.setattr(rope, "switch_lengths", lambda config: {32, 64})
    with pytest.raises(ModelError, match=r"at several lengths of the text \(\[32, 64\]\)"):
        find_switch(model("llama"), 256)


def test_frequencies_that_grow_with_the_text_end_with_the_context_window() -> None:
    """Also after the model itself has read a longer text, which leaves its frequencies changed."""
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    lm = tiny_lm("llama", window=48, **BASE, rope_parameters=dynamic)
    made = engine(lm)
    expected = plain(lm, PROMPT[:20], 28)
    with torch.inference_mode():
        lm(torch.tensor([PROMPT + PROMPT]))
    result = made.generate(PROMPT[:20], max_new_tokens=100)
    assert (result.token_ids, result.finish_reason) == (expected, "length")
