"""draftgraph bench: speed and acceptance against other decoders, on the user's own prompts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.text import Text

import draftgraph as dg
from draftgraph.cli.app import app, reporting
from draftgraph.cli.doctor import Device, Dtype, Threads, check_placement
from draftgraph.data import bundled_pair
from draftgraph.errors import DraftgraphError, OptionError
from draftgraph.lab.audit.report import progress_bar
from draftgraph.lab.bench import plot as bench_plot
from draftgraph.lab.bench.encode import Encoded, encode
from draftgraph.lab.bench.field import parse_spec
from draftgraph.lab.bench.machine import environment, peer_versions
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers import KINDS, Absent, Asked, load, parse_peer
from draftgraph.lab.bench.prompts import BUNDLED, Entry, PromptFile, read_prompts
from draftgraph.lab.bench.report import Report, refuse_unwritable, to_json
from draftgraph.lab.bench.session import Measured, Settings, measure
from draftgraph.lab.bench.tables import MANY, bench_report
from draftgraph.lab.doctor.diagnosis import PROMPTS
from draftgraph.sampling.params import SamplingParams
from draftgraph.view.sheet import to_markdown
from draftgraph.view.status import silent_loading, status
from draftgraph.view.tracefile import write_whole

TEMPERATURES, DRAFTED = (0.0, 1.0), (4,)
WORK, FIELD, OUTPUT = "What to generate", "Who is measured", "What to print"


@app.command("bench")
def bench_command(
    target: Annotated[str | None, typer.Argument(help="A folder or hub name; the bundled pair without.")] = None,
    drafter: Annotated[str | None, typer.Argument(help="Drafter; texts are looked up without.")] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Spec-Bench, MT-bench, HumanEval or other JSONL, or plain text (may be repeated); a few bundled ones without.",
            rich_help_panel=WORK,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Prompts per file and task, at most.", rich_help_panel=WORK)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens everybody generates.", rich_help_panel=WORK)] = 64,
    temperature: Annotated[
        list[float] | None, typer.Option(help="May be repeated; 0 and 1 without.", rich_help_panel=WORK)
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Turns per prompt.", rich_help_panel=WORK)] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampled texts.", rich_help_panel=WORK)] = 0,
    ours: Annotated[
        list[str] | None,
        typer.Option(
            help="Also draftgraph so: structure=chain,budget=4,rule=block (may be repeated).", rich_help_panel=FIELD
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Also {', '.join(KINDS)}: NAME or NAME=WEIGHTS[,DRAFTER] (may be repeated).", rich_help_panel=FIELD
        ),
    ] = None,
    num_assistant_tokens: Annotated[
        list[int] | None,
        typer.Option(
            help=f"Tokens that transformers and peers draft, constantly (may be repeated); {DRAFTED[0]} without.",
            rich_help_panel=FIELD,
        ),
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write bench.json, bench.md and bench.png here.", rich_help_panel=OUTPUT)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Measure draftgraph against transformers and other decoders: same weights, same prompts, in turns in one process.

    Exit code 1 if a greedy text of draftgraph is not the target's own (beyond near ties, in float32).

    Ctrl-C ends it with a report of what was measured so far.
    """
    with reporting():
        check_placement(dtype, device)
        settings = _settings(max_new_tokens, temperature, repeats, seed, ours, num_assistant_tokens)
        asked = [parse_peer(text) for text in peer or ()]
        files = _read(target, prompts)
        if out is not None:
            refuse_unwritable(out)
        if threads is not None:
            torch.set_num_threads(threads)
        pair: tuple[str | Path, str | Path | None] = (target, drafter) if target is not None else bundled_pair()
        with status(f"loading {target or 'the bundled pair'}", as_json) as tell, silent_loading():
            models = Models.load(*pair, dtype, device)
            encoded = encode(files, models, max_new_tokens, limit, tell)
            loaded = [load(one, models, torch.get_num_threads(), settings.drafted[0]) for one in asked]
        done = Measured(absent=[one for one in loaded if isinstance(one, Absent)])
        _warn(files, encoded, done.absent)
        where = environment(dg.__version__) | {"peers": peer_versions()}
        command = _command(target, drafter, prompts, limit, settings, asked, dtype, device, out)
        report = Report(command, settings, asked, models, where, files, encoded, done)
        peers = [one for one in loaded if not isinstance(one, Absent)]
        with silent_loading(), progress_bar("measuring", quiet=False) as told:
            try:
                measure(models, encoded.prompts, settings, peers, done, told)
            except KeyboardInterrupt:
                typer.echo("interrupted; what was measured so far:", err=True)
        _tell(report, out, as_json)
    raise typer.Exit(130 if not done.complete else 1 if report.wrong else 0)


def _settings(
    tokens: int,
    temperatures: Sequence[float] | None,
    repeats: int,
    seed: int,
    ours: Sequence[str] | None,
    drafted: Sequence[int] | None,
) -> Settings:
    """Checked settings. Raises OptionError."""
    chosen = list(dict.fromkeys(temperatures or TEMPERATURES))
    for temperature in chosen:
        SamplingParams(max_new_tokens=tokens, temperature=temperature)
    counts = list(dict.fromkeys(drafted or DRAFTED))
    if min(counts) < 1:
        raise OptionError(f"num_assistant_tokens={min(counts)} is not possible; write an integer >= 1")
    specs = {text: parse_spec(text) for text in ours or ()}
    return Settings(tokens, chosen, repeats, seed, list(specs.values()), counts)


def _read(target: str | None, prompts: Sequence[Path] | None) -> list[PromptFile]:
    """The files, or what is bundled. Raises OptionError for a file without prompts."""
    if prompts:
        return [read_prompts(path) for path in dict.fromkeys(prompts)]
    if target is None:
        return [read_prompts(BUNDLED)]
    entries = [Entry(f"bundled:{i}", "mixed", (text,), False) for i, text in enumerate(PROMPTS, 1)]
    return [PromptFile("the bundled prompts", "stories, code, lists, answers, letters", entries, ())]


def _warn(files: Sequence[PromptFile], encoded: Encoded, absent: Sequence[Absent]) -> None:
    """What and who is left out, on stderr. Raises OptionError if nothing is left to measure on."""
    for broken in (broken for file in files for broken in file.broken):
        typer.echo(f"warning: {broken}; left out", err=True)
    for name, reason in encoded.skipped[:MANY]:
        typer.echo(f"warning: {name}: {reason}; left out", err=True)
    if len(encoded.skipped) > MANY:
        typer.echo(f"warning: and {len(encoded.skipped) - MANY} more prompts left out", err=True)
    for one in absent:
        typer.echo(f"warning: {one.name}: {one.reason}", err=True)
    if not encoded.prompts:
        raise OptionError("no prompt is left to measure on; write a smaller --max-new-tokens, or give shorter prompts")


def _command(
    target: str | None,
    drafter: str | None,
    prompts: Sequence[Path] | None,
    limit: int | None,
    settings: Settings,
    peers: Sequence[Asked],
    dtype: str | None,
    device: str | None,
    out: Path | None,
) -> str:
    """The command line that measures this again, with what was the default written out."""
    words: list[object] = ["draftgraph", "bench", *([target] if target else ()), *([drafter] if drafter else ())]
    options: list[tuple[str, Sequence[object]]] = [
        ("prompts", prompts or ()),
        ("limit", [limit] if limit else ()),
        ("max-new-tokens", [settings.max_new_tokens]),
        ("temperature", [f"{temperature:g}" for temperature in settings.temperatures]),
        ("repeats", [settings.repeats]),
        ("seed", [settings.seed]),
        ("ours", [spec.text for spec in settings.specs]),
        ("peer", peers),
        ("num-assistant-tokens", settings.drafted),
        ("dtype", [dtype] if dtype else ()),
        ("device", [device] if device else ()),
        ("threads", [torch.get_num_threads()]),
        ("out", [out] if out else ()),
    ]
    words += [word for name, values in options for value in values for word in (f"--{name}", value)]
    return shlex.join(map(str, words))


def _tell(report: Report, out: Path | None, as_json: bool) -> None:
    """The report into files and onto stdout; neither a disk that has filled up nor a closed pipe takes the other one away."""
    failure: DraftgraphError | None = None
    written = ""
    if out is not None:
        try:
            written = _write(report, out)
        except DraftgraphError as error:
            failure = error
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        console = Console()
        for part in bench_report(report):
            console.print(part)
        if written:
            typer.echo(written)
    if failure is not None:
        raise failure


def _write(report: Report, out: Path) -> str:
    """Write the report; what was written, as a sentence. Raises OptionError."""
    write_whole(out / "bench.json", to_json(report.to_dict()))
    rows, parts = report.rows(), bench_report(report, everything=True)
    picture = bool(rows) and bench_plot.draw(rows, out / "bench.png")
    if rows:
        parts.append(Text("![times as fast as transformers plain](bench.png)" if picture else bench_plot.NEEDS))
    write_whole(out / "bench.md", to_markdown("Benchmark", parts))
    return (
        f"written: {out / 'bench.json'}, bench.md{', bench.png' if picture else f' ({bench_plot.NEEDS})' * bool(rows)}"
    )
