"""draftgraph table at work: texts are read, counted and written; a table is read and told of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from draftgraph.backends.fingerprint import tokenizer_fingerprint
from draftgraph.backends.load import read_tokenizer
from draftgraph.cli.program import tell
from draftgraph.draft.ngrams.counts import Counter
from draftgraph.draft.ngrams.file import StoredTable, read_table, write_table
from draftgraph.errors import OptionError
from draftgraph.lab.audit.report import progress_bar
from draftgraph.lab.corpora import files_of, pieces, texts_of
from draftgraph.view.console import print_report
from draftgraph.view.sheet import Sheet
from draftgraph.view.status import silent_loading
from draftgraph.view.tracefile import refuse_unwritable

MANY = 3
"""Files that are left out of which each is told."""
SHOWN = 16
"""Characters of a hash that a person compares."""
Told = Callable[[int, int], None]


def run_build(corpus: Sequence[Path], out: Path, model: str | Path, trusted: bool, as_json: bool) -> None:
    """Build a table. Raises OptionError for texts that cannot be read or hold nothing, TableError for a full disk."""
    refuse_unwritable(out)
    files = files_of(corpus)
    with silent_loading():
        tokenizer = read_tokenizer(model, trusted)
        counter = Counter(1 + max(tokenizer.get_vocab().values()))
        with progress_bar("counting", as_json) as told:
            left_out = _count(files, tokenizer, counter, told)
    for why in left_out[:MANY]:
        tell(f"warning: {why}; left out")
    if len(left_out) > MANY:
        tell(f"warning: and {len(left_out) - MANY} more files left out")
    counts = counter.counts()
    if not len(counts.single):
        raise OptionError("the texts hold no two tokens that follow each other; give others")
    _tell(write_table(out, counts, tokenizer_fingerprint(tokenizer)), as_json, len(left_out))


def _count(files: Sequence[tuple[Path, int, bool]], tokenizer: Any, counter: Counter, told: Told) -> list[str]:
    """Count files; returns why some of them were left out. Raises OptionError for one that was named itself."""
    done, total, left_out = 0, sum(size for _, size, _ in files), []
    for file, size, named in files:
        try:
            seen = 0
            for text in texts_of(file):
                read: list[int] = []
                for piece in pieces(text):
                    read += tokenizer(piece, add_special_tokens=False)["input_ids"]
                    seen += len(piece)
                    told(done + min(seen, size), total)  # a character is a byte or more
                counter.add(read)
        except OptionError as error:
            if named:
                raise
            left_out.append(str(error))
        done += size
        told(done, total)
    return left_out


def run_show(file: Path, as_json: bool) -> None:
    """Tell of a table. Raises TableError for a file that is none."""
    _tell(read_table(file), as_json)


def _tell(table: StoredTable, as_json: bool, left_out: int = 0) -> None:
    counts = table.counts
    said: dict[str, str | int] = {
        "file": str(table.file),
        "bytes": table.file.stat().st_size,
        "vocab": counts.vocab,
        "tokens": counts.num_tokens,
        "rows_behind_two": len(counts.pairs),
        "rows_behind_one": len(counts.single),
        "successors": len(counts.pairs.tokens) + len(counts.single.tokens),
        "tokenizer": table.tokenizer,
        "digest": table.digest,
    }
    if as_json:
        typer.echo(json.dumps(said | {"files_left_out": left_out}))
        return
    rows = [
        (name.replace("_", " "), f"{value:,}" if isinstance(value, int) else value[:SHOWN])
        for name, value in said.items()
    ]
    print_report([Sheet(f"table {table.file}", ("what", "value"), rows[1:]), Text(_use(table.file))])


def _use(file: Path) -> str:
    return f"use it with drafter='search', table={str(file)!r}; on the command line --drafter search --table {file}"
