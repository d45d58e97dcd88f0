"""Processors that are functions run under drafts; those that keep state are refused by name, and run without drafts."""

from __future__ import annotations

import copy
import re
from functools import cache
from typing import Any

import pytest
import torch
import transformers as hf

import draftgraph as dg
from draftgraph.errors import OptionError
from draftgraph.sampling.contract import check_functions
from draftgraph.sampling.copies import copied
from logits_processors import FUNCTIONS, LATE, STATEFUL, VOCAB, Counts, Generator, Head, closure
from models import perturbed, plain, tiny_lm

PROMPT, TOKENS = [5, 9, 5], 50
CPU = torch.device("cpu")
ENGINES: dict[str, dict[str, Any]] = {
    "lookup": {"drafter": "lookup", "budget": 6},
    "graph": {"budget": 8},
    "chain": {"budget": 4, "structure": "chain"},
}


@cache
def engine(name: str) -> dg.Engine:
    target = tiny_lm(vocab=VOCAB)
    if name == "plain":
        return dg.Engine.from_pretrained(target, budget=0)
    draft_model = None if name == "lookup" else perturbed(target, 0.05)
    return dg.Engine.from_pretrained(target, draft_model=draft_model, **ENGINES[name])


@cache
def expected(name: str, prompt: tuple[int, ...] = tuple(PROMPT)) -> list[int]:
    """What transformers makes of a fresh processor of this name."""
    processor = (FUNCTIONS | STATEFUL | LATE)[name]()
    return plain(
        engine("plain").target.model, list(prompt), TOKENS, logits_processor=hf.LogitsProcessorList([processor])
    )


def params(processor: Any, **options: Any) -> dg.SamplingParams:
    return dg.SamplingParams(max_new_tokens=TOKENS, logits_processors=[processor], **options)


@pytest.mark.parametrize("drafting", ENGINES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_give_the_text_of_plain_decoding(name: str, drafting: str) -> None:
    assert engine(drafting).generate(PROMPT, params(FUNCTIONS[name]())).token_ids == expected(name)


@pytest.mark.parametrize("drafting", ENGINES)
@pytest.mark.parametrize("name", STATEFUL)
def test_processors_that_keep_state_are_refused_by_name(name: str, drafting: str) -> None:
    processor = STATEFUL[name]()
    own = getattr(processor, "__name__", type(processor).__name__)
    for start in (engine(drafting).generate, engine(drafting).stream):
        with pytest.raises(
            OptionError, match=rf"cannot honour the logits processor {re.escape(own)}: it .*budget=0"
        ) as raised:
            start(PROMPT, params(processor))
        assert raised.value.partial is None  # before anything was generated
    assert not engine(drafting).target.cache._used


@pytest.mark.parametrize("name", [name for name in STATEFUL if name not in ("generator", "random")])
def test_the_remedy_works_with_the_very_processor_that_was_refused(name: str) -> None:
    processor = STATEFUL[name]()
    with pytest.raises(OptionError):
        engine("graph").generate(PROMPT, params(processor))
    assert engine("plain").generate(PROMPT, params(processor)).token_ids == expected(name)


@pytest.mark.parametrize("drafting", ENGINES)
@pytest.mark.parametrize("name", LATE)
def test_state_that_shows_late_stops_the_text_before_it_is_wrong(name: str, drafting: str) -> None:
    for prompt in (PROMPT, [7, 3, 9, 7, 3, 1, 2], [11]):
        right = expected(name, tuple(prompt))
        try:
            tokens = engine(drafting).generate(prompt, params(LATE[name]())).token_ids
        except OptionError as error:
            tokens = error.partial.token_ids if error.partial else []
        else:
            assert len(tokens) == TOKENS
        assert tokens == right[: len(tokens)]


@pytest.mark.parametrize("name", [*STATEFUL, *LATE])
def test_without_drafts_processors_are_called_once_per_token_with_one_row(name: str) -> None:
    if name in ("random",):
        return
    processor = (STATEFUL | LATE)[name]()
    assert engine("plain").generate(PROMPT, params(processor)).token_ids == expected(name)


def test_nothing_is_asked_without_drafts() -> None:
    calls: list[list[int]] = []

    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        calls.append(list(ids.shape))
        return scores

    engine("plain").generate(PROMPT, dg.SamplingParams(max_new_tokens=4, logits_processors=[processor]))
    assert calls == [[1, 3], [1, 4], [1, 5], [1, 6]]


def test_the_check_asks_copies() -> None:
    for processor in (Counts(), closure()):
        other = copy.deepcopy(processor) if isinstance(processor, Counts) else closure()
        with pytest.raises(OptionError):
            check_functions([processor], PROMPT, VOCAB, CPU)
        ids, scores = torch.tensor([PROMPT]), torch.zeros(1, VOCAB)
        assert torch.equal(processor(ids, scores), other(ids, scores))  # type: ignore[arg-type]


def test_the_culprit_is_named_among_several() -> None:
    several = [FUNCTIONS["spy"](), FUNCTIONS["remembers by ids"](), Counts(), FUNCTIONS["lambda"]()]
    with pytest.raises(OptionError, match="the logits processor Counts: it"):
        check_functions(several, PROMPT, VOCAB, CPU)


def test_processors_that_allow_one_token_or_none_are_not_blamed() -> None:
    def one(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf).scatter(1, (ids[:, -1:] + 1) % VOCAB, 0.0)

    check_functions([one], PROMPT, VOCAB, CPU)
    check_functions([lambda ids, scores: torch.full_like(scores, -torch.inf)], PROMPT, VOCAB, CPU)
    check_functions([lambda ids, scores: torch.full_like(scores, torch.nan)], PROMPT, VOCAB, CPU)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_sampled_requests_are_watched_as_well(temperature: float) -> None:
    with pytest.raises(OptionError, match="Switches"):
        engine("graph").generate(PROMPT, params(LATE["switches after call 15"](), temperature=temperature, seed=1))


def test_copies_share_models_and_nothing_else() -> None:
    class Holder:
        def __init__(self) -> None:
            self.parts = {"head": Head(), "log": [1]}

    holder = Holder()
    twin = copied(holder)
    assert twin is not holder
    assert twin.parts["head"] is holder.parts["head"]
    assert twin.parts["log"] is not holder.parts["log"]
    stuck = Generator()
    assert copied(stuck) is stuck


def test_inside_transformers_the_same_contract_holds() -> None:
    model = engine("plain").target.model
    ids = torch.tensor([PROMPT])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    for make, own in ((Counts, "Counts"), (closure, "processor")):
        with pytest.raises(OptionError, match=f"cannot honour the logits processor {own}: it"):
            model.generate(ids, **options, logits_processor=[make()], custom_generate=dg.custom_generate(budget=4))
        right = model.generate(ids, **options, logits_processor=[make()])
        speculative = dg.custom_generate(budget=0)
        assert torch.equal(
            model.generate(ids, **options, logits_processor=[make()], custom_generate=speculative), right
        )
    batch = {"input_ids": ids.repeat(2, 1), "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with pytest.raises(OptionError, match=r"Counts.*one prompt per call"):
        model.generate(**batch, logits_processor=[Counts()], custom_generate=dg.custom_generate(budget=0))
