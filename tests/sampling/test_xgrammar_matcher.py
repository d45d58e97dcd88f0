"""xgrammar behind the same protocol: where both packages know a grammar, its masks are those of llguidance; else it refuses."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from typing import Any

import pytest
import torch

pytest.importorskip("xgrammar")
pytest.importorskip("llguidance")

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.errors import OptionError
from draftgraph.sampling.grammar import READERS, Matcher

PERSON = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["red", "blue"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["kind", "age", "tags"],
    "additionalProperties": False,
}


@cache
def engine(**options: Any) -> dg.Engine:
    target, drafter = bundled_pair()
    return dg.Engine.from_pretrained(target, draft_model=drafter, backend="torch", **options)


def matchers(grammar: dg.Grammar) -> list[Matcher]:
    """The grammar as both packages read it, at the empty text."""
    known = engine(budget=8).grammars
    return [
        known._start(dg.Grammar(grammar.kind, grammar.text, False, reader), engine(budget=8).eos, set())
        for reader in READERS
    ]


def padded(mask: Any) -> torch.Tensor:
    size = engine(budget=8).target.vocab_size
    return torch.nn.functional.pad(torch.as_tensor(mask), (0, max(0, size - len(mask))))[:size]


@pytest.mark.parametrize(
    "grammar",
    [
        pytest.param(dg.Grammar.json({"type": "integer"}), id="integer"),
        pytest.param(dg.Grammar.json({"type": "integer", "minimum": -5, "maximum": 1234}), id="range"),
        pytest.param(
            dg.Grammar.json({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 99}), id="open range"
        ),
        pytest.param(dg.Grammar.json({"type": "number"}), id="number"),
        pytest.param(dg.Grammar.regex(r"a*b+c?"), id="repetitions"),
        pytest.param(dg.Grammar.regex(r"[^x]{2}"), id="classes"),
        pytest.param(dg.Grammar.regex(r"é+"), id="bytes"),
        pytest.param(dg.Grammar.regex(r"a|b|"), id="nothing at all"),
    ],
)
def test_masks_are_those_of_llguidance(grammar: dg.Grammar) -> None:
    for seed in range(6):
        chance = random.Random(seed)
        theirs, ours = matchers(grammar)
        for _ in range(30):
            expected, found = padded(theirs.mask()), padded(ours.mask())
            assert torch.equal(expected, found)
            going_on = [token for token in expected.nonzero().flatten().tolist() if token not in engine(budget=8).eos]
            if not going_on:
                break
            token = chance.choice(going_on)
            for each in (theirs, ours):
                each.accept(token)


@pytest.mark.parametrize("schema", [PERSON, {"anyOf": [{"const": "ab"}, {"type": "null"}]}])
def test_what_llguidance_writes_xgrammar_admits(schema: dict[str, Any]) -> None:
    """llguidance admits only the usual tokens of a word that has to come; xgrammar all that spell it."""
    for seed in range(6):
        chance = random.Random(seed)
        theirs, ours = matchers(dg.Grammar.json(schema))
        for _ in range(60):
            expected, found = padded(theirs.mask()), padded(ours.mask())
            assert not (expected & ~found).any()
            going_on = [token for token in expected.nonzero().flatten().tolist() if token not in engine(budget=8).eos]
            if not going_on:
                break
            token = chance.choice(going_on)
            for each in (theirs, ours):
                each.accept(token)


@pytest.mark.parametrize("whitespace", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_every_text_parses_and_is_that_of_plain_decoding(whitespace: bool, temperature: float) -> None:
    grammar = dg.Grammar.json(PERSON, whitespace=whitespace, reader="xgrammar")
    for seed in range(3):
        options = {"grammar": grammar, "temperature": temperature, "seed": seed, "max_new_tokens": 120, "rule": "agree"}
        result = engine(budget=8).generate("A person: ", **options)
        assert result.finish_reason == "stop"
        value = json.loads(result.text)
        assert 0 <= value["age"] <= 150
        assert len(value["tags"]) <= 2
        assert value["kind"] in ("red", "blue")
        assert engine(budget=8).generate("A person: ", **options, budget=0).token_ids == result.token_ids


def test_an_expression_is_followed_to_its_end() -> None:
    result = engine(budget=8).generate("x", grammar=dg.Grammar.regex("(yes|no), [a-z]{3}", reader="xgrammar"))
    assert re.fullmatch("(yes|no), [a-z]{3}", result.text)
    assert result.token_ids[-1] in engine(budget=8).eos


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        pytest.param(dg.Grammar("lark", 'start: "a"', reader="xgrammar"), "no Lark", id="lark"),
        pytest.param(dg.Grammar.regex("a^b", reader="xgrammar"), "ignores", id="an anchor inside"),
        pytest.param(dg.Grammar.regex("(?=a)b", reader="xgrammar"), "Lookahead", id="looking ahead"),
        *(
            pytest.param(dg.Grammar.json({"items": schema}, reader="xgrammar"), f"'{name}' exactly", id=name)
            for name, schema in [
                ("uniqueItems", {"type": "array", "uniqueItems": True}),
                ("not", {"not": {"type": "string"}}),
                ("oneOf", {"oneOf": [{"type": "string"}]}),
                ("format", {"type": "string", "format": "date"}),
                ("pattern", {"type": "string", "pattern": "ab"}),
                ("maxLength", {"type": "string", "maxLength": 3}),
                ("minimum", {"type": "number", "minimum": 3}),
            ]
        ),
    ],
)
def test_what_xgrammar_does_not_keep_is_refused_before_the_first_forward(grammar: dg.Grammar, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        engine(budget=8).generate("x", grammar=grammar)
