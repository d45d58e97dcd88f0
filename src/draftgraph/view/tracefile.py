"""A trace: one request, whole, in a JSON file: its text, its rounds, and what every token is called.

Pictures are drawn from it without a model or a tokenizer. A file that does not say all of this in the version known here is
refused before anything is drawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from draftgraph.errors import OptionError
from draftgraph.files import BrokenFileError, read_text, write_whole
from draftgraph.request.record import RoundRecord
from draftgraph.request.stats import PARTS, Stats
from draftgraph.strictjson import build, parse, seen
from draftgraph.types import ROOT
from draftgraph.view.printing import pieces

if TYPE_CHECKING:
    from draftgraph.request.result import Result

FORMAT, VERSION = "draftgraph trace", 1
MOST = 2**53
"""Larger whole numbers are not whole in a browser."""
LEAST_SECONDS = 1e-12
"""Nothing that is timed takes less."""


@dataclass(frozen=True)
class Trace:
    """What a file holds.

    prompt_ids, prompt_pieces  the prompt's tokens, and the text that each of them adds; token_ids, pieces  those of the output.
    words  every token of the drafts by its id: its text alone.
    choice  rule, structure, slots and reason, as in `Strategy.to_dict`.
    """

    prompt: str
    prompt_ids: list[int]
    prompt_pieces: list[str]
    text: str
    token_ids: list[int]
    pieces: list[str]
    words: dict[int, str]
    finish_reason: str | None
    seed: int
    choice: dict[str, str]
    stats: Stats
    rounds: list[RoundRecord]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, as the file has them."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def make_trace(result: Result, prompt: str, tokenizer: Any, before: Sequence[int] | None = None) -> Trace:
    """The trace of a request that `tokenizer` decodes.

    before  token ids of the prompt; None if `tokenizer` encoded it as it is.
    """
    before = list(tokenizer(prompt)["input_ids"] if before is None else before)
    named = {token for record in result.rounds for token in (*record.tokens, record.bonus, *record.onward)}
    return Trace(
        prompt,
        before,
        pieces(tokenizer, [], before),
        result.text,
        result.token_ids,
        pieces(tokenizer, before, result.token_ids),
        {token: tokenizer.decode([token]) for token in sorted(named)},
        result.finish_reason,
        result.seed,
        {name: str(value) for name, value in result.choice.to_dict().items()},
        result.stats,
        list(result.rounds),
    )


def refuse_unwritable(file: Path) -> None:
    """Refuse a place where no file can be written, before anything is generated. Raises OptionError."""
    folder = os.path.dirname(os.path.abspath(file))
    if (os.path.lexists(file) and not os.path.isfile(file)) or not os.path.isdir(folder):
        raise OptionError(f"cannot write {str(file)!r}; give a file in a folder that exists")


def save(trace: Trace, file: Path) -> None:
    """Write a trace. Raises OptionError if it cannot be written; an older file of that name is then still whole."""
    write_report(file, json.dumps(trace.to_dict(), allow_nan=False, separators=(",", ":")))


def write_report(file: Path, text: str) -> None:
    """Write a file whole or not at all. Raises OptionError if the folder, the disk or the name does not allow it."""
    try:
        write_whole(file, text)
    except OSError as error:
        raise OptionError(f"cannot write {str(file)!r}: {error.strerror}; give another file") from error


def load(file: Path) -> Trace:
    """Read a trace. Raises OptionError for a file that is none, is broken, or was written by a later version."""
    try:
        found = parse(read_text(file))
        _check_version(found)
        del found["format"], found["version"]
        trace: Trace = build(Trace, found, "the trace")
        _check_whole(trace)
    except OSError as error:
        raise OptionError(f"cannot read trace {str(file)!r}: {error.strerror}") from error
    except BrokenFileError as error:
        raise OptionError(
            f"{str(file)!r} cannot be drawn: {error}; write a trace with draftgraph generate ... --trace FILE"
        ) from error
    return trace


def _check_version(found: Any) -> None:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BrokenFileError(f"it does not say that it is a {FORMAT}")
    version = found.get("version")
    if type(version) is not int or version < 1:
        raise BrokenFileError(f"its version is {seen(version)}, not a number from 1 to {VERSION}")
    if version > VERSION:
        raise BrokenFileError(
            f"it is a trace of version {version}, and this draftgraph reads version {VERSION}; update draftgraph"
        )


def _check_whole(trace: Trace) -> None:
    if set(trace.choice) != {"rule", "structure", "slots", "reason"}:
        raise BrokenFileError("its choice does not say rule, structure, slots and reason")
    texts = ((trace.prompt_ids, trace.prompt_pieces), (trace.token_ids, trace.pieces))
    if any(len(ids) != len(added) for ids, added in texts):
        raise BrokenFileError("it does not say the text of every token")
    if sum(record.emitted for record in trace.rounds) > len(trace.token_ids):
        raise BrokenFileError("its rounds emit more tokens than it has")
    stats = trace.stats
    if set(stats.seconds) != set(PARTS) or not _are_seconds(stats.seconds.values()):
        raise BrokenFileError("its figures have other parts of time, or times that cannot be")
    figures = [each for each in (*vars(stats).values(), *stats.acceptance_histogram) if isinstance(each, (int, float))]
    if not _are_counts([*figures, *trace.prompt_ids, *trace.token_ids, *trace.words]):
        raise BrokenFileError("its figures or token ids are beyond what can be counted")
    for number, record in enumerate(trace.rounds, 1):
        _check_round(record, trace, number)


def _check_round(record: RoundRecord, trace: Trace, number: int) -> None:
    """What a picture relies on. Raises BrokenFileError."""
    n = len(record.tokens)
    places = [at for at in record.drafted_at if at not in (None, ROOT)]
    per_node = (record.parents, record.sampled, record.origins, record.scores, record.drafted_at)
    steps = zip(record.path, (ROOT, *record.path), strict=False)
    named = all(token in trace.words for token in (*record.tokens, record.bonus, *record.onward))
    held = {
        "has nodes without a parent, law, origin, score or place": all(len(values) == n for values in per_node),
        "has a parent that is not an earlier node": all(ROOT <= p < i for i, p in enumerate(record.parents)),
        "has a path that is not one": all(0 <= node < n and record.parents[node] == above for node, above in steps),
        "has probabilities of some nodes only": all(
            len(values) in (0, n) for values in (record.p, record.q, record.masses)
        ),
        "names a token without its text": named,
        "emits more than it accepted": 0 <= record.emitted <= len(record.path) + 1,
        "begins outside the text": 0 <= record.length - len(trace.prompt_ids) <= len(trace.token_ids),
        "has other parts of time": set(record.seconds) == set(PARTS),
        "has times that cannot be": _are_seconds(record.seconds.values()),
        "has scores that are none": _are_counts(record.scores),
        "has numbers beyond what can be counted": _are_counts(
            [record.num_passes, record.num_evaluations, *places, *record.onward, record.overlapped, record.rival]
        ),
        "has a node from nowhere": all(
            at is None or at in range(n) or at == ROOT
            for at, origin in zip(record.drafted_at, record.origins, strict=False)
            if origin in ("drafter", "merge")
        ),
    }
    for complaint, fine in held.items():
        if not fine:
            raise BrokenFileError(f"round {number} {complaint}")


def _are_counts(values: Iterable[Any]) -> bool:
    return all(0 <= value <= MOST for value in values)


def _are_seconds(values: Iterable[float]) -> bool:
    return all(value == 0.0 or LEAST_SECONDS <= value <= MOST for value in values)
