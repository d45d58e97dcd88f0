"""The table of model types as a report: what runs and how, and below it every cause of what does not."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.text import Text

from draftgraph.lab.coverage.table import CRASHED, EQUAL, REFUSED, STATUSES, UNUSABLE, WRONG, Found, Row, Table
from draftgraph.view.sheet import Cell, Sheet, to_markdown

Part = Sheet | Text
TITLE = "Models"
ABOUT = (
    "Every model type that AutoModelForCausalLM of transformers knows, built small with random weights in float32, with windows "
    "of 32 tokens where it has windows. Real rounds of draftgraph continue prompts of 12 and of 300 tokens. The drafts come from "
    "a model near the target, from a model of another architecture, and from the text. A type is equal if every greedy text is "
    "that of transformers' generate, and if a seed gives the same sampled text with drafts and without (rule agree). The cells "
    "name the structures that were tried and equal, the one that is chosen by default first. Names with a comma are options that "
    "checkpoints of a type use. Refused means an error before the first token, with the cause. Unusable means that transformers "
    "itself does not run the type."
)
COMMAND = (
    "Made by `draftgraph models --run --out FILE.json`, a quarter of an hour on one core for torch alone, and written by "
    "`draftgraph models --out docs/models.md`."
)
_STYLES = {EQUAL: "", REFUSED: "yellow", WRONG: "bold red", CRASHED: "bold red", UNUSABLE: "dim"}
_CHANGE = re.compile(r" \((a draft changes )?its logits (change )?by [^)]*\)")


def models_report(table: Table) -> list[Part]:
    """The rows, their causes, and what they amount to."""
    causes = _Causes()
    rows = [_cells(row, table.backends, causes) for row in table.rows]
    sheet = Sheet("", ("model type", *table.backends, "why not"), rows)
    return [sheet, *causes.told(), *summary(table)]


def summary(table: Table) -> Iterator[Text]:
    """How many types have each status, and what they were tried with."""
    for backend in table.backends:
        counts = table.counts(backend)
        branching = sum(len(row.backends[backend].drafts) > 1 for row in table.types if backend in row.backends)
        said = [f"{counts[status]} {status}" for status in STATUSES[1:]]
        kinds = f"{branching} with graphs, {counts[EQUAL] - branching} with chains alone"
        yield Text(
            f"{backend}: of {sum(counts.values())} model types {counts[EQUAL]} are equal ({kinds}), {', '.join(said)}"
        )
    versions = ", ".join(f"{name} {version}" for name, version in table.versions.items())
    yield Text(f"tried with {versions} on {table.date}")


def models_markdown(table: Table) -> str:
    """The report as a page."""
    sheet, *causes = models_report(table)[: -len(list(summary(table)))]
    return to_markdown(TITLE, [Text(ABOUT), *summary(table), Text(COMMAND), sheet, *causes])


class _Causes:
    """Causes by what they say, without the names of classes and types; each has a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, row: Row, found: Found) -> str:
        """The number of a cause; empty where there is none."""
        if not found.why:
            return ""
        said = _CHANGE.sub("", found.why)
        for name in filter(None, (row.class_name, row.name.partition(",")[0])):
            said = re.sub(rf"(?<![\w'/]){re.escape(name)}(?![\w'/])", "It", said, count=1)
        return str(self._numbers.setdefault(said, len(self._numbers) + 1))

    def told(self) -> list[Text]:
        return [Text(f"({number}) {said}.") for said, number in self._numbers.items()]


def _cells(row: Row, backends: list[str], causes: _Causes) -> list[Cell]:
    found = [row.backends.get(backend, Found("not tried")) for backend in backends]
    cells: list[Cell] = [Text(", ".join(each.drafts) or each.status, _STYLES.get(each.status, "dim")) for each in found]
    numbers = dict.fromkeys(filter(None, (causes.number(row, each) for each in found)))
    return [row.name, *cells, " ".join(f"({number})" for number in numbers)]
