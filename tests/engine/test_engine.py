"""Bad input and failures: a clear error, nothing lost, and an engine that goes on as if nothing had happened."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GPT2Tokenizer, PreTrainedModel

import draftgraph as dg
from draftgraph import errors
from draftgraph.engine.requests import make_course
from draftgraph.structures import Tree
from draftgraph.verification.base import Accepts
from draftgraph.verification.layer import LayerRule
from ids import told
from models import REFUSED, byte_tokenizer, perturbed, plain, tiny_lm

PARAMS = dg.SamplingParams(max_new_tokens=20)
PROMPT = [5, 9, 5]
TARGET = cache(tiny_lm)
DRAFTER = cache(lambda: perturbed(TARGET(), 0.1))


@pytest.fixture
def engine() -> Iterator[dg.Engine]:
    """An engine that must be usable, and unchanged, after the test."""
    made = dg.Engine.from_pretrained(TARGET(), draft_model=DRAFTER(), budget=8)
    yield made
    check_usable(made)


def check_usable(engine: dg.Engine) -> None:
    assert not engine.target.cache._used
    if engine.drafter.model is not None:
        assert not engine.drafter.model.cache._used
    assert engine.generate(PROMPT, PARAMS).token_ids == plain(engine.target.model, PROMPT, 20)
    assert not engine.target.cache._used


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt is empty"),
        ([1] * 128, "128 tokens and the target's context window is 128"),
        ([1] * 500, "500 tokens and the target's context window is 128"),
        ([1, 64], "token id 64 is outside the target's vocabulary of 64"),
        ([-1], "token id -1 is outside"),
        ("text", "needs a tokenizer"),
        ([[1, 2], []], "prompt is empty"),
        ([1.5, 2.0], "token ids"),
        (None, "token ids"),
        ([[1, 2], None], "token ids"),
        (["a", 3], "tokenizer"),
    ],
    ids=told,
)
def test_impossible_prompts(prompt: Any, message: str, engine: dg.Engine) -> None:
    with pytest.raises(errors.PromptError, match=message):
        engine.generate(prompt, PARAMS)
    with pytest.raises(errors.PromptError):
        engine.stream(prompt, PARAMS)


def test_empty_text_and_text_of_no_tokens() -> None:
    engine = dg.Engine.from_pretrained(tiny_lm(vocab=256), tokenizer=byte_tokenizer())
    with pytest.raises(errors.PromptError, match="empty"):
        engine.generate("", PARAMS)
    assert (
        engine.generate("x", PARAMS).token_ids == engine.generate(engine.tokenizer("x")["input_ids"], PARAMS).token_ids
    )


def test_prompts_may_be_tensors(engine: dg.Engine) -> None:
    expected = engine.generate(PROMPT, PARAMS).token_ids
    assert engine.generate(torch.tensor(PROMPT), PARAMS).token_ids == expected
    assert [r.token_ids for r in engine.generate(torch.tensor([PROMPT, PROMPT]), PARAMS)] == [expected] * 2


def test_the_last_place_in_the_window(engine: dg.Engine) -> None:
    result = engine.generate([1] * 127, PARAMS)
    assert (len(result.token_ids), result.finish_reason) == (1, "length")


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": -1}, "budget=-1 is not possible; write"),
        ({"budget": "many"}, "budget='many'"),
        ({"budget": 2.5}, "budget=2.5"),
        ({"rule": "layr"}, "unknown rule 'layr'.*Did you mean 'layer'"),
        ({"rule": "blok"}, "Did you mean 'block'"),
        ({"structure": "grap"}, "unknown structure 'grap'.*Did you mean 'graph'"),
        ({"drafter": "lookp"}, "unknown drafter.*Did you mean 'lookup'"),
        ({"buget": 3}, "unknown option 'buget'.*Did you mean 'budget'"),
        ({"num_speculative_tokens": 0}, "num_speculative_tokens=0"),
        ({"num_speculative_tokens": 2.5}, "num_speculative_tokens=2.5"),
        ({"rule": "block", "structure": "tree"}, "on chains, not structure='tree'; write structure='chain'"),
        (
            {"rule": "block", "structure": Tree((2, 1))},
            r"not structure=dg.structures.Tree\(branching=\(2, 1\).*; write structure='chain'",
        ),
        ({"rule": "walk", "structure": "paths"}, "structure='paths' is SAMPLED, and rule 'walk' reads no laws"),
        (
            {"rule": "agree", "structure": Tree((2,), "spine")},
            "children='spine'.* is SAMPLED, and rule 'agree' reads no",
        ),
        ({"structure": 3}, "unknown structure 3; possible: auto, chain"),
        ({"structure": Tree((2, 1)), "num_speculative_tokens": 3}, "is 2 deep, not num_speculative_tokens=3"),
        ({"drafter": "lookup"}, "leave out draft_model"),
    ],
    ids=told,
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        dg.Engine.from_pretrained(TARGET(), draft_model=DRAFTER(), **options)


class Apart(LayerRule):
    """A rule that takes trees, but not those that grew level by level."""

    name = "apart"
    accepts = Accepts(frozenset({"fixed", "sampled"}), frozenset({"tree"}))


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (
            Apart(),
            {"structure": "graph"},
            r"rule 'apart'.*structure='comb' or .* or structure=dg.structures.Tree\(.*children='hybrid'\) or",
        ),
        (
            "kseq",
            {"structure": "tree"},
            r"'kseq'.*write structure='paths'.*Tree\(branching=\(3, 2, 1, 1\), children='with_r",
        ),
        (
            "kseq",
            {"structure": Tree((2, 1), "without_replacement")},
            r"write structure=dg.structures.Tree\(branching=\(2, 1\), children='with_replacement'\) or",
        ),
        ("multipath", {"structure": "graph"}, "'multipath'.*write structure='paths'"),
        ("multipath", {"structure": Tree((3, 2))}, "write structure='paths'"),
        ("kseq", {"structure": "gsd"}, "'kseq'.*write structure='paths'"),
        ("multipath", {"drafter": "lookup"}, "without a draft model, there is nothing to sample"),
        ("greedy_block", {}, "re-targets later positions.*fewer tokens.*write rule='block'"),
    ],
    ids=lambda value: told(getattr(value, "name", value)),
)
def test_drafts_that_a_rule_does_not_verify(rule: Any, options: dict[str, Any], message: str) -> None:
    """Refused before a model is loaded; what the message offers instead is possible."""
    with pytest.raises(errors.OptionError, match=message):
        dg.Config(rule=rule, **options)


@pytest.mark.parametrize(
    ("rule", "asked", "structure"),
    [
        (Apart(), "auto", dg.structures.Comb()),
        ("kseq", "auto", dg.structures.Paths()),
        ("kseq", Tree((3, 2)), Tree((3, 2), "with_replacement")),
        ("multipath", Tree((3, 1)), Tree((3, 1), "with_replacement")),
        ("layer", "auto", dg.structures.Graph()),
        ("layer", "tree", Tree()),
        ("layer", Tree((3, 1)), Tree((3, 1), "hybrid")),
        ("block", "auto", dg.structures.Chain()),
        ("block", Tree((1, 1)), Tree((1, 1), "hybrid")),
        ("agree", "auto", dg.structures.Graph()),
        ("agree", Tree((3, 1)), Tree((3, 1), "fixed")),
    ],
    ids=told,
)
def test_what_suits_a_rule(rule: Any, asked: Any, structure: dg.structures.Structure) -> None:
    assert dg.Config(rule=rule, structure=asked).resolved_structure == structure


def test_rules_without_anything_to_sample() -> None:
    """At temperature 0 i.i.d. paths are one path: the request is refused, not decoded some other way."""
    config = dg.Config(rule="multipath")
    config.refuse_unverified(sampled=True)
    with pytest.raises(errors.OptionError, match=r"at temperature 0, or without a draft model.*rule='layer'"):
        config.refuse_unverified(sampled=False)
    for structure in ("graph", "tree", "comb", "paths", "chain", "gsd"):
        dg.Config(structure=structure).refuse_unverified(sampled=False)


@pytest.mark.parametrize(
    ("structure", "asks"),
    [
        (Tree((2, 1)), True), ("comb", True), ("paths", True), ("gsd", True), (dg.structures.Chain(3), True),
        (dg.structures.Graph(read_ahead=2), True), ("tree", False), ("chain", False), (dg.structures.Graph(read_ahead=0), False),
    ],
    ids=told,
)  # fmt: skip
def test_structures_that_only_a_draft_model_can_follow(structure: Any, asks: bool) -> None:
    if asks:
        with pytest.raises(
            errors.OptionError, match=r"structure=.* asks a draft model; give draft_model=..., or write"
        ):
            dg.Engine.from_pretrained(TARGET(), structure=structure)
    else:
        assert dg.Engine.from_pretrained(TARGET(), structure=structure, budget=4).generate(PROMPT, PARAMS).token_ids


@pytest.mark.parametrize("options", [{"drafter": "model"}, {"drafter": "text"}, {"drafter": "text", "prediction": "x"}])
def test_drafters_that_lack_something(options: dict[str, Any]) -> None:
    with pytest.raises(errors.OptionError, match="need"):
        dg.Engine.from_pretrained(TARGET(), **options)


def test_predictions_outside_the_vocabulary() -> None:
    with pytest.raises(errors.OptionError, match="prediction holds token id 64"):
        dg.Engine.from_pretrained(TARGET(), drafter="text", prediction=[3, 64])


def test_names_of_the_ecosystem() -> None:
    aliases = {"num_assistant_tokens": 3, "rejection_sample_method": "standard"}
    engine = dg.Engine.from_pretrained(TARGET(), assistant_model=DRAFTER(), **aliases)
    assert (engine.config.num_speculative_tokens, engine.choice(dg.SamplingParams()).rule.name) == (3, "token")
    assert engine.config.resolved_structure == dg.structures.Chain()
    engine = dg.Engine.from_pretrained(TARGET(), prompt_lookup_num_tokens=4)
    assert (engine.config.drafter, engine.config.num_speculative_tokens) == ("lookup", 4)


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_drafter_of_another_tokenizer(tmp_path: Path) -> None:
    for name, words in (("ours", ("alpha", "beta")), ("theirs", ("beta", "alpha"))):
        tiny_lm(vocab=258).save_pretrained(tmp_path / name)
        byte_tokenizer(words, 258).save_pretrained(tmp_path / name)
    with pytest.raises(errors.PairError, match=r"token ids: '(alpha|beta)' is 25[67] for the target and 25[67] for"):
        dg.Engine.from_pretrained(tmp_path / "ours", draft_model=tmp_path / "theirs")
    engine = dg.Engine.from_pretrained(tmp_path / "ours", draft_model=tmp_path / "ours")
    assert isinstance(engine.generate("Hello", PARAMS).text, str)


def test_real_drafter_of_another_tokenizer(shared: Path) -> None:
    gpt2 = GPT2Tokenizer.from_pretrained(shared / "tokenizers" / "gpt2")
    with pytest.raises(errors.PairError, match="token ids"):
        dg.Engine.from_pretrained(
            tiny_lm(vocab=len(gpt2)), draft_model=shared / "models" / "stories260K-draft-29k", tokenizer=gpt2
        )


def test_a_few_tokens_of_its_own_do_not_forbid_a_drafter(tmp_path: Path) -> None:
    for name, words in (("ours", ("alpha",)), ("theirs", ("alpha", "beta"))):
        tiny_lm(vocab=256 + len(words)).save_pretrained(tmp_path / name)
        byte_tokenizer(words, 256 + len(words)).save_pretrained(tmp_path / name)
    for target, drafter in (("ours", "theirs"), ("theirs", "ours")):
        engine = dg.Engine.from_pretrained(tmp_path / target, draft_model=tmp_path / drafter)
        assert len(engine.generate("Hello alpha", dg.SamplingParams(max_new_tokens=5, ignore_eos=True)).token_ids) == 5


@pytest.mark.parametrize("vocab", [129, 200, 1200])
def test_vocabularies_too_different_for_padding(vocab: int) -> None:
    with pytest.raises(errors.PairError, match="vocabulary size: the target has 64 tokens"):
        dg.Engine.from_pretrained(TARGET(), draft_model=tiny_lm(vocab=vocab))


@pytest.mark.parametrize(
    ("vocab", "structure", "temperature"),
    [
        (vocab, structure, float((i + j) % 2))
        for i, vocab in enumerate((40, 63, 65, 90))
        for j, structure in enumerate(("chain", "tree", "graph", "gsd"))
    ],
)
def test_vocabularies_padded_differently(vocab: int, structure: str, temperature: float) -> None:
    engine = dg.Engine.from_pretrained(TARGET(), draft_model=tiny_lm(vocab=vocab), structure=structure, budget=6)
    result = engine.generate([63, 60, 5], dg.SamplingParams(max_new_tokens=15, temperature=temperature, seed=1))
    assert len(result.token_ids) == 15
    if temperature == 0:
        assert result.token_ids == plain(TARGET(), [63, 60, 5], 15)


SHAPED = (dg.structures.Chain(4), dg.structures.Tree((3, 2, 1)), dg.structures.Paths(3, 4))


@pytest.mark.parametrize(
    ("family", "structure", "temperature"),
    [
        (family, structure, float((i + j) % 2))
        for i, family in enumerate(("llama", "gpt2"))
        for j, structure in enumerate(("graph", "tree", "chain", "comb", "paths", "gsd", *SHAPED))
    ],
    ids=str,
)
def test_beyond_the_drafters_window_drafts_are_copies_or_none(family: str, structure: Any, temperature: float) -> None:
    drafter = tiny_lm(window=32) if family == "llama" else tiny_lm(family, window=32)
    budget = "auto" if structure in SHAPED else 6
    engine = dg.Engine.from_pretrained(TARGET(), draft_model=drafter, structure=structure, budget=budget)
    prompt = [5, 6] * 8
    stream = engine.stream(prompt, max_new_tokens=24, temperature=temperature, seed=1)
    for event in stream:
        late = event.round.length > 32 and event.finish_reason is None
        why = "copies" if engine.config.resolved_structure.copied else "plain"
        assert not late or event.round.reason == f"{why}: the text is beyond the drafter's window of 32 tokens"
        assert bool(engine.drafter.model.cache._used) == (event.round.length <= 32 and event.finish_reason is None)
    result = stream.result()
    assert len(result.token_ids) == 24
    assert max(record.length for record in result.rounds if record.num_passes) > 24, "it drafts nearly to its window"
    if temperature == 0:
        assert result.token_ids == plain(TARGET(), prompt, 24)


@pytest.mark.parametrize("structure", ["graph", "chain"])
def test_the_automatic_budget_goes_on_beyond_the_drafters_window(structure: str) -> None:
    engine = dg.Engine.from_pretrained(TARGET(), draft_model=tiny_lm(window=32), structure=structure)
    result = engine.generate([5, 6] * 20, max_new_tokens=40)
    assert result.token_ids == plain(TARGET(), [5, 6] * 20, 40)
    assert all("beyond the drafter's window of 32" in record.reason for record in result.rounds[:-1])


# --- models that are not possible -------------------------------------------------------------------------------------


PROBED = {
    "openai-gpt": "its forward is older than transformers' caches",
    "moshi": "its configuration names a window that its own masks leave out",
}
"""Models that ignore explicit positions or masks, and why."""


def test_recurrent_states_in_layers_that_nobody_names() -> None:
    refuse(
        tiny_lm("rwkv", **REFUSED["rwkv"]), "has recurrent states, and its configuration does not say in which layers"
    )


def test_encoder_decoders() -> None:
    config = AutoConfig.for_model("t5", vocab_size=64, **REFUSED["t5"])
    refuse(AutoModelForSeq2SeqLM.from_config(config).eval(), "T5ForConditionalGeneration is an encoder-decoder")


def test_flash_attention() -> None:
    model = copy.deepcopy(TARGET())
    model.config._attn_implementation_internal = "flash_attention_2"
    refuse(model, "attn_implementation='flash_attention_2'")


def refuse(model: PreTrainedModel, message: str) -> None:
    """Refused by name as target and as drafter, before any forward."""
    model.forward = pytest.fail  # type: ignore[method-assign]
    for target, drafter in ((model, None), (TARGET(), model)):
        with pytest.raises(errors.ModelError, match=message) as raised:
            dg.Engine.from_pretrained(target, draft_model=drafter)
        assert type(model).__name__ in str(raised.value)


@pytest.mark.parametrize("family", PROBED)
def test_models_that_cannot_read_drafts_are_refused_by_their_cause(family: str) -> None:
    with pytest.raises(errors.ModelError, match=f"(ForCausalLM|LMHeadModel) .*{PROBED[family]}"):
        dg.Engine.from_pretrained(tiny_lm(family, **REFUSED[family]))


def test_layers_that_pick_tokens_run_as_long_as_they_pick_all() -> None:
    refuse(tiny_lm("doge", **REFUSED["doge"]), "keep_window_size=8.*write max_position_embeddings=8 into")
    short = tiny_lm("doge", window=64, **REFUSED["doge"] | {"keep_window_size": 64})
    engine = dg.Engine.from_pretrained(short, draft_model=perturbed(short), budget=12)
    assert engine.generate([63, 60, 5], max_new_tokens=60).token_ids == plain(short, [63, 60, 5], 60)


@pytest.mark.parametrize("spoil", ["missing folder", "no config", "corrupt weights", "no weights", "lost tensor"])
@pytest.mark.parametrize("role", ["target", "drafter"])
def test_checkpoints(spoil: str, role: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if spoil != "missing folder":
        TARGET().save_pretrained(folder)
    weights = folder / "model.safetensors"
    if spoil == "no config":
        (folder / "config.json").unlink()
    elif spoil == "corrupt weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif spoil == "no weights":
        weights.unlink()
    elif spoil == "lost tensor":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    target, drafter = (folder, None) if role == "target" else (TARGET(), folder)
    with pytest.raises(errors.ModelError, match=r"model'"):
        dg.Engine.from_pretrained(target, draft_model=drafter)


# --- failures on the way ----------------------------------------------------------------------------------------------


def spoil_rows(value: float) -> Callable[..., Any]:
    """A forward hook that puts `value` into one entry of the logits."""

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        output.logits[..., 7] = value
        return output

    return hook


class After:
    """Raises `error` at the n-th call, if it is an error; else calls it."""

    def __init__(self, calls: int, action: Any) -> None:
        self.left, self.action = calls, action

    def __call__(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        self.left -= 1
        if self.left > 0:
            return output
        if isinstance(self.action, BaseException):
            raise self.action
        return self.action(module, args, kwargs, output)


def interrupted(engine: dg.Engine, model: PreTrainedModel, action: Any, kind: type[BaseException], calls: int) -> Any:
    """Let a forward of `model` go wrong at its n-th call; checks what is told about the text so far."""
    whole = engine.generate(PROMPT, PARAMS).token_ids
    handle = model.register_forward_hook(After(calls, action), with_kwargs=True)
    try:
        with pytest.raises(kind) as raised:
            engine.generate(PROMPT, PARAMS)
    finally:
        handle.remove()
    partial = raised.value.partial
    assert partial is not None
    assert partial.finish_reason is None
    assert partial.token_ids == whole[: len(partial.token_ids)]
    assert len(partial.token_ids) < len(whole)
    if calls > 6:
        assert partial.token_ids
    return raised.value


@pytest.mark.parametrize(
    ("value", "calls"),
    [(torch.nan, 1), (torch.nan, 2), (torch.nan, 7), (torch.inf, 1), (-torch.inf, 2), (torch.inf, 7)],
)
@pytest.mark.parametrize("role", ["target", "drafter"])
def test_rows_that_are_no_logits(value: float, calls: int, role: str, engine: dg.Engine) -> None:
    model = TARGET() if role == "target" else DRAFTER()
    error = interrupted(engine, model, spoil_rows(value), errors.LogitsError, calls)
    assert "LlamaForCausalLM" in str(error)


@pytest.mark.parametrize("calls", [1, 2, 7])
def test_drafter_that_raises(calls: int, engine: dg.Engine) -> None:
    error = interrupted(engine, DRAFTER(), ValueError("out of ideas"), errors.DrafterError, calls)
    assert "ValueError: out of ideas" in str(error)


@pytest.mark.parametrize("calls", [1, 7])
@pytest.mark.parametrize("role", ["target", "drafter"])
def test_keyboard_interrupt(calls: int, role: str, engine: dg.Engine) -> None:
    interrupted(engine, TARGET() if role == "target" else DRAFTER(), KeyboardInterrupt(), KeyboardInterrupt, calls)


@pytest.mark.parametrize("calls", [1, 3])
def test_keyboard_interrupt_of_a_stream(calls: int, engine: dg.Engine) -> None:
    handle = TARGET().register_forward_hook(After(calls, KeyboardInterrupt()), with_kwargs=True)
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(token for event in engine.stream(PROMPT, PARAMS) for token in event.token_ids)
    handle.remove()
    assert seen == plain(TARGET(), PROMPT, 20)[: len(seen)]


def test_processor_that_raises(engine: dg.Engine) -> None:
    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 9:
            raise ValueError("no more")
        return scores

    with pytest.raises(errors.LogitsError, match="processor raised ValueError: no more") as raised:
        engine.generate(PROMPT, dg.SamplingParams(max_new_tokens=20, logits_processors=(processor,)))
    assert raised.value.partial is not None
    tokens = raised.value.partial.token_ids
    assert tokens == plain(TARGET(), PROMPT, 20)[: len(tokens)]


def test_a_batch_keeps_what_is_finished(engine: dg.Engine) -> None:
    """The second of three requests fails: the first one's text is not lost."""

    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids[0, 0] == 7:
            raise ValueError("no sevens")
        return scores

    with pytest.raises(errors.LogitsError) as raised:
        engine.generate([PROMPT, [7, 1], PROMPT], dg.SamplingParams(max_new_tokens=20, logits_processors=(processor,)))
    assert [result.token_ids for result in raised.value.finished] == [plain(TARGET(), PROMPT, 20)]


def test_stream_closed_early(engine: dg.Engine) -> None:
    for rounds in range(3):
        stream = engine.stream(PROMPT, PARAMS)
        for _ in range(rounds):
            next(stream)
        stream.close()
        check_usable(engine)


# --- nothing is left behind -------------------------------------------------------------------------------------------


def test_models_are_not_changed() -> None:
    models = [tiny_lm(eos=3), tiny_lm("gpt2")]
    before = [fingerprint(model) for model in models]
    for structure in ("graph", "chain"):
        engine = dg.Engine.from_pretrained(models[0], draft_model=models[1], structure=structure, budget=5)
        engine.generate(PROMPT, dg.SamplingParams(max_new_tokens=12, temperature=1.0, seed=1, repetition_penalty=1.2))
    assert [fingerprint(model) for model in models] == before


def fingerprint(model: PreTrainedModel) -> Any:
    weights = {name: weight.sum().item() for name, weight in model.state_dict().items()}
    attributes = sorted(name for name in vars(model) if not name.startswith("__"))
    return copy.deepcopy(
        (model.config.to_dict(), model.generation_config.to_dict(), weights, attributes, model.training)
    )


def test_several_engines_on_one_model(engine: dg.Engine) -> None:
    others = [dg.Engine.from_pretrained(TARGET(), draft_model=TARGET(), budget=b) for b in (0, 3)]
    streams = [each.stream(PROMPT, PARAMS) for each in (engine, *others)]
    texts: list[list[int]] = [[] for _ in streams]
    for _ in range(20):
        for text, stream in zip(texts, streams, strict=True):
            text += next(stream).token_ids if (len(text)) < 20 else ()
    assert texts == [plain(TARGET(), PROMPT, 20)] * 3
    for stream in streams:
        assert next(stream, None) is None


def test_noise_of_past_positions_is_forgotten(engine: dg.Engine) -> None:
    agreeing = dg.Engine.from_pretrained(TARGET(), draft_model=DRAFTER(), rule="agree", budget=4)
    course = make_course(agreeing, PROMPT, dg.SamplingParams(max_new_tokens=60, temperature=1.0))
    for _ in course.alone():
        assert len(course.request.noise._positions) < 16


def test_errors_are_one_family() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) >= 7
    assert all(issubclass(kind, dg.DraftgraphError) for kind in kinds)


def test_loading_by_folder_and_name(tmp_path: Path) -> None:
    TARGET().save_pretrained(tmp_path)
    engine = dg.Engine.from_pretrained(str(tmp_path), draft_model=tmp_path)
    assert engine.generate(PROMPT, PARAMS).token_ids == plain(TARGET(), PROMPT, 20)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert dg.Engine.from_pretrained(half).target.model.dtype == torch.bfloat16


def test_a_prediction_beside_a_draft_model_is_refused() -> None:
    with pytest.raises(errors.OptionError, match="prediction is for drafter='text'"):
        dg.Engine.from_pretrained(tiny_lm("llama"), draft_model=tiny_lm("llama"), prediction=[1, 2])


def test_a_shape_is_drafted_whole_unless_a_budget_cuts_it() -> None:
    shape = (2, 2, 1, 1, 1)  # 2 + 4 + 4 + 4 + 4 nodes, more than "auto" would verify
    for budget, most in (("auto", 18), (9, 9)):
        engine = dg.Engine.from_pretrained(TARGET(), draft_model=DRAFTER(), structure=Tree(shape), budget=budget)
        rounds = engine.generate([5, 6], dg.SamplingParams(max_new_tokens=40, temperature=1.0, seed=2)).rounds
        sizes = {len(record.tokens) for record in rounds}
        assert max(sizes) <= most
        assert budget != "auto" or 18 in sizes
