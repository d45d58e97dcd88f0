"""`draftgraph judge` as two folders: of findings (mine), and of the judge that is fitted to them (fit).

The folder of findings has settings.json, journal.jsonl, states/ (a file per question) and, once it is complete,
target.safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from draftgraph.backends.checkpoint import read_safetensors
from draftgraph.backends.taps import PREFIX
from draftgraph.engine.engine import Engine
from draftgraph.errors import ModelError
from draftgraph.files import read_text
from draftgraph.lab.judge.fit import fit_head, read_mined, write_judge
from draftgraph.lab.judge.journal import Progress
from draftgraph.lab.judge.mine import Miner, drafter_of
from draftgraph.lab.judge.questions import Check, Question
from draftgraph.lab.judge.states import states_of
from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.whole_files import write_bytes

PROBED = 16
"""Tokens that a target is known by."""
SETTINGS, TARGET = "settings.json", "target.safetensors"


@dataclass(frozen=True)
class MineSettings:
    """What the findings depend on; another value begins another folder.

    layers   of the target; its last hidden state is read.
    target, drafter  their fingerprints. name  of the target.
    questions  hash of the questions. check  name of the checker. most  tokens of an answer.
    """

    name: str
    layers: int
    target: str
    drafter: str
    questions: str
    check: str
    most: int

    @property
    def tap(self) -> str:
        return f"{PREFIX}{self.layers}"


def mine(
    engine: Engine,
    settings: MineSettings,
    questions: Sequence[Question],
    check: Check,
    folder: Path,
    batch: int,
    tell: Callable[[int, int], None] = lambda done, known: None,
) -> dict[str, Any]:
    """Mine questions into a folder, or go on where a killed run was. Returns what was found, in numbers. Raises TrainingError."""
    drafter_of(engine)
    _begin(folder, settings)
    found = Miner(engine, settings.tap, questions, check, folder, settings.most, batch, tell).run()
    probe = _probe(questions, found)
    known = states_of(engine.target, settings.tap, probe)
    content = safetensors.torch.save({"probe": torch.tensor(probe), "known": known})
    write_bytes(folder / TARGET, content)
    return _counts(found)


def _begin(folder: Path, settings: MineSettings) -> None:
    file, said = folder / SETTINGS, json.dumps(asdict(settings), indent=1)
    if file.exists() and file.read_text(encoding="utf-8") != said:
        raise TrainingError(
            f"the mining in {folder} was begun with other models, questions or settings ({file}); write the same ones to go on, "
            "or delete the folder to begin anew"
        )
    write_bytes(file, said.encode())


def _probe(questions: Sequence[Question], found: Sequence[Progress]) -> list[int]:
    """Tokens of a question and its answer."""
    tokens = [*questions[0].prompt, *(found[0].own or ())][-PROBED:]
    return tokens if len(tokens) > 1 else tokens * 2


def _counts(found: Sequence[Progress]) -> dict[str, Any]:
    mismatches = [mismatch for known in found for mismatch in known.mismatches]
    important = sum(mismatch.important for mismatch in mismatches)
    return {
        "questions": len(found),
        "answered_right": sum(known.right for known in found),
        "mismatches": len(mismatches),
        "important": important,
    }


def fit(folder: Path, out: Path, seed: int = 0) -> dict[str, Any]:
    """Fit a judge to the findings in a folder. Returns its report. Raises TrainingError, ModelError."""
    try:
        settings = MineSettings(**json.loads(read_text(folder / SETTINGS)))
    except OSError as error:
        raise TrainingError(
            f"cannot read {folder / SETTINGS}: {error.strerror or error}; name a folder of `draftgraph judge mine`"
        ) from error
    except (ValueError, TypeError) as error:
        raise TrainingError(f"{folder / SETTINGS} is broken ({error}); mine into another folder") from error
    if not (folder / TARGET).exists():
        raise TrainingError(f"the mining in {folder} is not complete; run the same `draftgraph judge mine` again first")
    target = read_safetensors(folder / TARGET)
    mined = read_mined(folder)
    if "probe" not in target or target.get("known", torch.empty(0)).dim() != 2:
        raise ModelError(f"{folder / TARGET} is broken; delete it, and run the same `draftgraph judge mine` again")
    fitted = fit_head(mined, seed)
    report = {"seed": seed, "mined_with": asdict(settings)}
    write_judge(out, fitted, settings.tap, target["probe"].tolist(), target["known"], report)
    return {"threshold": fitted.threshold, **report, **fitted.to_dict()}
