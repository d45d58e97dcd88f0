"""draftgraph bench at work: reading prompts, measuring everybody in turns, reporting."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.text import Text

import draftgraph as dg
from draftgraph.cli.options import Chosen, Drafting
from draftgraph.cli.program import FAILED, INTERRUPTED, tell
from draftgraph.cli.work.engines import make_config, place
from draftgraph.errors import DraftgraphError, OptionError
from draftgraph.lab.audit.report import progress_bar
from draftgraph.lab.bench import plot as bench_plot
from draftgraph.lab.bench.encode import Encoded, encode
from draftgraph.lab.bench.field import Spec, parse_spec
from draftgraph.lab.bench.machine import environment, peer_versions
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers import Absent, load, parse_peer
from draftgraph.lab.bench.prompts import BUNDLED, Entry, PromptFile, read_prompts
from draftgraph.lab.bench.record import Report, refuse_unwritable, to_json
from draftgraph.lab.bench.report import MANY, bench_report
from draftgraph.lab.bench.session import Measured, Settings, measure
from draftgraph.lab.doctor.prompts import KINDS, MESSAGES, PROMPTS
from draftgraph.sampling.params import SamplingParams
from draftgraph.view.console import print_report
from draftgraph.view.printable import on_one_line
from draftgraph.view.sheet import to_markdown
from draftgraph.view.status import silent_loading, status
from draftgraph.view.tracefile import write_report

TEMPERATURES, DRAFTED = (0.0, 1.0), (4,)


@dataclass(frozen=True)
class Order:
    """What is to be measured, as it was written; see the options of the command."""

    prompts: Sequence[Path]
    limit: int | None
    max_new_tokens: int
    temperatures: Sequence[float] | None
    repeats: int
    seed: int
    ours: Sequence[str]
    drafting: Drafting
    peers: Sequence[str]
    num_assistant_tokens: Sequence[int] | None
    out: Path | None

    def settings(self) -> Settings:
        """Checked settings. Raises OptionError."""
        chosen = list(dict.fromkeys(self.temperatures or TEMPERATURES))
        for temperature in chosen:
            SamplingParams(max_new_tokens=self.max_new_tokens, temperature=temperature)
        counts = list(dict.fromkeys(self.num_assistant_tokens or DRAFTED))
        if min(counts) < 1:
            raise OptionError(f"num_assistant_tokens={min(counts)} is not possible; write an integer >= 1")
        specs = list({text: parse_spec(text) for text in self.ours}.values())
        specs += [asked_spec(self.drafting)] if self.drafting.written else []
        return Settings(self.max_new_tokens, chosen, self.repeats, self.seed, specs, counts)


def run(chosen: Chosen, order: Order, as_json: bool) -> int:
    """Measure and report; the exit code. Raises OptionError, ModelError or PairError before anything is measured."""
    place(chosen)
    settings = order.settings()
    asked = [parse_peer(text) for text in order.peers]
    files = None if not order.prompts and chosen.named else read_files(order.prompts)
    if order.out is not None:
        refuse_unwritable(order.out)
    with status(f"loading {chosen.title}", as_json) as say, silent_loading():
        models = Models.load(*chosen.pair, chosen.dtype, chosen.device, chosen.trusted, chosen.backend, chosen.weights)
        files = files or [bundled_texts(models)]
        encoded = encode(files, models, order.max_new_tokens, order.limit, say)
        loaded = [load(each, models, torch.get_num_threads(), settings.drafted[0]) for each in asked]
    done = Measured(absent=[each for each in loaded if isinstance(each, Absent)])
    warn(files, encoded, done.absent)
    where = environment(dg.__version__) | {"peers": peer_versions()}
    report = Report(command_line(chosen, order, settings), settings, asked, models, where, files, encoded, done)
    peers = [each for each in loaded if not isinstance(each, Absent)]
    with silent_loading(), progress_bar("measuring", quiet=False) as told:
        try:
            measure(models, encoded.prompts, settings, peers, done, told)
        except KeyboardInterrupt:
            tell("interrupted; what was measured so far:")
    report_all(report, order.out, as_json)
    return INTERRUPTED if not done.complete else FAILED if report.wrong else 0


def read_files(prompts: Sequence[Path]) -> list[PromptFile]:
    """The files, or the bundled one. Raises OptionError for a file without prompts."""
    return [read_prompts(path) for path in dict.fromkeys(prompts)] if prompts else [read_prompts(BUNDLED)]


def bundled_texts(models: Models) -> PromptFile:
    """Beginnings of texts for models that are not the bundled ones, or messages where the tokenizer has a chat template."""
    chat = bool(getattr(models.tokenizer, "chat_template", None))
    texts = enumerate(MESSAGES if chat else PROMPTS, 1)
    entries = [Entry(f"bundled:{i}", "mixed", (text,), chat) for i, text in texts]
    return PromptFile("the bundled prompts", KINDS, entries, ())


def warn(files: Sequence[PromptFile], encoded: Encoded, absent: Sequence[Absent]) -> None:
    """What and who is left out, on stderr. Raises OptionError if nothing is left to measure on."""
    for broken in (broken for file in files for broken in file.broken):
        tell(f"warning: {broken}; left out")
    for name, reason in encoded.skipped[:MANY]:
        tell(f"warning: {name}: {reason}; left out")
    if len(encoded.skipped) > MANY:
        tell(f"warning: and {len(encoded.skipped) - MANY} more prompts left out")
    for one in absent:
        tell(f"warning: {one.name}: {one.reason}")
    if not encoded.prompts:
        raise OptionError("no prompt is left to measure on; write a smaller --max-new-tokens, or give shorter prompts")


def asked_spec(drafting: Drafting) -> Spec:
    """The configuration that the shared options ask for. Raises OptionError."""
    config = make_config(drafting)
    names = (*drafting.written, *(["drafter"] if drafting.prediction is not None else []))
    options = {name: getattr(config, name) for name in names}
    words = [f"{name}={value}" for name, value in drafting.written.items() if name != "prediction"]
    return Spec(",".join([*words, *(["drafter=text"] if drafting.prediction is not None else [])]), options)


def command_line(chosen: Chosen, order: Order, settings: Settings) -> str:
    """The command line that measures this again, with what was the default written out."""
    options: dict[str, Sequence[object]] = {
        "prompts": order.prompts,
        "limit": [order.limit] if order.limit else (),
        "max-new-tokens": [settings.max_new_tokens],
        "temperature": [f"{each:g}" for each in settings.temperatures],
        "repeats": [settings.repeats],
        "seed": [settings.seed],
        "ours": list(dict.fromkeys(order.ours)),
        **{name: [value] for name, value in order.drafting.written.items()},
        "peer": order.peers,
        "num-assistant-tokens": settings.drafted,
        "dtype": [chosen.dtype] if chosen.dtype else (),
        "device": [chosen.device] if chosen.device else (),
        "threads": [torch.get_num_threads()],
        "backend": [chosen.backend] if chosen.backend != "auto" else (),
        "weights": [chosen.weights] if chosen.weights else (),
        "out": [order.out] if order.out else (),
    }
    words: list[object] = ["draftgraph", "bench", *chosen.named, *(["--trust-remote-code"] if chosen.trusted else [])]
    words += [word for name, values in options.items() for value in values for word in (f"--{name}", value)]
    return shlex.join(map(str, words))


def report_all(report: Report, out: Path | None, as_json: bool) -> None:
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
        print_report(bench_report(report))
        if written:
            typer.echo(on_one_line(written))
    if failure is not None:
        raise failure


def _write(report: Report, out: Path) -> str:
    """Write the report; what was written, as a sentence. Raises OptionError."""
    write_report(out / "bench.json", to_json(report.to_dict()))
    rows, parts = report.rows(), bench_report(report, everything=True)
    picture = bool(rows) and bench_plot.draw(rows, out / "bench.png")
    if rows:
        parts.append(Text("![times as fast as transformers plain](bench.png)" if picture else bench_plot.NEEDS))
    write_report(out / "bench.md", to_markdown("Benchmark", parts))
    return (
        f"written: {out / 'bench.json'}, bench.md{', bench.png' if picture else f' ({bench_plot.NEEDS})' * bool(rows)}"
    )
