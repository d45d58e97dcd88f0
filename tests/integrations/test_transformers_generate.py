"""`model.generate(custom_generate=...)` gives what plain `model.generate` gives, and refuses what it cannot give."""

from __future__ import annotations

import copy
import gc
import inspect
import math
import runpy
import sys
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    SynthIDTextWatermarkingConfig,
    T5Config,
)

import draftgraph as dg
from draftgraph.backends.cache_argument import cache_name
from draftgraph.errors import ModelError, OptionError
from draftgraph.sampling.rng import Noise
from draftgraph.verification.agree import choose
from models import byte_tokenizer, perturbed, tiny_lm

CACHE = cache_name()
PROMPT = torch.tensor([[7, 3, 9, 7, 3]])
ENDS = {"eos_token_id": None, "pad_token_id": 0}
PADDED = torch.tensor([[0, 0, 7, 3, 9], [4, 8, 1, 4, 8], [0, 0, 0, 0, 5]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
BATCH = {"input_ids": PADDED, "attention_mask": MASK}


@pytest.fixture(scope="module")
def pair() -> tuple[PreTrainedModel, PreTrainedModel]:
    model = tiny_lm("llama")
    return model, perturbed(model)


def greedy(model: PreTrainedModel, inputs: Any = None, **options: Any) -> Any:
    inputs = {"input_ids": PROMPT} if inputs is None else inputs
    return model.generate(**inputs, **({"do_sample": False, "max_new_tokens": 24} | ENDS | options))


class Recorder:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def put(self, value: torch.Tensor) -> None:
        self.got.append(value.tolist())

    def end(self) -> None:
        self.got.append("end")


class Until(StoppingCriteria):
    """Ends the text at a length, and keeps what it was shown."""

    def __init__(self, length: int) -> None:
        self.length, self.seen, self.scores = length, [], []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.seen.append(input_ids.tolist())
        self.scores.append(scores)
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


class Rotate(LogitsProcessor):
    """A law that depends on the last token and on the length, made by the user."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = [row.roll(int(ids[-1]) + input_ids.shape[1]) for ids, row in zip(input_ids, scores, strict=True)]
        return torch.stack(rows)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.4},
    {"encoder_repetition_penalty": 1.8},
    {"no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 1},
    {"suppress_tokens": [10, 28], "begin_suppress_tokens": [32, 24]},
    {"bad_words_ids": [[10], [11, 20], [28, 58]]},
    {"sequence_bias": [[[11, 20], -9.0], [[28, 58], -9.0], [[50], 6.0]]},
    {"eos_token_id": [61, 54]},
    {"eos_token_id": 20, "min_new_tokens": 14},
    {"eos_token_id": 20, "min_length": 19, "forced_eos_token_id": 20},
    {"eos_token_id": 2, "exponential_decay_length_penalty": (6, 1.6)},
    {"prefix_allowed_tokens_fn": lambda row, ids: list(range(int(ids[-1]) % 5, 64, 3))},
    {"renormalize_logits": True, "remove_invalid_values": True},
    {"logits_processor": LogitsProcessorList([Rotate()])},
    {"max_new_tokens": None, "max_length": 11},
    {"max_new_tokens": 1},
    {"stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(19)])},
    {"max_time": 1e-9},
    {"generation_config": GenerationConfig(max_new_tokens=9, repetition_penalty=1.2, do_sample=False, pad_token_id=0)},
]


def name(options: dict[str, Any]) -> str:
    return "+".join(options) or "plain"


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_greedy_equals_plain_generate(family: str, options: dict[str, Any]) -> None:
    model = tiny_lm(family)
    inputs = {"input_ids": PROMPT}
    settings = (
        options if "generation_config" in options else {"do_sample": False, "max_new_tokens": 24} | ENDS | options
    )
    speculative = dg.custom_generate(draft_model=perturbed(model), budget=8)
    plain = model.generate(**inputs, **settings)
    assert model.generate(**inputs, **settings, custom_generate=speculative).tolist() == plain.tolist()


@pytest.mark.parametrize(
    "drafting", [{}, {"budget": 0}, {"structure": "chain"}, {"structure": "gsd"}, {"rule": "agree"}], ids=name
)
@pytest.mark.parametrize("family", ["qwen3", "opt", "gemma2", "gpt_neox"])
def test_greedy_equals_plain_generate_however_it_drafts(family: str, drafting: dict[str, Any]) -> None:
    model = tiny_lm(family)
    plain = greedy(model, repetition_penalty=1.2)
    for drafter in (perturbed(model), None)[: 1 if drafting.get("structure") == "gsd" else 2]:
        speculative = dg.custom_generate(drafter, **drafting)
        assert torch.equal(greedy(model, repetition_penalty=1.2, custom_generate=speculative), plain)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eos_token_id": [56, 58, 60]},
        {"repetition_penalty": 1.5},
        {"encoder_repetition_penalty": 1.5},
        {"encoder_no_repeat_ngram_size": 1},
        {"eos_token_id": [56, 58, 60], "min_length": 12},
        {"prefix_allowed_tokens_fn": lambda row, ids: list(range(row, 64, 3))},
        {"prefix_allowed_tokens_fn": lambda row, ids: list(range(int(ids.shape[0]) % 4, 64, 4))},
    ],
    ids=name,
)
def test_a_padded_batch_equals_plain_generate(pair: Any, options: dict[str, Any]) -> None:
    model, drafter = pair
    plain = greedy(model, BATCH, **options)
    assert torch.equal(greedy(model, BATCH, **options, custom_generate=dg.custom_generate(drafter, budget=8)), plain)


def test_a_prefix_function_is_told_the_same_row_for_every_returned_sequence(pair: Any) -> None:
    """Rows of the expanded batch up to transformers 5.23, prompts from 5.24 on. One allowed token makes draws certain."""
    model, drafter = pair
    options = {
        "do_sample": True,
        "num_return_sequences": 2,
        "prefix_allowed_tokens_fn": lambda row, ids: [8 * row + int(ids.shape[0]) % 8],
    }
    plain = greedy(model, BATCH, **options)
    assert torch.equal(greedy(model, BATCH, **options, custom_generate=dg.custom_generate(drafter, budget=8)), plain)


def test_a_mask_inferred_from_the_pad_token_is_honoured(pair: Any) -> None:
    model, drafter = pair
    plain = greedy(model, {"input_ids": PADDED})
    assert torch.equal(greedy(model, {"input_ids": PADDED}, custom_generate=dg.custom_generate(drafter)), plain)


def test_stop_strings_end_the_text_where_plain_generate_ends_it(pair: Any) -> None:
    model, drafter = pair
    tokenizer = byte_tokenizer(vocab=64)
    full = greedy(model)[0, PROMPT.shape[1] :]
    stop = tokenizer.decode(full[6:8])
    options = {"stop_strings": [stop, "unheard of"], "tokenizer": tokenizer}
    plain = greedy(model, **options)
    assert plain.shape[1] == PROMPT.shape[1] + 8
    assert torch.equal(greedy(model, **options, custom_generate=dg.custom_generate(drafter, budget=8)), plain)


def test_a_criterion_ends_the_text_within_an_accepted_run(pair: Any) -> None:
    model, _ = pair
    mine, theirs = Until(PROMPT.shape[1] + 5), Until(PROMPT.shape[1] + 5)
    plain = greedy(model, stopping_criteria=[theirs])
    speculative = dg.custom_generate(copy.deepcopy(model), budget=8, structure="chain")
    output = greedy(model, stopping_criteria=[mine], custom_generate=speculative, return_dict_in_generate=True)
    assert torch.equal(output.sequences, plain)
    assert mine.seen == theirs.seen
    assert mine.scores == [None] * 5
    assert output.stats[0].num_rounds == 1
    assert output.stats[0].num_accepted_tokens == 5


def test_criteria_are_shown_real_scores_when_these_are_kept(pair: Any) -> None:
    model, drafter = pair
    mine, theirs = Until(12), Until(12)
    kept = {"return_dict_in_generate": True, "output_scores": True}
    greedy(model, stopping_criteria=[theirs], **kept)
    greedy(model, stopping_criteria=[mine], **kept, custom_generate=dg.custom_generate(drafter, budget=8))
    for ours, plain in zip(mine.scores, theirs.scores, strict=True):
        assert len(ours) == len(plain)
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_a_failing_criterion_leaves_the_engine_usable(pair: Any) -> None:
    model, drafter = pair

    def fail(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        raise RuntimeError("enough")

    speculative = dg.custom_generate(drafter, budget=8)
    with pytest.raises(RuntimeError, match="enough"):
        greedy(model, stopping_criteria=[fail], custom_generate=speculative)
    assert torch.equal(greedy(model, custom_generate=speculative), greedy(model))


def test_the_streamer_gets_the_prompt_then_every_token_once(pair: Any) -> None:
    model, drafter = pair
    mine, theirs = Recorder(), Recorder()
    greedy(model, streamer=theirs, eos_token_id=[54])
    greedy(model, streamer=mine, eos_token_id=[54], custom_generate=dg.custom_generate(drafter, budget=8))
    assert mine.got == theirs.got
    assert mine.got[0] == PROMPT.tolist()
    assert mine.got[-1] == "end"


def test_the_returned_dict_holds_the_rows_that_chose_the_tokens(pair: Any) -> None:
    model, drafter = pair
    kept = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "repetition_penalty": 1.3}
    plain = greedy(model, **kept)
    mine = greedy(model, **kept, custom_generate=dg.custom_generate(drafter, budget=8))
    assert torch.equal(mine.sequences, plain.sequences)
    torch.testing.assert_close(mine.scores, plain.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mine.logits, plain.logits, rtol=1e-4, atol=1e-4)
    assert not any(row.is_inference() for row in (mine.sequences, *mine.scores, *mine.logits))
    assert CACHE not in mine
    assert mine.stats[0].num_output_tokens == len(mine.scores)
    of_plain = model.compute_transition_scores(plain.sequences, plain.scores, normalize_logits=True)
    of_mine = model.compute_transition_scores(mine.sequences, mine.scores, normalize_logits=True)
    torch.testing.assert_close(of_mine, of_plain, rtol=1e-3, atol=1e-3)


def test_the_returned_dict_of_a_batch(pair: Any) -> None:
    model, drafter = pair
    kept = {"return_dict_in_generate": True, "output_scores": True, "eos_token_id": [56, 58, 60]}
    plain, mine = (
        greedy(model, BATCH, **kept),
        greedy(model, BATCH, **kept, custom_generate=dg.custom_generate(drafter)),
    )
    assert torch.equal(mine.sequences, plain.sequences)
    assert len(mine.scores) == len(plain.scores)
    assert [stats.num_prompt_tokens for stats in mine.stats] == [3, 5, 1]
    for row, stats in enumerate(mine.stats):
        for step, (ours, theirs) in enumerate(zip(mine.scores, plain.scores, strict=True)):
            if step < stats.num_output_tokens:
                torch.testing.assert_close(ours[row], theirs[row], rtol=1e-4, atol=1e-4)
            else:  # only padding can follow
                assert ours[row].softmax(0)[0] == 1.0
    assert "scores" not in greedy(
        model, BATCH, return_dict_in_generate=True, custom_generate=dg.custom_generate(drafter)
    )


SHAPED = {
    "do_sample": True,
    "temperature": 0.9,
    "top_k": 5,
    "top_p": 0.97,
    "repetition_penalty": 1.2,
    "pad_token_id": 0,
}


def processors_of(model: PreTrainedModel, ids: torch.Tensor, **options: Any) -> LogitsProcessorList:
    """The very list that `generate` prepares."""
    found: list[LogitsProcessorList] = []

    def look(model: Any, input_ids: torch.Tensor, logits_processor: LogitsProcessorList, **_: Any) -> torch.Tensor:
        found.append(logits_processor)
        return input_ids

    model.generate(ids, **options, custom_generate=look)
    return found[0]


@torch.no_grad()
def test_every_sampled_token_comes_from_the_law_of_plain_generate(pair: Any) -> None:
    model, drafter = pair
    kept = SHAPED | {"max_new_tokens": 40, "return_dict_in_generate": True, "output_scores": True, "typical_p": 0.95}
    torch.manual_seed(5)
    mine = model.generate(PROMPT, **kept, custom_generate=dg.custom_generate(drafter, budget=8))
    processors = processors_of(model, PROMPT, **kept)
    assert mine.stats[0].num_accepted_tokens > 0
    logits = model(mine.sequences).logits
    for step, scores in enumerate(mine.scores):
        end = PROMPT.shape[1] + step
        law = processors(mine.sequences[:, :end], logits[:, end - 1].float()).softmax(1)
        torch.testing.assert_close(scores.softmax(1), law, rtol=1e-3, atol=1e-5)
        assert law[0, mine.sequences[0, end]] > 0


@torch.no_grad()
def test_sampled_pairs_have_the_exact_law() -> None:
    model = tiny_lm("llama", vocab=6, layers=1, gain=1.0, logit_gain=1.0)
    ids, options, draws = torch.tensor([[1, 4]]), SHAPED | {"max_new_tokens": 3}, 700
    processors = processors_of(model, ids, **options)
    law = {}
    for a in range(6):
        first = processors(ids, model(ids).logits[:, -1].float()).softmax(1)[0, a]
        longer = torch.cat([ids, torch.tensor([[a]])], 1)
        second = processors(longer, model(longer).logits[:, -1].float()).softmax(1)[0]
        law |= {(a, b): float(first * second[b]) for b in range(6)}
    torch.manual_seed(11)
    speculative = dg.custom_generate(perturbed(model, 0.4), budget=4)
    drawn = model.generate(ids, **options, num_return_sequences=draws, custom_generate=speculative)
    counts = Counter((a, b) for a, b in drawn[:, 2:4].tolist())
    assert all(law[text] > 0 for text in counts)
    likely = [text for text in law if law[text] * draws >= 5]
    cells = [(counts[text], law[text] * draws) for text in likely]
    cells.append((draws - sum(seen for seen, _ in cells), draws - sum(expected for _, expected in cells)))
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells if expected > 1e-6)
    freedom = len(likely)
    assert freedom >= 8
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


@torch.no_grad()
def test_under_agree_every_token_is_the_draw_of_its_position_from_the_law_of_plain_generate(pair: Any) -> None:
    model, drafter = pair
    options = SHAPED | {"max_new_tokens": 40}
    torch.manual_seed(3)
    noise = Noise(int(torch.randint(2**63 - 1, (1,))))
    processors = processors_of(model, PROMPT, **options)
    ids = PROMPT
    for position in range(PROMPT.shape[1], PROMPT.shape[1] + 40):
        law = processors(ids, model(ids).logits[:, -1].float()).softmax(1)[0]
        ids = torch.cat([ids, torch.tensor([[choose(law, noise, position)]])], dim=1)
    for draft_model, budget in ((drafter, 8), (drafter, 0), (None, 8)):
        torch.manual_seed(3)
        speculative = dg.custom_generate(draft_model, rule="agree", budget=budget)
        assert torch.equal(model.generate(PROMPT, **options, custom_generate=speculative), ids)


def test_manual_seed_makes_sampling_reproducible(pair: Any) -> None:
    model, drafter = pair
    speculative = dg.custom_generate(drafter, budget=8)

    def sample(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        options = SHAPED | {"max_new_tokens": 6, "num_return_sequences": 4, "custom_generate": speculative}
        return model.generate(**BATCH, **options).tolist()

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    rows = sample(1)
    assert [row[:5] for row in rows] == [prompt for prompt in PADDED.tolist() for _ in range(4)]
    assert len({tuple(row) for row in rows}) > 6


def test_greedy_leaves_the_global_generator_alone(pair: Any) -> None:
    model, drafter = pair
    before = torch.get_rng_state()
    greedy(model, custom_generate=dg.custom_generate(drafter))
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_written_into_the_models(pair: Any) -> None:
    model, drafter = pair

    def everything(one: PreTrainedModel) -> Any:
        state = {key: value.clone() for key, value in one.state_dict().items()}
        return (
            copy.deepcopy(one.config.to_dict()),
            copy.deepcopy(one.generation_config.to_dict()),
            sorted(vars(one)),
            state,
        )

    before = everything(model), everything(drafter)
    model.generate(PROMPT, **SHAPED, max_new_tokens=9, custom_generate=dg.custom_generate(drafter, budget=8))
    for old, new in zip(before, (everything(model), everything(drafter)), strict=True):
        assert old[:3] == new[:3]
        assert all(torch.equal(old[3][key], new[3][key]) for key in new[3])


def test_an_engine_is_kept_for_a_model_and_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    make = dg.Engine.from_pretrained
    monkeypatch.setattr(dg.Engine, "from_pretrained", lambda *a, **k: built.append(a) or make(*a, **k))
    model = tiny_lm("llama")
    speculative = dg.custom_generate(perturbed(model), budget=4)
    for _ in range(3):
        greedy(model, custom_generate=speculative)
    assert len(built) == 1
    built.clear()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_drafter_may_be_a_folder(pair: Any, tmp_path: Path) -> None:
    model, drafter = pair
    drafter.save_pretrained(tmp_path)
    output = greedy(model, custom_generate=dg.custom_generate(str(tmp_path), budget=8), return_dict_in_generate=True)
    assert torch.equal(output.sequences, greedy(model))
    assert output.stats[0].num_accepted_tokens > 0


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("num_beams=3", {"num_beams": 3}),
    ("penalty_alpha", {"penalty_alpha": 0.6, "top_k": 4}),
    ("dola_layers", {"dola_layers": "low"}),
    ("guidance_scale", {"guidance_scale": 1.5, "negative_prompt_ids": PROMPT}),
    ("prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 3}),
    ("output_attentions", {"output_attentions": True, "return_dict_in_generate": True}),
    ("output_hidden_states", {"output_hidden_states": True, "return_dict_in_generate": True}),
    ("cache_implementation='static'", {"cache_implementation": "static"}),
    ("use_cache", {"use_cache": False}),
    ("synced_gpus", {"synced_gpus": True}),
    ("max_new_tokens=500", {"max_new_tokens": 500}),
    ("position_ids", {"position_ids": torch.tensor([[0, 1, 2, 3, 9]])}),
    ("padding on the right", {"attention_mask": torch.tensor([[1, 1, 1, 1, 0]])}),
    ("gaps", {"attention_mask": torch.tensor([[1, 1, 0, 1, 1]])}),
    ("token_type_ids", {"token_type_ids": torch.zeros_like(PROMPT)}),
    (
        "SynthIDText",
        {"do_sample": True, "watermarking_config": SynthIDTextWatermarkingConfig(ngram_len=3, keys=[1, 2])},
    ),
]


@pytest.fixture
def untouched() -> Any:
    """A model that counts its forwards, and a check that there were none."""
    model = tiny_lm("gpt2")
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    yield model
    assert not forwards


@pytest.mark.parametrize(("what", "options"), REFUSED, ids=[what for what, _ in REFUSED])
def test_what_cannot_be_honoured_is_refused_by_name(untouched: Any, what: str, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"cannot honour .*{what}"):
        greedy(untouched, **options, custom_generate=dg.custom_generate())


def test_other_drafters_caches_and_embeddings_are_refused(untouched: Any, pair: Any) -> None:
    speculative = dg.custom_generate()
    with pytest.raises(OptionError, match="assistant_model"):
        greedy(untouched, assistant_model=tiny_lm("gpt2"), custom_generate=speculative)
    with pytest.raises(OptionError, match=f"cannot honour {CACHE};"):
        greedy(untouched, **{CACHE: DynamicCache(config=untouched.config)}, custom_generate=speculative)
    with pytest.raises(OptionError, match="inputs_embeds"):
        greedy(untouched, {"inputs_embeds": torch.zeros(1, 3, 32)}, custom_generate=speculative)
    with pytest.raises(OptionError, match="streamer for 3 rows"):
        greedy(untouched, BATCH, streamer=Recorder(), custom_generate=speculative)
    with pytest.raises(OptionError, match="pad_token_id"):
        greedy(untouched, BATCH, pad_token_id=None, stopping_criteria=[Until(9)], custom_generate=speculative)


def test_models_in_training_mode_are_refused(untouched: Any) -> None:
    drafter = tiny_lm("gpt2").train()
    with pytest.raises(OptionError, match="the drafter in training mode"):
        greedy(untouched, custom_generate=dg.custom_generate(drafter))
    assert drafter.training
    untouched.train()
    with pytest.raises(OptionError, match="the model in training mode"):
        greedy(untouched, custom_generate=dg.custom_generate())
    assert untouched.training


def test_a_used_cache_is_refused(pair: Any) -> None:
    model, drafter = pair
    cache = model(PROMPT[:, :3], use_cache=True)[CACHE]
    with pytest.raises(OptionError, match=f"cannot honour {CACHE};"):
        greedy(model, **{CACHE: cache}, custom_generate=dg.custom_generate(drafter))


def test_encoder_decoders_and_models_that_cannot_read_drafts_are_refused() -> None:
    shape = {"vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 4}
    t5 = AutoModelForSeq2SeqLM.from_config(T5Config(**shape, decoder_start_token_id=0)).eval()
    with pytest.raises(OptionError, match="encoder-decoder"):
        greedy(t5, custom_generate=dg.custom_generate())
    old = tiny_lm("openai-gpt", n_positions=128, tie_word_embeddings=False)
    with pytest.raises(ModelError, match="its forward is older than transformers' caches"):
        greedy(old, custom_generate=dg.custom_generate())


def test_recurrent_models_run_on_one_path() -> None:
    recurrent = tiny_lm("mamba2", num_heads=8, head_dim=8, state_size=8, n_groups=1, chunk_size=16, expand=2)
    assert greedy(recurrent, custom_generate=dg.custom_generate(budget=4)).equal(greedy(recurrent))


def test_wrong_options_are_refused_at_once() -> None:
    with pytest.raises(OptionError, match="Did you mean 'budget'"):
        dg.custom_generate(budgett=8)
    with pytest.raises(OptionError, match="budget=-1"):
        dg.custom_generate(budget=-1)
    with pytest.raises(OptionError, match="structure"):
        dg.custom_generate(rule="block", structure="tree")


def test_a_signature_read_elsewhere_names_the_arguments_of_a_loop() -> None:
    names = list(inspect.signature(dg.custom_generate()).parameters)
    assert names[:5] == ["model", "input_ids", "logits_processor", "stopping_criteria", "generation_config"]


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["inside_transformers.py"])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "inside_transformers.py"))
    assert "same text: True" in capsys.readouterr().out


def test_a_prompt_without_tokens_is_refused(pair: Any) -> None:
    with pytest.raises(OptionError, match="a prompt without tokens; pass at least one"):
        pair[0].generate(
            input_ids=torch.zeros(1, 0, dtype=torch.long),
            max_new_tokens=3,
            custom_generate=dg.custom_generate(budget=4),
        )
