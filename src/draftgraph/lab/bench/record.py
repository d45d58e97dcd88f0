"""Everything that a session leaves: what was asked, where, on what, every run, and the rows made of them.

The JSON object, version 1. Times are in seconds, `null` is "does not apply".

    format, version    "draftgraph bench", 1
    command            the command line that measures this again
    complete           false if Ctrl-C ended it; every whole turn before that is in it
    settings           max_new_tokens, temperatures, repeats, seed, ours, peers, drafted, threads
    models             target, drafter (sources), their parameters, dtype, device, window
    environment        machine, versions, load_before, load_after, share_of_core, peers {package: version}
    prompts            files [{path, form, prompts, used, broken [{line, reason}]}], used [{name, task, turn, tokens}],
                       skipped [{name, reason}], conversations (a sentence)
    contenders         [{name, status "ran" | "absent", note}]; who failed midway is in it twice, with what was measured before
    rows               [{temperature, task (null: all), contender, tokens_per_second, ratio {median, low, high, p10, p90,
                       prompts}, verdict "wins" | "even" | "loses" | "unsure", acceptance, acceptance_error, target_calls,
                       nodes, tokens, runs, prompts, same}]; ratio: times as fast as transformers plain, see `summary.Ratio`;
                       acceptance: tokens per target call
    differences        [{contender, prompt, task, ours, position, expected, got, gap, near_tie}] at temperature 0,
                       see `agreement.Departure`
    wrong              sentences: why the exit code is 1; empty otherwise
    run_fields, runs   every run as a list, see `summary.Run`; prompt is an index into prompts.used
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from draftgraph.errors import OptionError
from draftgraph.lab.bench.contenders import PLAIN
from draftgraph.lab.bench.encode import Encoded
from draftgraph.lab.bench.field import NOTES
from draftgraph.lab.bench.machine import load_average
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers import Asked
from draftgraph.lab.bench.prompts import PromptFile
from draftgraph.lab.bench.session import Measured, Settings
from draftgraph.lab.bench.summary import Row, Run, summarise
from draftgraph.lab.turns import share_of_core

FORMAT, VERSION = "draftgraph bench", 1
PROBE = 1 << 20
"""Bytes that must fit on the disk before anything is measured; reports are smaller."""


@dataclass(frozen=True)
class Report:
    """What was asked and what came out."""

    command: str
    settings: Settings
    peers: Sequence[Asked]
    models: Models
    environment: dict[str, Any]
    files: Sequence[PromptFile]
    encoded: Encoded
    measured: Measured

    def rows(self) -> list[Row]:
        return summarise(self.measured.runs, [prompt.task for prompt in self.encoded.prompts])

    @property
    def exact(self) -> bool:
        """Whether the arithmetic is fine enough for greedy differences to be mistakes."""
        return self.models.dtype in (torch.float32, torch.float64)

    @property
    def wrong(self) -> list[str]:
        return self.measured.wrong(self.exact)

    def notes(self) -> dict[str, str]:
        """What the names of contenders stand for."""
        kinds = {asked.name: asked.kind.note for asked in self.peers}
        return {
            name: NOTES.get(name) or kinds.get(name.split(" ")[0], "")
            for name in self.measured.ran
            if name in NOTES or name.split(" ")[0] in kinds
        }

    def to_dict(self) -> dict[str, Any]:
        done, used, notes = self.measured, self.encoded.prompts, self.notes()
        plain = [run for run in done.runs if run.contender == PLAIN]
        load = {"load_after": load_average(), "share_of_core": share_of_core(plain) if plain else None}
        return {
            "format": FORMAT,
            "version": VERSION,
            "command": self.command,
            "complete": done.complete,
            "settings": _settings(self.settings, self.peers),
            "models": self.models.to_dict(),
            "environment": self.environment | load,
            "prompts": {
                "files": [_file(file, {prompt.name for prompt in used}) for file in self.files],
                "used": [{"name": p.name, "task": p.task, "turn": p.turn, "tokens": len(p.ids)} for p in used],
                "skipped": [{"name": name, "reason": reason} for name, reason in self.encoded.skipped],
                "conversations": self.encoded.how,
            },
            "contenders": [
                *({"name": name, "status": "ran", "note": notes.get(name, "")} for name in done.ran),
                *({"name": one.name, "status": "absent", "note": one.reason} for one in done.absent),
            ],
            "rows": [asdict(row) | {"verdict": row.ratio.verdict} for row in self.rows()],
            "differences": [
                {
                    "contender": one.contender,
                    "prompt": used[one.prompt].name,
                    "task": used[one.prompt].task,
                    "ours": one.ours,
                }
                | asdict(one.departure)
                for one in done.differences
            ],
            "wrong": self.wrong,
            "run_fields": [one.name for one in fields(Run)],
            "runs": [[round(v, 6) if isinstance(v, float) else v for v in vars(run).values()] for run in done.runs],
        }


def _settings(settings: Settings, peers: Sequence[Asked]) -> dict[str, Any]:
    return {
        "max_new_tokens": settings.max_new_tokens,
        "temperatures": list(settings.temperatures),
        "repeats": settings.repeats,
        "seed": settings.seed,
        "ours": [spec.text for spec in settings.specs],
        "peers": [str(peer) for peer in peers],
        "drafted": list(settings.drafted),
        "threads": torch.get_num_threads(),
    }


def _file(file: PromptFile, used: Set[str]) -> dict[str, Any]:
    return {
        "path": file.path,
        "form": file.form,
        "prompts": len(file.entries),
        "used": sum(entry.name in used for entry in file.entries),
        "broken": [{"line": one.line, "reason": one.reason} for one in file.broken],
    }


def to_json(report: Mapping[str, Any]) -> str:
    """Readable JSON with one run per line."""
    head = {name: value for name, value in report.items() if name != "runs"}
    lines = ",\n".join(json.dumps(run) for run in report["runs"])
    return f'{json.dumps(head, indent=1, ensure_ascii=False)[:-2]},\n "runs": [\n{lines}\n]\n}}\n'


def refuse_unwritable(folder: Path) -> None:
    """Make the folder of a report, and refuse it before anything is measured. Raises OptionError.

    A full disk lets files be created and not filled, so a file of PROBE bytes is written and removed.
    """
    probe = folder / f".{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with probe.open("xb") as out:
                out.write(bytes(PROBE))
                out.flush()
                os.fsync(out.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(
            f"cannot write into {str(folder)!r} ({error.strerror}); give a folder with room, or leave out --out"
        ) from None
