"""draftgraph judge at work: the pair, its questions, what was found, and the judge that comes out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import typer

from draftgraph.backends.load import read_config
from draftgraph.cli.options import Chosen
from draftgraph.cli.program import tell
from draftgraph.cli.work.engines import load_engine, place
from draftgraph.engine.config import Config
from draftgraph.errors import OptionError
from draftgraph.lab.judge.mine import drafter_of
from draftgraph.lab.judge.project import MineSettings, fit, mine
from draftgraph.lab.judge.questions import find_check, read_questions
from draftgraph.view.status import silent_loading, status

LEAST_AUC = 0.6
"""A head below it tells hardly anything apart."""


def run_mine(chosen: Chosen, prompts: Path, out: Path, check: str, most: int, batch: int, as_json: bool) -> None:
    """Mine, and print what was found. Raises OptionError, ModelError, PairError, TrainingError."""
    checker = find_check(check)
    place(chosen)
    source = str(chosen.pair[0])
    with silent_loading():
        layers = read_config(source, chosen.trusted).get_text_config(decoder=True).num_hidden_layers
    engine = load_engine(chosen, Config(), quiet=as_json, max_batch=batch)
    if engine.tokenizer is None:
        raise OptionError(f"{source} has no tokenizer, which prompts and answers need; keep one beside the model")
    questions = read_questions(prompts, engine.tokenizer)
    asked = hashlib.sha256(json.dumps([[q.prompt, q.reference] for q in questions]).encode()).hexdigest()
    fingerprints = engine.target.fingerprint, drafter_of(engine).fingerprint
    settings = MineSettings(source, layers, *fingerprints, asked, check, most)
    with status(f"mining {len(questions)} questions", as_json) as say:

        def told(done: int, known: int) -> None:
            say(f"mining: {done} of {len(questions)} questions, {known} mismatches")

        found = mine(engine, settings, questions, checker, out, batch, told)
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(
        f"{found['answered_right']} of {found['questions']} questions were answered right; of {found['mismatches']} mismatches "
        f"in them {found['important']} are important"
    )
    typer.echo(f"go on with `draftgraph judge fit {out} --out FOLDER`")


def run_fit(mined: Path, out: Path, seed: int, as_json: bool) -> None:
    """Fit, and print how good the head is. Raises TrainingError, ModelError."""
    report = fit(mined, out, seed)
    if as_json:
        typer.echo(json.dumps(report))
        return
    _tell(out, report)


def _tell(out: Path, report: dict[str, Any]) -> None:
    auc, counts = report["auc"], report["mismatches"]["test"]
    typer.echo(
        f"held out, {sum(counts.values())} mismatches of other questions: AUC {auc['test']:.2f}; {auc['shuffled']:.2f} if the "
        "labels are shuffled"
    )
    for cut in report["cuts"]:
        typer.echo(
            f"threshold {cut['threshold']:.3g} forgives {cut['forgiven']:.0%} of them, and {cut['missed']:.0%} of the important "
            "ones"
        )
    if auc["test"] < LEAST_AUC:
        tell(f"warning: AUC {auc['test']:.2f} tells hardly anything apart; mine more questions")
    typer.echo(
        f"use it with rule='judge', judge={str(out)!r}, at threshold={report['threshold']:.3g} if you name no other; answers "
        "are then NOT those of the target alone"
    )
