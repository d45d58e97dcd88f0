"""Grammars through the engine: every text parses, drafts change none of it, and what cannot be followed is refused first."""

from __future__ import annotations

import json
import math
import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from transformers import GenerationConfig

import draftgraph as dg
from automata import Automaton
from draftgraph.data import bundled_pair
from models import perturbed, tiny_lm

pytest.importorskip("llguidance")

TEXTS = dict(prompt="Once upon a time", max_new_tokens=120)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
REGEX = r"(yes|no), [a-z ]{5,20}\."
LARK = 'start: greeting " " NAME "."\ngreeting: "Hello" | "Good day"\nNAME: /[A-Z][a-z]{1,8}/'


def is_json(text: str) -> bool:
    value = json.loads(text)
    return len(value["name"]) <= 12 and 0 <= value["age"] <= 150 and {"red", "blue"} >= set(value["tags"])


GRAMMARS: dict[str, tuple[dg.Grammar, Callable[[str], Any]]] = {
    "json": (dg.Grammar.json(SCHEMA, whitespace=False), is_json),
    "regex": (dg.Grammar.regex(REGEX), re.compile(REGEX).fullmatch),
    "lark": (dg.Grammar.lark(LARK), re.compile(r"(Hello|Good day) [A-Z][a-z]{1,8}\.").fullmatch),
}


@cache
def engine(**options: Any) -> dg.Engine:
    target, drafter = bundled_pair()
    draft_model = None if "drafter" in options else drafter
    return dg.Engine.from_pretrained(target, draft_model=draft_model, backend="torch", **options)


DRAFTS: dict[str, dict[str, Any]] = {
    "graph": {"budget": 8},
    "chain": {"budget": 4, "structure": "chain", "rule": "block"},
    "lookup": {"budget": 6, "drafter": "lookup"},
}


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.5])
@pytest.mark.parametrize("kind", GRAMMARS)
@pytest.mark.parametrize("drafts", DRAFTS)
def test_every_text_parses(drafts: str, kind: str, temperature: float) -> None:
    grammar, parses = GRAMMARS[kind]
    for seed in range(1 if temperature == 0 else 2):
        result = engine(**DRAFTS[drafts]).generate(grammar=grammar, temperature=temperature, seed=seed, **TEXTS)
        assert result.finish_reason == "stop"
        assert parses(result.text), result.text
        assert result.token_ids[-1] in engine(**DRAFTS[drafts]).eos


@pytest.mark.parametrize("kind", GRAMMARS)
def test_the_text_is_that_of_plain_decoding(kind: str) -> None:
    """At temperature 0, and for a seed under `agree`."""
    grammar, _ = GRAMMARS[kind]
    for options, temperature in (({}, 0.0), ({"rule": "agree"}, 0.9)):
        plain, drafted = engine(budget=0, **options), engine(budget=8, **options)
        for seed in range(1 if temperature == 0 else 5):
            params = dg.SamplingParams(grammar=grammar, temperature=temperature, seed=seed, max_new_tokens=60)
            first, second = (each.generate("Once upon a time", params) for each in (plain, drafted))
            assert first.token_ids == second.token_ids
            assert second.stats.num_rounds < first.stats.num_rounds


def test_a_batch_holds_grammars_of_its_own_for_each_request() -> None:
    params = [dg.SamplingParams(grammar=grammar, max_new_tokens=80) for grammar, _ in GRAMMARS.values()]
    together = engine(budget=8).generate(["Once upon a time"] * 4, [*params, dg.SamplingParams(max_new_tokens=80)])
    alone = [engine(budget=8).generate("Once upon a time", each) for each in params]
    assert [result.token_ids for result in together[:3]] == [result.token_ids for result in alone]
    assert together[3].token_ids == engine(budget=8).generate("Once upon a time", max_new_tokens=80).token_ids


def test_short_forms_say_the_same() -> None:
    assert dg.SamplingParams(grammar=SCHEMA).grammar == dg.Grammar.json(json.dumps(SCHEMA))
    assert dg.SamplingParams(grammar=json.dumps(SCHEMA)).grammar == dg.Grammar.json(SCHEMA)
    assert dg.SamplingParams(grammar="json").grammar == dg.Grammar.json({"type": "object"})
    assert dg.SamplingParams(grammar=REGEX).grammar == dg.Grammar.regex(REGEX)
    assert dg.SamplingParams(grammar=LARK).grammar == dg.Grammar.lark(LARK)
    assert len({dg.Grammar.json(SCHEMA), dg.Grammar.json(dict(SCHEMA)), dg.Grammar.json(SCHEMA, whitespace=False)}) == 2
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Answer", yes=(bool, ...))
    result = engine(budget=8).generate("Is it so?", grammar=model, max_new_tokens=40, temperature=0.5, seed=1)
    assert result.finish_reason == "stop"
    assert isinstance(model.model_validate_json(result.text).yes, bool)


REFUSED: dict[str, tuple[Any, str]] = {
    "a broken schema": ({"type": "thing"}, "JSON schema cannot be followed: Invalid type: thing"),
    "a keyword that is not honoured": ({"type": "array", "uniqueItems": True}, "Unimplemented keys"),
    "a schema nothing satisfies": ({"type": "integer", "minimum": 3, "maximum": 1}, "Unsatisfiable schema"),
    "a broken expression": ("[0-9", "regular expression cannot be followed: .*unclosed character class"),
    "look-ahead": ("(?=a)b", "look-around"),
    "an unknown rule": ("start: word", 'Lark grammar cannot be followed: .*unknown name: "word"'),
    "no rule start": (dg.Grammar.lark("a: /b/"), "no start rule found"),
    "an expression that nothing matches": (dg.Grammar.regex(r"[^\s\S]"), "admits no token of this vocabulary"),
    "another library's notation": ('root ::= "a"', "write a JSON schema .* or an object with fork, accept and mask"),
    "no JSON": ('{"type": ', "is no JSON"),
    "values that are no JSON": ({"enum": [object()]}, "cannot be written as JSON"),
    "a number": (3, "grammar=3 is not possible"),
    "several lines": ("a\nb", "is not possible"),
    "half a character": ("a\ud800", "surrogates"),
    "a matcher's class": (Automaton, "is not possible"),
    "a matcher that fails": (Automaton({}, vocab=2048), "cannot be followed: .*KeyError"),
    "a matcher that ends at once": (Automaton({"start": {}}, vocab=2048), "admits no token"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_before_the_first_forward(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar, message = REFUSED[name]
    plain = engine(budget=0)
    monkeypatch.setattr(plain.target, "forward", None)
    with pytest.raises(dg.errors.OptionError, match=message):
        plain.generate("Once", grammar=grammar)


def test_the_package_and_a_tokenizer_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_lm()
    with pytest.raises(dg.errors.OptionError, match="needs a tokenizer"):
        dg.Engine.from_pretrained(model).generate([1, 2], grammar="json")
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.delitem(sys.modules, "draftgraph.sampling.llguidance_matcher", raising=False)
    tokenizer = engine(budget=0).tokenizer
    with pytest.raises(dg.errors.OptionError, match=r"pip install 'draftgraph\[grammar\]'"):
        dg.Engine.from_pretrained(tiny_lm(vocab=2048), tokenizer=tokenizer).generate([1, 2], grammar="json")


def test_a_reader_that_is_not_installed_is_asked_for_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    monkeypatch.delitem(sys.modules, "draftgraph.sampling.xgrammar_matcher", raising=False)
    asked = dg.Grammar.json(SCHEMA, reader="xgrammar")
    fresh = dg.Engine.from_pretrained(tiny_lm(vocab=2048), tokenizer=engine(budget=0).tokenizer)
    with pytest.raises(
        dg.errors.OptionError, match=r"needs the package xgrammar.*pip install 'draftgraph\[xgrammar\]'"
    ):
        fresh.generate([1, 2], grammar=asked)
    with pytest.raises(dg.errors.OptionError, match="'llguidance' or 'xgrammar'"):
        dg.Grammar.json(SCHEMA, reader="outlines")


def test_the_length_may_cut_a_text() -> None:
    result = engine(budget=8).generate("Once upon a time", grammar=SCHEMA, max_new_tokens=5)
    assert (result.finish_reason, len(result.token_ids)) == ("length", 5)


def test_a_stop_string_ends_a_text_that_the_grammar_would_go_on_with() -> None:
    for budget in (0, 8):
        result = engine(budget=budget).generate(grammar=GRAMMARS["json"][0], stop='"age"', **TEXTS)
        assert (result.finish_reason, result.text[-1]) == ("stop", ",")


# Token ids, without a tokenizer.

VOCAB, EOS = 8, 7
COUNTED = Automaton(
    {"start": {0: "a", 1: "a"}, "a": {2: "b", 3: "start", EOS: None}, "b": {4: "end"}, "end": {EOS: None}}
)


@cache
def by_ids(eos: int | None = EOS, **options: Any) -> dg.Engine:
    model = tiny_lm(vocab=VOCAB, eos=eos)
    return dg.Engine.from_pretrained(model, draft_model=perturbed(model), **{"budget": 6, **options})


def text_or_error(engine: dg.Engine, params: dg.SamplingParams) -> tuple[list[int], str]:
    """The ids of a text, or those before an error, and what it says."""
    try:
        return engine.generate([1, 2], params).token_ids, ""
    except dg.errors.LogitsError as error:
        return error.partial.token_ids, str(error)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("budget", [0, 6])
def test_a_matcher_of_ones_own_is_followed_and_not_changed(budget: int, temperature: float) -> None:
    for seed in range(20):
        result = by_ids(budget=budget).generate([1, 2], grammar=COUNTED, temperature=temperature, seed=seed)
        assert COUNTED.admits(result.token_ids)
        assert result.finish_reason == ("length" if len(result.token_ids) == 128 else "stop")
    assert COUNTED.state == "start"


@pytest.mark.parametrize("budget", [0, 6])
def test_a_grammar_that_is_complete_ends_the_text_whatever_other_options_say(budget: int) -> None:
    """Without an end token, with one that is forbidden, and before min_new_tokens."""
    short = Automaton({"start": {0: "a", 3: "a"}, "a": {2: "end"}, "end": {EOS: None}})
    options: list[dict[str, Any]] = [{"min_new_tokens": 9}, {"logit_bias": {EOS: -math.inf}}]
    for each in options:
        result = by_ids(budget=budget).generate([1, 2], grammar=short, **each)
        assert (result.finish_reason, len(result.token_ids), result.token_ids[-1]) == ("stop", 3, EOS)
    endless = Automaton({"start": {0: "a", 3: "a"}, "a": {2: "end"}, "end": {}})
    for engine_of_ids in (by_ids(None, budget=budget), by_ids(budget=budget)):
        result = engine_of_ids.generate([1, 2], grammar=endless)
        assert (result.finish_reason, len(result.token_ids), result.token_ids[-1]) == ("stop", 2, 2)


def test_min_new_tokens_holds_while_the_grammar_can_go_on() -> None:
    forever = Automaton({"start": {0: "start", 1: "start", EOS: None}})
    for budget in (0, 6):
        result = by_ids(budget=budget).generate([1, 2], grammar=forever, min_new_tokens=30, temperature=1.0, seed=3)
        assert len(result.token_ids) >= 30


def test_options_that_leave_no_token_are_an_error_only_where_the_text_gets_there() -> None:
    """The text before it is not lost, and it is the same with drafts and without."""
    forbidden = {"logit_bias": {4: -math.inf}}
    outcomes = []
    for budget in (0, 6):
        seen = []
        for seed in range(30):
            params = dg.SamplingParams(grammar=COUNTED, temperature=1.0, seed=seed, max_new_tokens=30, **forbidden)
            seen.append(text_or_error(by_ids(budget=budget, rule="agree"), params))
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]
    errors = {(text[-1], error.split(";")[0]) for text, error in outcomes[0]}
    assert errors == {
        (EOS, ""),
        (2, "the grammar and the other options (logit_bias, logits_processors) leave no token here"),
    }


class Failing(Automaton):
    """A matcher that fails behind token 2, in one of its methods."""

    broken = "mask"

    def fork(self) -> Failing:
        made = type(self)(self.steps, self.state, self.vocab)
        made.broken = self.broken
        return made

    def accept(self, token: int) -> None:
        if token == 2 and self.broken == "accept":
            raise RuntimeError("no such state")
        super().accept(token)

    def mask(self) -> torch.Tensor:
        if self.state == "b" and self.broken == "mask":
            raise RuntimeError("no such state")
        return super().mask()


@pytest.mark.parametrize("broken", ["mask", "accept"])
def test_a_matcher_that_fails_below_a_rejected_token_disturbs_nobody(broken: str) -> None:
    failing = Failing(COUNTED.steps)
    failing.broken = broken
    outcomes = []
    for budget in (0, 6):
        seen = []
        for seed in range(30):
            params = dg.SamplingParams(grammar=failing, temperature=1.0, seed=seed, max_new_tokens=30)
            seen.append(text_or_error(by_ids(budget=budget, rule="agree"), params))
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]
    errors = {(text[-1], error) for text, error in outcomes[0]}
    assert errors == {(EOS, ""), (2, f"the grammar Failing failed in {broken}: RuntimeError: no such state")}


def test_processors_see_what_the_grammar_refuses_and_cannot_allow_it() -> None:
    rows: list[torch.Tensor] = []

    def lift(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows.append(scores.clone())
        return scores.nan_to_num(neginf=50.0)

    for budget in (0, 6):
        result = by_ids(budget=budget).generate(
            [1, 2], grammar=COUNTED, logits_processors=[lift], temperature=1.0, seed=1
        )
        assert COUNTED.admits(result.token_ids)
    assert any(bool((row == -torch.inf).any()) for row in rows)


def test_several_ends_and_stop_ids_end_a_text_where_the_grammar_does() -> None:
    """A stop id that is text is text: the grammar has to admit it."""
    plain = engine(budget=8)
    comma = plain.tokenizer.encode(",", add_special_tokens=False)[0]
    result = plain.generate(grammar=GRAMMARS["json"][0], stop_token_ids=[comma], **TEXTS)
    assert (result.finish_reason, result.token_ids[-1]) == ("stop", comma)
    result = plain.generate(grammar=dg.Grammar.regex("[ab]{3}"), ignore_eos=True, **TEXTS)
    assert (result.finish_reason, len(result.text)) == ("stop", 3)
    assert not plain.eos & set(result.token_ids)


def test_the_ends_are_those_of_the_request_and_not_the_tokenizers() -> None:
    target, _ = bundled_pair()
    other = 5
    config = GenerationConfig(eos_token_id=other)
    changed = dg.Engine.from_pretrained(target, backend="torch", generation_config=config, budget=4)
    result = changed.generate(grammar=dg.Grammar.regex("[ab]{3}"), **TEXTS)
    assert (result.finish_reason, len(result.token_ids) <= 4, result.token_ids[-1]) == ("stop", True, other)


class Recording(Automaton):
    """Keeps what any of its copies has accepted."""

    accepted: ClassVar[list[int]] = []

    def fork(self) -> Recording:
        return Recording(self.steps, self.state, self.vocab)

    def accept(self, token: int) -> None:
        assert bool(self.mask()[token])
        self.accepted.append(token)
        super().accept(token)


def test_a_matcher_accepts_tokens_of_its_mask_alone_and_no_end() -> None:
    for seed in range(10):
        by_ids().generate([1, 2], grammar=Recording(COUNTED.steps), temperature=1.0, seed=seed)
    assert EOS not in Recording.accepted
    assert set(Recording.accepted) == {0, 1, 2, 3, 4}


def test_threads_share_an_engine_and_its_grammars() -> None:
    grammar = GRAMMARS["json"][0]
    shared, texts = engine(budget=8), {}
    params = [dg.SamplingParams(grammar=grammar, temperature=1.0, seed=s, max_new_tokens=60) for s in range(8)]

    def run(seed: int) -> None:
        texts[seed] = shared.generate("Once upon a time", params[seed]).text

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert texts == {seed: shared.generate("Once upon a time", params[seed]).text for seed in range(8)}


def test_a_stream_and_a_closed_stream_leave_the_grammar_as_it_was() -> None:
    params = dg.SamplingParams(grammar=GRAMMARS["json"][0], max_new_tokens=60)
    whole = engine(budget=8).generate("Once upon a time", params)
    stream = engine(budget=8).stream("Once upon a time", params)
    next(stream)
    stream.close()
    events = list(engine(budget=8).stream("Once upon a time", params))
    assert "".join(event.text for event in events) == whole.text
    assert [token for event in events for token in event.token_ids] == whole.token_ids


def refused_copies(result: dg.Result, grammar: Automaton, prompt: Sequence[int]) -> int:
    """Copies that the grammar refuses at their place in a draft."""
    count = 0
    for record in result.rounds:
        text = [*prompt, *result.token_ids][len(prompt) : record.length]
        tree = dg.TokenTree(record.tokens, record.parents, [-1] * len(record.tokens))
        count += sum(not grammar.admits([*text, *tree.path_tokens(node)]) for node in range(len(tree)))
    return count


def test_copies_that_the_grammar_refuses_are_not_drafted() -> None:
    """Most of what follows in the prompt is refused."""
    prompt = [0, 3, 1, 2, 0, 5, 1, 2, 5, 5, 0, 2, 4] * 2
    model = tiny_lm(vocab=VOCAB, eos=EOS)
    engine_of_copies = dg.Engine.from_pretrained(model, drafter="lookup", budget=8)
    grammar = replace(COUNTED)
    refused = drafted = 0
    for seed in range(10):
        result = engine_of_copies.generate(prompt, grammar=grammar, temperature=1.0, seed=seed)
        ended = [record for record in result.rounds if EOS in record.tokens]
        refused += 0 if ended else refused_copies(result, grammar, prompt)
        drafted += result.stats.num_draft_tokens
    assert drafted > 20
    assert refused == 0
