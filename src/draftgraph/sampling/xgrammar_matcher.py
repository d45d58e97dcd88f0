"""Grammars that xgrammar reads: JSON schemas of keywords that it keeps exactly, and regular expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from typing import Any

import torch

from draftgraph.errors import LogitsError, OptionError, first_line
from draftgraph.sampling.grammar import Grammar
from draftgraph.sampling.schema_keywords import ANNOTATIONS, schemas_in

try:
    import xgrammar
except ImportError:  # extra "xgrammar"
    xgrammar = None

KEPT = ANNOTATIONS.union(
    [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "enum",
        "const",
        "anyOf",
        "$ref",
        "$defs",
    ],
    ["definitions", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
)
"""Keywords that xgrammar 0.2 keeps. Others it ignores (`not`, `uniqueItems`), widens (`format`, `oneOf`), narrows (`pattern`), or
follows with texts that are no JSON (`minLength`, `maxLength`: they admit control characters)."""
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
"""Kept for integers; for other numbers it bounds the number of digits too."""
MOST_WHITESPACE = 21
"""Characters between the parts of JSON: a new line and its indent."""
_ANCHOR = re.compile(r"(?<![\\\[])\^|(?<!\\)\$")
"""Ends inside of an expression, which xgrammar ignores."""


class Vocabulary:
    """A tokenizer's tokens as xgrammar knows them. vocab_size  of the target, which may be padded.

    Raises OptionError for a tokenizer whose tokens cannot be told, ImportError where xgrammar is not installed.
    """

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        if xgrammar is None:
            raise ImportError("No module named 'xgrammar'")
        self.vocab_size = max(vocab_size, len(tokenizer))
        self.end: int | None = tokenizer.eos_token_id
        self._special = set(tokenizer.all_special_ids)
        try:
            ends = [] if self.end is None else [self.end]
            info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=self.vocab_size, stop_token_ids=ends)
        except Exception as error:
            raise OptionError(
                f"grammars cannot be matched against this tokenizer by xgrammar ({type(tokenizer).__name__}: "
                f"{first_line(error)}); write reader='llguidance'"
            ) from error
        self._compiler = xgrammar.GrammarCompiler(info)

    def read(self, grammar: Grammar) -> xgrammar.CompiledGrammar:
        """The grammar, compiled. Raises OptionError for one that is broken, or that xgrammar would not keep exactly."""
        if grammar.kind == "lark":
            raise OptionError("xgrammar reads no Lark; write reader='llguidance'")
        try:
            return self._json(grammar) if grammar.kind == "json" else self._regex(grammar.text)
        except RuntimeError as error:
            raise OptionError(f"xgrammar cannot follow this {grammar.kind}: {first_line(error)}") from error

    def _json(self, grammar: Grammar) -> xgrammar.CompiledGrammar:
        schema = json.loads(grammar.text)
        for each in schemas_in(schema):
            _refuse_unkept(each)
        form = {"max_whitespace_cnt": MOST_WHITESPACE} if grammar.whitespace else {"separators": (",", ":")}
        return self._compiler.compile_json_schema(
            grammar.text, any_whitespace=grammar.whitespace, strict_mode=False, **form
        )

    def _regex(self, pattern: str) -> xgrammar.CompiledGrammar:
        if _ANCHOR.search(pattern.removeprefix("^").removesuffix("$")):
            raise OptionError(
                "xgrammar ignores ^ and $ inside of an expression; write reader='llguidance', or \\^ and \\$"
            )
        return self._compiler.compile_regex(pattern)

    def matcher(self, state: xgrammar.CompiledGrammar, eos: Set[int], stops: Set[int]) -> XGrammarMatcher:
        """A matcher of the empty text.

        eos    ids that end the text, and are no part of it. stops  further ones: special tokens end it likewise, others are
               text, which the grammar has to admit.
        """
        ends = sorted(eos | (stops & self._special))
        unused = [] if self.end is None or self.end in ends else [self.end]
        return XGrammarMatcher(xgrammar.GrammarMatcher(state), self.vocab_size, ends, unused)


def _refuse_unkept(schema: Mapping[str, Any]) -> None:
    """Raise OptionError for a keyword that xgrammar does not keep exactly."""
    unkept = [name for name in schema if name not in KEPT and not name.startswith("x-")]
    if schema.get("type") != "integer":
        unkept += [name for name in BOUNDS if name in schema]
    if unkept:
        raise OptionError(f"xgrammar does not keep the keyword {unkept[0]!r} exactly; write reader='llguidance'")


class XGrammarMatcher:
    """A `Matcher` over a state of xgrammar.

    state   the state, which this object owns.
    ends    ids that end the text: allowed where it may end, and nowhere else.
    unused  ids by which xgrammar says the same, and which do not end this text.
    """

    def __init__(self, state: xgrammar.GrammarMatcher, vocab_size: int, ends: list[int], unused: list[int]) -> None:
        self.state, self.vocab_size, self.ends, self.unused = state, vocab_size, ends, unused

    def fork(self) -> XGrammarMatcher:
        return XGrammarMatcher(self.state.fork(), self.vocab_size, self.ends, self.unused)

    def accept(self, token: int) -> None:
        if not self.state.accept_token(token):
            raise LogitsError("xgrammar cannot follow the text any further")

    def mask(self) -> torch.Tensor:
        """bool[n]. Raises LogitsError where no token of the vocabulary goes on, and the text is not complete."""
        bits = xgrammar.allocate_token_bitmask(1, self.vocab_size)
        self.state.fill_next_token_bitmask(bits)
        shifts = torch.arange(32, dtype=torch.int32)
        mask: torch.Tensor = (bits[0, :, None] >> shifts & 1).flatten()[: self.vocab_size].bool()
        may_end = self.state.is_completed()
        mask[self.unused] = False
        mask[self.ends] = may_end
        if not may_end and not mask.any():
            raise LogitsError("the grammar admits no token of this vocabulary here")
        return mask
