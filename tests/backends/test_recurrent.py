"""Models with recurrent layers: the text is that of transformers, whatever is rejected, and nothing of it stays in a state."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch

import draftgraph as dg
from company import succeeded
from draftgraph.backends.base import Feed
from draftgraph.backends.probe import honours_masks
from draftgraph.backends.recurrent_model import MOST_REPLAYED, RecurrentModel
from draftgraph.backends.states import RowsLayer, StateCache, StateHandle
from draftgraph.budget.limits import Windows, limits
from draftgraph.draft.base import Drafter
from draftgraph.engine.requests import make_course
from draftgraph.engine.round import decode_round
from draftgraph.errors import DraftError, ModelError, OptionError
from draftgraph.request.state import Request
from draftgraph.types import ROOT
from laws import p_value
from models import perturbed, plain, tiny_lm
from recurrent import FAMILIES, ONE_BY_ONE, Scripted, recurrent

PROMPT = [(7 * i * i + 3 * i) % 61 for i in range(300)]
NEW = 30


@cache
def expected(family: str, length: int = 300, new: int = NEW) -> list[int]:
    return plain(recurrent(family), PROMPT[:length], new)


@pytest.mark.parametrize("family", [*FAMILIES, *ONE_BY_ONE])
def test_drafts_that_are_rejected_at_every_depth_leave_no_trace(family: str) -> None:
    engine = dg.Engine.from_pretrained(recurrent(family), drafter=Scripted(expected(family)), budget=4)
    assert engine.target.one_by_one is (family in ONE_BY_ONE)
    if family in FAMILIES:
        engine.target.most_rows = 70  # the prompt is read in pieces
    result = engine.generate(PROMPT, max_new_tokens=NEW)
    assert result.token_ids == expected(family)
    assert {len(record.path) for record in result.rounds} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("family", ["qwen3_next", "lfm2", "falcon_h1", "mamba2", "mamba", "inkling_text"])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_a_recurrent_drafter_for_a_recurrent_target(family: str, length: int) -> None:
    lm = recurrent(family)
    for drafter in (perturbed(lm, 0.05), None):
        engine = dg.Engine.from_pretrained(lm, draft_model=drafter, budget=4)
        result = engine.generate(PROMPT[:length], max_new_tokens=18)
        assert result.token_ids == expected(family, length, 18)
        assert result.stats.structure == "chain"
        assert result.choice.reason.endswith("recurrent ones, or such with an index of rows): drafts are chains")
        assert drafter is None or result.stats.num_accepted_tokens > 0


@pytest.mark.parametrize(("target", "drafter"), [("llama", "lfm2"), ("llama", "mamba"), ("mamba2", "llama")])
def test_recurrent_and_other_models_draft_for_each_other(target: str, drafter: str) -> None:
    both = [tiny_lm(window=512) if name == "llama" else recurrent(name) for name in (target, drafter)]
    engine = dg.Engine.from_pretrained(both[0], draft_model=both[1], budget=4)
    result = engine.generate(PROMPT[:20], max_new_tokens=NEW)
    assert result.token_ids == plain(both[0], PROMPT[:20], NEW)
    assert result.stats.structure == "chain"
    engine = dg.Engine.from_pretrained(both[0], draft_model=both[1])  # with what pays
    assert engine.generate(PROMPT[:20], max_new_tokens=NEW).token_ids == result.token_ids


def test_the_same_model_may_draft_for_itself() -> None:
    for family in ("lfm2", "jamba"):
        engine = dg.Engine.from_pretrained(recurrent(family), draft_model=recurrent(family), budget=4)
        result = engine.generate(PROMPT[:20], max_new_tokens=NEW)
        assert result.token_ids == expected(family, 20)
        assert result.stats.mean_acceptance_length > 4.0


def test_without_the_restore_the_text_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = dg.Engine.from_pretrained(recurrent("bamba"), drafter=Scripted(expected("bamba")), budget=4)
    monkeypatch.setattr(StateCache, "restore", lambda cache, saved: None)
    assert engine.generate(PROMPT, max_new_tokens=NEW).token_ids != expected("bamba")
    with pytest.raises(ModelError, match="does not go on from states that were put back"):
        dg.Engine.from_pretrained(recurrent("bamba"))


def test_states_alone_are_not_enough_and_rows_are_not_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe tells either half of a restore from the whole."""

    def half(states: bool) -> Any:
        def restore(cache: StateCache, saved: list[dict[str, Any]]) -> None:
            for layer, held in zip(cache.layers, saved, strict=True):
                if isinstance(layer, RowsLayer) is not states:
                    vars(layer).update(held)

        return restore

    for states in (True, False):
        model = RecurrentModel(recurrent("granitemoehybrid"))
        with monkeypatch.context() as patch:
            patch.setattr(StateCache, "restore", half(states))
            assert honours_masks(model).failed


# --- requests beside each other -----------------------------------------------------------------------------------------


def begun(engine: dg.Engine, prompt: list[int]) -> Request:
    request = make_course(engine, prompt, dg.SamplingParams(max_new_tokens=NEW)).request
    request.text = engine.target.open(64)
    engine.drafter.begin(request)
    return request


@pytest.mark.parametrize("family", ["olmo_hybrid", "lfm3", "zamba"])
def test_two_requests_in_a_round_have_states_of_their_own(family: str) -> None:
    lm = recurrent(family)
    engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=4)
    prompts = [PROMPT[:33], PROMPT[50:57]]
    requests = [begun(engine, prompt) for prompt in prompts]
    while open_ones := [request for request in requests if request.finish_reason is None]:
        bounds = [limits(4, None, request, Windows.of(engine.target, engine.drafter)) for request in open_ones]
        succeeded(decode_round(open_ones, engine.drafter, engine.target, bounds))
    for request, prompt in zip(requests, prompts, strict=True):
        assert request.output == plain(lm, prompt, NEW)


def test_streams_in_turns_and_one_that_is_closed_early() -> None:
    lm = recurrent("qwen3_5_text")
    engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=4)
    first, closed, second = (engine.stream(PROMPT[:length], max_new_tokens=NEW) for length in (300, 9, 20))
    for _ in range(3):
        next(first), next(closed), next(second)
    closed.close()
    for stream, length in ((first, 300), (second, 20)):
        for _ in stream:
            pass
        assert stream.result().token_ids == expected("qwen3_5_text", length)


# --- what is kept -------------------------------------------------------------------------------------------------------


def fed(model: RecurrentModel, text: Any, committed: list[int], tokens: list[int]) -> torch.Tensor:
    first = len(text.nodes) - 1
    return model.forward([Feed(text, committed, tokens, range(first, first + len(tokens)))])[0].logits


@torch.inference_mode()
def test_what_was_kept_is_read_again_with_the_next_round_and_a_long_rest_before_it() -> None:
    model = RecurrentModel(recurrent("lfm2"))
    passes: list[int] = []
    call = model.call
    model.call = lambda **given: passes.append(given["input_ids"].shape[1]) or call(**given)  # type: ignore[method-assign]
    text = model.open(0)
    assert isinstance(text, StateHandle)
    fed(model, text, PROMPT[:5], PROMPT[5:8])
    model.keep(text, [0, 1, 2])
    assert (passes, len(text)) == ([8], 8), "all drafts are kept: nothing to do"
    fed(model, text, PROMPT[8:9], PROMPT[9:12])
    model.keep(text, [0])
    assert (passes, len(text)) == ([8, 4], 8), "the state is that before the round"
    fed(model, text, PROMPT[8:11], PROMPT[11:14])
    model.keep(text, [])
    fed(model, text, PROMPT[8:12], [1, 1])
    model.keep(text, [])
    assert (passes, len(text)) == ([8, 4, 6, 6], 8), "no pass of its own"
    fed(model, text, PROMPT[8 : 9 + MOST_REPLAYED], [1, 2])
    model.keep(text, [])
    assert passes[4:] == [1 + MOST_REPLAYED, 2], "but where it is long"
    assert len(text) == 9 + MOST_REPLAYED, "and then it is not read again"
    model.close(text)
    assert (len(text), text.cache) == (0, None)


@torch.inference_mode()
def test_keys_and_values_are_not_copied_from_round_to_round() -> None:
    model = RecurrentModel(recurrent("bamba"))
    text = model.open(0)
    assert isinstance(text, StateHandle)
    fed(model, text, PROMPT, [])
    fed(model, text, PROMPT[:1], [1, 2])
    assert text.cache is not None
    [layer] = [each for each in text.cache.layers if isinstance(each, RowsLayer)]
    places = [rows.data_ptr() for rows in layer._rows if rows is not None]
    for _ in range(20):
        model.keep(text, [])
        fed(model, text, PROMPT[:2], [1, 2])
    assert places == [rows.data_ptr() for rows in layer._rows if rows is not None]


@torch.inference_mode()
def test_taps_come_back_for_every_row_that_was_fed() -> None:
    lm = recurrent("lfm2")
    text = (model := RecurrentModel(lm)).open(0)
    committed, tokens = PROMPT[:20], PROMPT[20:23]
    feed = Feed(text, committed, tokens, [ROOT, 0, 1])
    scored = model.forward([feed], ["hidden:1", "hidden:2"])[0]
    states = lm(torch.tensor([committed + tokens]), output_hidden_states=True, use_cache=False).hidden_states
    for name, number in (("hidden:1", 1), ("hidden:2", 2)):
        assert torch.allclose(scored.taps[name], states[number][0], atol=1e-4)


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["graph", "tree", "comb", "paths", dg.structures.Tree((2, 1))], ids=str)
@pytest.mark.parametrize("role", ["target", "drafter"])
def test_drafts_that_branch_are_refused(structure: Any, role: str) -> None:
    pair = [recurrent("lfm2"), tiny_lm(window=512)]
    target, drafter = pair if role == "target" else pair[::-1]
    with pytest.raises(
        OptionError,
        match=r"Lfm2ForCausalLM has layers that read one path.*structure=.* branches; leave it out, or write 'chain'",
    ):
        dg.Engine.from_pretrained(target, draft_model=drafter, structure=structure)


class Bushy(Drafter):
    def propose(self, request: Any, limits: Any) -> dg.Draft:
        graph = dg.DraftGraph()
        graph.fix(dg.ROOT, 1), graph.fix(dg.ROOT, 2)
        return dg.Draft(graph)


class Liar(Bushy):
    structure = dg.structures.Chain()


def test_drafters_that_do_not_promise_chains_are_refused_and_those_that_lie_are_caught() -> None:
    with pytest.raises(
        OptionError, match=r"Bushy does not promise chains; write structure = dg\.structures\.Chain\(\)"
    ):
        dg.Engine.from_pretrained(recurrent("lfm2"), drafter=Bushy())
    engine = dg.Engine.from_pretrained(recurrent("lfm2"), drafter=Liar(), budget=4)
    with pytest.raises(DraftError, match="recurrent layers, which read one path; draft chains"):
        engine.generate(PROMPT[:9], max_new_tokens=4, stop_token_ids=())
    assert len(dg.Engine.from_pretrained(recurrent("lfm2")).generate(PROMPT[:9], max_new_tokens=4).token_ids) == 4


def test_copies_in_spare_slots_are_refused() -> None:
    with pytest.raises(
        OptionError, match=r"drafts are chains, which have no spare slots for edges=\('own',\); leave it"
    ):
        dg.Engine.from_pretrained(recurrent("lfm2"), draft_model=recurrent("lfm2"), edges=("own",))


def test_models_whose_states_are_not_in_the_cache_are_refused() -> None:
    griffin = tiny_lm("recurrent_gemma", num_hidden_layers=3, attention_window_size=8, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"does not go on from states that were put back.*outside of its cache"):
        dg.Engine.from_pretrained(griffin)


def test_layers_decide_and_not_the_class() -> None:
    """Hybrid classes have members with attention in every layer: they are like all others."""
    options = FAMILIES["granitemoehybrid"] | {"layer_types": ["full_attention"] * 2}
    lm = tiny_lm("granitemoehybrid", window=512, **options)
    engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=12)
    result = engine.generate(PROMPT, max_new_tokens=NEW)
    assert result.token_ids == plain(lm, PROMPT, NEW)
    assert result.stats.structure == "graph"


# --- the law ------------------------------------------------------------------------------------------------------------

VOCAB, LENGTH, SAMPLES = 5, 3, 200


@pytest.mark.parametrize("restored", [True, False])
def test_the_law_is_that_of_the_target(restored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against enumeration from plain forwards; without the restore it is another."""
    lm, prompt = recurrent("bamba", VOCAB, 2.0), [token % VOCAB for token in PROMPT[:9]]
    law = {(): 1.0}
    for length in range(LENGTH):
        prefixes = list(product(range(VOCAB), repeat=length))
        with torch.inference_mode():
            rows = lm(torch.tensor([[*prompt, *prefix] for prefix in prefixes]), use_cache=False).logits[:, -1]
        laws = dict(zip(prefixes, rows.double().softmax(-1).tolist(), strict=True))
        law = {(*prefix, token): law[prefix] * laws[prefix][token] for prefix in prefixes for token in range(VOCAB)}
    engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 3.0), budget=2)
    if not restored:
        monkeypatch.setattr(StateCache, "restore", lambda cache, saved: None)
    params = dg.SamplingParams(max_new_tokens=LENGTH, temperature=1.0, seed=11)
    texts = [tuple(engine.generate(prompt, replace(params, sample=i)).token_ids) for i in range(SAMPLES)]
    assert p_value(texts, law) > 1e-4 if restored else p_value(texts, law) < 1e-6
