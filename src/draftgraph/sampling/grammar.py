"""What a text may be: a JSON schema, a regular expression, a Lark grammar, or a matcher of the user's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from draftgraph.errors import OptionError, require
from draftgraph.sampling.schema_keywords import refuse_misspelt
from draftgraph.values import has_surrogates

POSSIBLE = (
    "a JSON schema (a dict, its text, or a pydantic model), 'json' for any JSON object, a regular expression, a Lark grammar "
    "with a rule start, a dg.Grammar, or an object with fork, accept and mask; None is no grammar"
)
READERS = ("llguidance", "xgrammar")
"""Packages that read grammars; the first one is the default."""
_START = re.compile(r"^\s*\??start(\.-?\d+)?\s*:", re.MULTILINE)
"""The rule that every Lark grammar begins with."""


@runtime_checkable
class Matcher(Protocol):
    """A grammar's state behind a text. Write your own for grammars that `Grammar` cannot state.

    The object that a request is given stands for the empty text; it is forked before it is used, and never changed.
    """

    def fork(self) -> Matcher:
        """A copy: what one of the two accepts, the other does not see."""
        ...

    def accept(self, token: int) -> None:
        """Go on by one token. Only tokens of the mask are accepted, and none that ends the text."""
        ...

    def mask(self) -> torch.Tensor:
        """bool[n]: which token ids may come next; ids from n on may not. An array or a list of bools will do.

        Where the text may end, end-of-sequence ids are among them. A mask without any token says that the text is complete:
        it ends there without an end-of-sequence token.
        """
        ...


@dataclass(frozen=True)
class Grammar:
    """What the text of a request must be, as a whole. Made by `json`, `regex` and `lark`; the same text is the same grammar.

    kind        "json", "regex" or "lark".
    text        the schema as JSON, the expression, or the grammar.
    whitespace  whether JSON may have a space, or a new line with its indent, between its parts.
    reader      the package that reads it when a request begins: "llguidance" (`pip install 'draftgraph[grammar]'`), or "xgrammar"
                (`pip install 'draftgraph[xgrammar]'`), whose masks take less time, and which knows less.
    """

    kind: str
    text: str
    whitespace: bool = True
    reader: str = READERS[0]

    def __post_init__(self) -> None:
        require(self.kind in ("json", "regex", "lark"), "kind", self.kind, "'json', 'regex' or 'lark'")
        require(isinstance(self.text, str), "text", self.text, "a text")
        require(not has_surrogates(self.text), "text", self.text, "a text without lone surrogates")
        require(isinstance(self.whitespace, bool), "whitespace", self.whitespace, "True or False")
        require(self.reader in READERS, "reader", self.reader, "'llguidance' or 'xgrammar'")
        if self.kind == "json":
            _schema_text(self.text)

    @classmethod
    def json(cls, schema: Any = None, *, whitespace: bool = True, reader: str = READERS[0]) -> Grammar:
        """JSON that follows a schema: a mapping, its text, or a class with `model_json_schema` (pydantic).

        schema      None: any JSON object. Properties come in the schema's order. A keyword that cannot be honoured is refused,
                    and one that is misspelt.
        whitespace  whether there may be one space, or a new line with up to 20 spaces or tabs, between its parts.

        Raises OptionError for what is no schema.
        """
        return cls("json", _schema_text(schema), whitespace, reader)

    @classmethod
    def regex(cls, pattern: str, *, reader: str = READERS[0]) -> Grammar:
        """A regular expression, which the whole text matches: no look-around, no back-references.

        Its syntax is that of the Rust crate regex. With reader="xgrammar" it is that of JavaScript: \\d, \\w and \\s are ASCII
        only, and a dot matches a line end too.
        """
        require(isinstance(pattern, str), "pattern", pattern, "a regular expression, as a text")
        return cls("regex", pattern, reader=reader)

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """A context-free grammar in llguidance's variant of Lark, with a rule `start`."""
        require(isinstance(text, str), "text", text, "a Lark grammar, as a text")
        return cls("lark", text)


def read_grammar(given: Any) -> Grammar | Matcher | None:
    """What `SamplingParams.grammar` means. Raises OptionError for what is no grammar."""
    if given is None or isinstance(given, Grammar):
        return given
    if isinstance(given, Mapping) or hasattr(given, "model_json_schema"):
        return Grammar.json(given)
    if isinstance(given, str):
        if given == "json":
            return Grammar.json()
        if given.lstrip().startswith("{"):  # no expression begins so
            return Grammar.json(given)
        if _START.search(given):
            return Grammar.lark(given)
        one_line = given != "" and "\n" not in given and "::=" not in given
        require(one_line, "grammar", given, POSSIBLE)
        return Grammar.regex(given)
    require(isinstance(given, Matcher) and not isinstance(given, type), "grammar", given, POSSIBLE)
    matcher: Matcher = given
    return matcher


def _schema_text(schema: Any) -> str:
    if schema is None:
        schema = {"type": "object"}
    elif hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    elif isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise OptionError(
                f"the schema is no JSON ({error}); write a JSON schema, e.g. {{'type': 'object'}}"
            ) from None
    require(isinstance(schema, Mapping), "schema", schema, "a JSON schema: a mapping, its text, or a pydantic model")
    try:
        text = json.dumps(dict(schema), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(
            f"the schema cannot be written as JSON ({error}); write a JSON schema of plain values"
        ) from None
    refuse_misspelt(schema)
    return text
