"""draftgraph pair-check and draftgraph doctor: can this pair run here, and does it pay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.text import Text

import draftgraph as dg
from draftgraph.cli.app import app, reporting
from draftgraph.errors import OptionError, require
from draftgraph.lab.doctor.checks import Checkup, check_up
from draftgraph.lab.doctor.diagnosis import diagnose
from draftgraph.lab.doctor.report import checkup_report, diagnosis_report, what_next
from draftgraph.lab.doctor.verdict import advice, verdict
from draftgraph.lab.predict.prediction import Tell
from draftgraph.lab.texts import read_texts
from draftgraph.view.sheet import Sheet
from draftgraph.view.status import silent_loading, status

SAMPLING, TEXTS = "How to sample", "What to measure on"
DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")

Target = Annotated[str, typer.Argument(help="Target: a folder or hub name.")]
Drafter = Annotated[str | None, typer.Argument(help="Drafter with the target's tokenizer.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto; float32 on a CPU without.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; the GPU if there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("pair-check")
def pair_check(
    target: Target,
    drafter: Drafter = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check every rule of what can run, in seconds and without generating; exit code 1 if one fails."""
    with reporting():
        with status("loading", as_json) as tell, silent_loading():
            checkup = _check(target, drafter, dtype, device, threads, tell)
        if as_json:
            typer.echo(json.dumps(checkup.to_dict()))
        else:
            _print([*checkup_report(checkup), *([what_next(checkup)] if checkup.ok else ())])
    raise typer.Exit(0 if checkup.ok else 1)


@app.command()
def doctor(
    target: Target,
    drafter: Annotated[str | None, typer.Argument(help="Drafter; texts are looked up without.")] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A prompt as your users write it (may be repeated).", rich_help_panel=TEXTS),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Prompts: .jsonl, blank-line-separated, or one per line.", rich_help_panel=TEXTS),
    ] = None,
    limit: Annotated[float, typer.Option(min=1.0, help="Seconds to spend, about.", rich_help_panel=TEXTS)] = 60.0,
    temperature: Annotated[float, typer.Option(help="Measured beside temperature 0.", rich_help_panel=SAMPLING)] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 is off.", rich_help_panel=SAMPLING)] = 0,
    top_p: Annotated[float, typer.Option(help="Keep this much probability.", rich_help_panel=SAMPLING)] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Drop tokens below this share of the best.", rich_help_panel=SAMPLING)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the texts.", rich_help_panel=SAMPLING)] = 0,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Can these models run together, does speculation pay on this machine, and what to try instead; in about a minute.

    Exit code 0 if they run, whether it pays or not; 1 if they cannot run.
    """
    with reporting():
        params = dg.SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
        prompts = [*(prompt or ()), *([] if text is None else read_texts(text))]
        with status("loading", as_json) as tell, silent_loading():
            checkup = _check(target, drafter, dtype, device, threads, tell)
        if not as_json:
            _print(checkup_report(checkup))
        if not checkup.ok:
            if as_json:
                typer.echo(json.dumps(checkup.to_dict()))
            raise typer.Exit(1)
        with status("measuring", as_json) as tell, silent_loading():
            found = diagnose(checkup, prompts, sorted({0.0, float(temperature)}), params, limit, tell)
        if as_json:
            words = {"verdicts": [verdict(one, found.busy) for one in found.findings], "advice": advice(checkup, found)}
            typer.echo(json.dumps(checkup.to_dict() | found.to_dict() | words))
        else:
            _print(diagnosis_report(checkup, found))


def _check(
    target: str, drafter: str | None, dtype: str | None, device: str | None, threads: int | None, tell: Tell
) -> Checkup:
    check_placement(dtype, device)
    if threads is not None:
        torch.set_num_threads(threads)
    return check_up(target, drafter, dtype, device, tell)


def check_placement(dtype: str | None, device: str | None) -> None:
    """Refuse a type or a device that is not possible here. Raises OptionError."""
    require(dtype is None or dtype in DTYPES, "dtype", dtype, f"one of {', '.join(DTYPES)}")
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise OptionError(
                f"device={device!r} is not possible here ({str(error).splitlines()[0]}); write cpu"
            ) from None


def _print(parts: list[Sheet | Text]) -> None:
    console = Console()
    for part in parts:
        console.print(part)
