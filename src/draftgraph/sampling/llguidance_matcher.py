"""Grammars that llguidance reads: JSON schemas, regular expressions and Lark (docs.rs/llguidance)."""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from draftgraph.errors import LogitsError, OptionError
from draftgraph.sampling.grammar import Grammar


class Vocabulary:
    """A tokenizer's tokens as bytes, which grammars are matched against. Making one takes up to a second.

    vocab_size  of the target, which may be padded.

    Raises OptionError for a tokenizer whose tokens cannot be told.
    """

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        try:
            self.tokens: LLTokenizer = from_tokenizer(tokenizer, n_vocab=max(vocab_size, len(tokenizer)))
        except Exception as error:
            raise OptionError(
                f"grammars cannot be matched against this tokenizer ({type(tokenizer).__name__}: {error}); load a fast one "
                "(use_fast=True), or write grammar=an object with fork, accept and mask"
            ) from error

    def read(self, grammar: Grammar) -> LLMatcher:
        """The state of the empty text. Raises OptionError, in llguidance's words, for a grammar that is broken."""
        state = LLMatcher(self.tokens, _source(grammar), log_level=0)
        if state.is_error():
            raise OptionError(f"the {_KINDS[grammar.kind]} cannot be followed: {_first_words(state)}")
        return state

    def matcher(self, state: LLMatcher, eos: Set[int], stops: Set[int]) -> LLGuidanceMatcher:
        """A matcher that begins with a copy of a state.

        eos    ids that end the text, and are no part of it. stops  further ones: special tokens end it likewise, others are
               text, which the grammar has to admit.
        """
        ends = eos | {token for token in stops if self.tokens.is_special_token(token)}
        own = {token for token in self.tokens.eos_tokens if token < self.tokens.vocab_size}
        return LLGuidanceMatcher(state.deep_copy(), _ids(ends), _ids(own - ends))


Ids = np.ndarray[Any, np.dtype[np.int64]]
WHITESPACE = r"[ ]|\n[ \t]{0,20}"
"""Between the parts of JSON: one space, or a new line and its indent. Small models write more of it without end."""
_KINDS = {"json": "JSON schema", "regex": "regular expression", "lark": "Lark grammar"}


def _source(grammar: Grammar) -> str:
    if grammar.kind == "json":
        overrides = {} if grammar.whitespace else {"whitespace_flexible": False}
        defaults = {"whitespace_pattern": WHITESPACE} if grammar.whitespace else {}
        return str(LLMatcher.grammar_from_json_schema(json.loads(grammar.text), defaults, overrides))
    read = LLMatcher.grammar_from_regex if grammar.kind == "regex" else LLMatcher.grammar_from_lark
    return str(read(grammar.text))


class LLGuidanceMatcher:
    """A `Matcher` over a state of llguidance.

    state   the state, which this object owns.
    ends    i64[k] ids that end the text: allowed where it may end, and nowhere else.
    unused  i64[j] ids by which llguidance says the same, and which do not end this text.
    """

    def __init__(self, state: LLMatcher, ends: Ids, unused: Ids) -> None:
        self.state, self.ends, self.unused = state, ends, unused

    def fork(self) -> LLGuidanceMatcher:
        return LLGuidanceMatcher(self.state.deep_copy(), self.ends, self.unused)

    def accept(self, token: int) -> None:
        if not self.state.consume_token(token):
            raise LogitsError(f"llguidance cannot follow the text any further: {_first_words(self.state)}")

    def mask(self) -> torch.Tensor:
        """bool[n]. Raises LogitsError where no token of the vocabulary goes on, and the text is not complete."""
        bits = np.frombuffer(self.state.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, bitorder="little").view(np.bool_)
        may_end = self.state.is_accepting()
        if self.state.is_error() and not may_end:
            raise LogitsError(f"the grammar admits no token of this vocabulary here ({_first_words(self.state)})")
        mask[self.unused] = False
        mask[self.ends] = may_end
        if not may_end and not mask.any():
            raise LogitsError("the grammar admits no token of this vocabulary here")
        return torch.from_numpy(mask)


def _ids(tokens: Set[int]) -> Ids:
    return np.array(sorted(tokens), dtype=np.int64)


def _first_words(state: LLMatcher) -> str:
    said = " ".join(str(state.get_error()).split("<state>")[0].split())
    return said or str(state.stop_reason())
