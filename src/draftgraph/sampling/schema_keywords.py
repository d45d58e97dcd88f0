"""The keywords of a JSON schema: which there are, where schemas lie inside of schemas, and which are misspelt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from draftgraph.errors import OptionError

ANNOTATIONS = frozenset(
    [
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$schema",
        "$id",
        "$comment",
        "$anchor",
        "$vocabulary",
        "id",
    ]
)
"""Keywords that say nothing of what a value may be."""
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
LISTED = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
NESTED = (
    *("items", "additionalItems", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
"""Keywords that hold schemas by name, in a list, and one."""
KEYWORDS = ANNOTATIONS.union(
    NAMED,
    LISTED,
    NESTED,
    [
        "type",
        "enum",
        "const",
        "required",
        "multipleOf",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
    ],
    [
        "pattern",
        "format",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minContains",
        "maxContains",
        "minProperties",
        "maxProperties",
    ],
    [
        "dependencies",
        "dependentRequired",
        "contentEncoding",
        "contentMediaType",
        "$ref",
        "$dynamicRef",
        "$dynamicAnchor",
        "$recursiveRef",
    ],
    ["$recursiveAnchor", "nullable", "discriminator", "externalDocs", "xml", "example"],
)
"""Those of all drafts of JSON Schema, and of OpenAPI."""
_WORDS = {word.lower(): word for word in sorted(KEYWORDS - ANNOTATIONS)}
"""Those that say something, by how they look in lower case."""
LIKENESS = 0.8
"""A word that is so like a keyword is taken for a misspelt one; all others are annotations of somebody's own."""


def schemas_in(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A schema, and all that lie inside of it. Values, e.g. those of `enum` and `default`, are no schemas."""
    found: list[Any] = [schema]
    while found:
        each = found.pop()
        if not isinstance(each, Mapping):
            continue
        yield each
        for name in NAMED:
            found += each[name].values() if isinstance(each.get(name), Mapping) else ()
        for name in LISTED:
            listed = each.get(name)
            found += listed if isinstance(listed, Sequence) and not isinstance(listed, str) else ()
        found += [each[name] for name in NESTED if isinstance(each.get(name), Mapping)]


def refuse_misspelt(schema: Mapping[str, Any]) -> None:
    """Raise OptionError for a word that is almost a keyword: the standard has it ignored, as all that it does not know."""
    for each in schemas_in(schema):
        for name in each:
            meant = [] if name in KEYWORDS else get_close_matches(str(name).lower(), _WORDS, 1, LIKENESS)
            if meant:
                raise OptionError(
                    f"the schema has the keyword {name!r}, which JSON Schema ignores; write {_WORDS[meant[0]]!r}, or another "
                    "name for a note of your own"
                )
