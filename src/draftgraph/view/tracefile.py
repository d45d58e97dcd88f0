"""A trace: one request, whole, in a JSON file: its text, its rounds, and what every token is called.

Pictures are drawn from it without a model or a tokenizer. A file that does not say all of this in the version known here is
refused before anything is drawn.
"""

from __future__ import annotations

import json
import math
import os
import types
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from draftgraph.errors import OptionError
from draftgraph.request.record import RoundRecord
from draftgraph.request.result import Result
from draftgraph.request.stats import PARTS, Stats
from draftgraph.types import ROOT
from draftgraph.view.printing import pieces

FORMAT, VERSION = "draftgraph trace", 1


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


class _BrokenError(ValueError):
    """What is wrong with a file, in words."""


def make_trace(result: Result, prompt: str, tokenizer: Any) -> Trace:
    """The trace of a request that `tokenizer` encoded and decodes."""
    before = list(tokenizer(prompt)["input_ids"])
    named = {token for record in result.rounds for token in (*record.tokens, record.bonus)}
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
    if (file.exists() and not file.is_file()) or not file.absolute().parent.is_dir():
        raise OptionError(f"cannot write {str(file)!r}; give a file in a folder that exists")


def save(trace: Trace, file: Path) -> None:
    """Write a trace. Raises OptionError if it cannot be written; an older file of that name is then still whole."""
    write_whole(file, json.dumps(trace.to_dict(), allow_nan=False, separators=(",", ":")))


def write_whole(file: Path, text: str) -> None:
    """Write a file such that nobody ever sees half of it: beside its place, then moved there.

    Raises OptionError if the folder, the disk or the name does not allow it.
    """
    place = file.resolve()
    half = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        try:
            with half.open("x", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            half.replace(place)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(f"cannot write {str(file)!r}: {error.strerror}; give another file") from error


def load(file: Path) -> Trace:
    """Read a trace. Raises OptionError for a file that is none, is broken, or was written by a later version."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        _check_version(found)
        del found["format"], found["version"]
        trace: Trace = _build(Trace, found, "the trace")
        _check_whole(trace)
    except OSError as error:
        raise OptionError(f"cannot read trace {str(file)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or _BrokenError
        raise OptionError(
            f"{str(file)!r} cannot be drawn: {error}; write a trace with draftgraph generate ... --trace FILE"
        ) from error
    return trace


def _refuse_constant(name: str) -> None:
    raise _BrokenError(f"{name} is not a number")


def _check_version(found: Any) -> None:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _BrokenError(f"it does not say that it is a {FORMAT}")
    version = found.get("version")
    if type(version) is not int or version < 1:
        raise _BrokenError(f"its version is {version!r}, not a number from 1 to {VERSION}")
    if version > VERSION:
        raise _BrokenError(
            f"it is a trace of version {version}, and this draftgraph reads version {VERSION}; update draftgraph"
        )


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` as what an annotation asks for. Raises _BrokenError, with the place, if it is something else."""
    parts = get_args(kind)
    if get_origin(kind) in (types.UnionType, Union):
        kinds = [part for part in parts if part is not types.NoneType]
        return None if value is None else _build(kinds[0], value, where)
    if is_dataclass(kind):
        return _build_record(kind, value, where)
    if get_origin(kind) is dict and isinstance(value, dict):
        return {_key(parts[0], key, where): _build(parts[1], each, f"{where}, {key!r}") for key, each in value.items()}
    if get_origin(kind) in (list, tuple, Sequence) and isinstance(value, list):
        built = [_build(parts[0], each, f"{where}, number {i}") for i, each in enumerate(value)]
        return tuple(built) if get_origin(kind) is tuple else built
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) is not kind:
        raise _BrokenError(f"{where} is {str(value)[:40]!r}, not {getattr(kind, '__name__', kind)}")
    return value


def _build_record(kind: Any, value: Any, where: str) -> Any:
    names = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is field.default_factory is MISSING}
    said = set(value) if isinstance(value, dict) else set()
    if wrong := sorted((needed - said) | (said - names)):
        raise _BrokenError(f"{where} lacks, or has unexpected, {', '.join(map(repr, wrong[:4]))}")
    hints = get_type_hints(kind)
    return kind(**{name: _build(hints[name], value[name], f"{where}: {name}") for name in said})


def _key(kind: Any, key: str, where: str) -> Any:
    if kind is int and not key.isdecimal():
        raise _BrokenError(f"{where} has the key {key[:40]!r}, not a token id")
    return kind(key)


def _check_whole(trace: Trace) -> None:
    if set(trace.choice) != {"rule", "structure", "slots", "reason"}:
        raise _BrokenError("its choice does not say rule, structure, slots and reason")
    texts = ((trace.prompt_ids, trace.prompt_pieces), (trace.token_ids, trace.pieces))
    if any(len(ids) != len(added) for ids, added in texts):
        raise _BrokenError("it does not say the text of every token")
    if sum(record.emitted for record in trace.rounds) > len(trace.token_ids):
        raise _BrokenError("its rounds emit more tokens than it has")
    for number, record in enumerate(trace.rounds, 1):
        _check_round(record, trace, number)


def _check_round(record: RoundRecord, trace: Trace, number: int) -> None:
    """What a picture relies on. Raises _BrokenError."""
    n = len(record.tokens)
    per_node = (record.parents, record.sampled, record.origins, record.scores, record.drafted_at)
    steps = zip(record.path, (ROOT, *record.path), strict=False)
    named = all(token in trace.words for token in (*record.tokens, record.bonus))
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
        "has a node from nowhere": all(
            at is None or at in range(n) or at == ROOT
            for at, origin in zip(record.drafted_at, record.origins, strict=False)
            if origin in ("drafter", "merge")
        ),
    }
    for complaint, fine in held.items():
        if not fine:
            raise _BrokenError(f"round {number} {complaint}")
