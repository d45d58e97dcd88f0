"""draftgraph doctor at work: a check-up, and if the models can run, a diagnosis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from draftgraph.cli.options import Chosen, Drafting, as_budget
from draftgraph.cli.work.engines import make_config, place
from draftgraph.cli.work.texts import read_file
from draftgraph.lab.doctor.checks import Checkup, check_up
from draftgraph.lab.doctor.diagnosis import TOKENS, Own, diagnose
from draftgraph.lab.doctor.prompts import encode_prompts
from draftgraph.lab.doctor.report import checkup_report, diagnosis_report, what_next
from draftgraph.lab.doctor.verdict import advice, verdict
from draftgraph.sampling.params import SamplingParams
from draftgraph.view.console import print_report
from draftgraph.view.status import silent_loading, status


@dataclass(frozen=True)
class Order:
    """What is to be diagnosed, as it was written; see the options of the command."""

    prompts: Sequence[str]
    file: Path | None
    chat: bool | None
    limit: float
    params: SamplingParams
    drafting: Drafting

    def texts(self) -> tuple[list[str], str]:
        """The user's prompts, and where they come from. Raises OptionError for a file without prompts."""
        if self.file is None:
            return [*self.prompts], "given with --prompt"
        read = [entry.turns[0] for entry in read_file(self.file).entries]
        where = f"of {str(self.file)!r}"
        return [*self.prompts, *read], f"given with --prompt, and {where}" if self.prompts else where

    def own(self) -> Own | None:
        """The way to draft that was asked for, if one was. Raises OptionError."""
        written = self.drafting.written
        if not written:
            return None
        config = make_config(self.drafting)
        names = [*written, *(["drafter"] if config.prediction is not None else [])]
        said = written | ({"budget": as_budget(written["budget"])} if "budget" in written else {})
        return Own({name: getattr(config, name) for name in names}, said)


def run_check(chosen: Chosen, as_json: bool) -> bool:
    """Check and report; whether the models can run."""
    checkup = _check(chosen, as_json)
    if as_json:
        typer.echo(json.dumps(checkup.to_dict()))
    else:
        print_report([*checkup_report(checkup), *([what_next(checkup)] if checkup.ok else ())])
    return checkup.ok


def run(chosen: Chosen, order: Order, as_json: bool) -> bool:
    """Check, measure and report; whether the models can run. Raises OptionError."""
    (texts, source), own = order.texts(), order.own()
    checkup = _check(chosen, as_json)
    if not as_json:
        print_report(checkup_report(checkup))
    if not checkup.ok:
        if as_json:
            typer.echo(json.dumps(checkup.to_dict()))
        return False
    prompts = encode_prompts(checkup, texts, source, order.chat, TOKENS[1])
    temperatures = sorted({0.0, float(order.params.temperature)})
    with status("measuring", as_json) as say, silent_loading():
        found = diagnose(checkup, prompts, temperatures, order.params, order.limit, say, own)
    if as_json:
        words = {"verdicts": [verdict(each, found.busy) for each in found.findings], "advice": advice(checkup, found)}
        typer.echo(json.dumps(checkup.to_dict() | found.to_dict() | words))
    else:
        print_report(diagnosis_report(checkup, found))
    return True


def _check(chosen: Chosen, quiet: bool) -> Checkup:
    place(chosen)
    target, drafter = chosen.pair
    with status("loading", quiet) as say, silent_loading():
        return check_up(
            target, drafter, chosen.dtype, chosen.device, say, chosen.trusted, chosen.backend, chosen.weights
        )
