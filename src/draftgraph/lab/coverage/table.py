"""The table of model types: what was found, by which versions, as it is kept in a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from draftgraph import strictjson
from draftgraph.errors import OptionError
from draftgraph.files import BrokenFileError, read_text

EQUAL, REFUSED, WRONG, CRASHED, UNUSABLE = "equal", "refused", "wrong", "crash", "unusable"
STATUSES = (EQUAL, REFUSED, WRONG, CRASHED, UNUSABLE)
TORCH, OPENVINO = "torch", "openvino"
BACKENDS = (TORCH, OPENVINO)
STORED = Path(__file__).with_name("models.json")
"""The table of the last whole run."""


@dataclass(frozen=True)
class Found:
    """What became of a model type on one backend.

    status  "equal": every text was that of transformers' own generate.
            "refused": an error told why before the first token.
            "wrong": a text was another. "crash": something else happened.
            "unusable": transformers itself does not run the type.
    drafts  names of the structures that were tried and equal, the one that "auto" chooses first.
    why     the cause, where it is not equal.
    """

    status: str
    drafts: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Row:
    """A model type, or a variant of one.

    name        as `config.model_type`; after a comma the options of a variant.
    class_name  of its model. backends  what was found, by the name of the backend.
    """

    name: str
    class_name: str
    backends: dict[str, Found] = field(default_factory=dict)

    def has(self, status: str) -> bool:
        return any(found.status == status for found in self.backends.values())

    def matches(self, word: str) -> bool:
        """Whether the name of the type or of its class holds a word, read without case, spaces and punctuation."""
        return _letters(word) in _letters(self.name) or _letters(word) in _letters(self.class_name)


@dataclass(frozen=True)
class Table:
    """All rows, and what they were made with.

    versions  of packages, by name. date  of the last run, ISO. rows  by their names.
    """

    versions: dict[str, str]
    date: str
    rows: list[Row]

    @property
    def backends(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row.backends))

    @property
    def types(self) -> list[Row]:
        """The rows that are no variants."""
        return [row for row in self.rows if "," not in row.name]

    def counts(self, backend: str) -> Counter[str]:
        """How many model types have each status on a backend; variants do not count."""
        return Counter(row.backends[backend].status for row in self.types if backend in row.backends)

    def only(self, names: Sequence[str] = (), status: str | None = None) -> Table:
        """The rows that match one of the names, and have the status. Raises OptionError if a name matches none."""
        for name in names:
            if not any(row.matches(name) for row in self.rows):
                raise OptionError(f"no model type matches {name!r}; `draftgraph models` lists them all")
        if status is not None and status not in STATUSES:
            raise OptionError(f"status={status!r} is not possible; write {', '.join(STATUSES)}")
        chosen = [row for row in self.rows if not names or any(map(row.matches, names))]
        return replace(self, rows=[row for row in chosen if status is None or row.has(status)])

    def with_rows(self, rows: Iterable[Row]) -> Table:
        """The table with what was found anew; what other backends have found stays."""
        held = {row.name: row for row in self.rows}
        for row in rows:
            before = held.get(row.name)
            held[row.name] = row if before is None else replace(row, backends={**before.backends, **row.backends})
        return replace(self, rows=[held[name] for name in sorted(held)])

    def to_json(self) -> str:
        """One row per line."""
        head = {"versions": self.versions, "date": self.date}
        rows = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in self.rows)
        return json.dumps(head, ensure_ascii=False)[:-1] + f', "rows": [\n{rows}\n]}}\n'


def read_table(file: Path = STORED) -> Table:
    """Raises OptionError if the file cannot be read or is no such table."""
    try:
        table: Table = strictjson.build(Table, strictjson.parse(read_text(file)), "the table")
    except (OSError, BrokenFileError) as error:
        raise OptionError(f"{str(file)!r} is no table of models ({error}); write another name") from error
    return table


def _letters(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())
