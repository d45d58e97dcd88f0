"""Whether budget="auto" is ever slower than plain decoding, or far from the best fixed budget.

The bundled target with good and hostile
drafters, at four temperatures, on code, on prose and on noise.

    python bench/never_slower.py [--temperature 0 1] [--drafter own random large lookup] [--quick]

Writes never_slower.json (every run) and never_slower.md into --out; with --quick never_slower-quick.* instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from rich.progress import Progress
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from bench.clock import Run, measure
from bench.contenders import Ours, Task
from bench.machine import ROOT, environment, load_average, sentence
from bench.pairs import Pair, Prompt, load_pair
from bench.report import table

AGAIN, AUTO, NONE = "plain, again", "auto", "plain (budget 0)"
FIXED: dict[str, dict[str, Any]] = {
    NONE: {"budget": 0},
    "chain 2": {"structure": "chain", "budget": 2},
    "chain 4": {"structure": "chain", "budget": 4},
    "graph 4": {"budget": 4},
    "graph 8": {"budget": 8},
    "graph 16": {"budget": 16},
}
"""Fixed configurations. Hostile drafters meet only the first: drafting is what must not happen there."""
LEAST, CLOSE = 0.97, 0.95
"""What auto must reach: of the speed of plain decoding, and of that of the best fixed configuration."""
DRAFTERS = {
    "own": "the bundled drafter",
    "random": "random weights in the drafter's shape",
    "large": "random weights in the target's shape: every pass costs as much as a token",
    "lookup": "no model: what followed the same words earlier in the text",
}
PROSE = (
    "The harbour was quiet in the morning, and the fishermen spoke little while they mended their nets and",
    "On the following day the committee met again, although two of its members had already left the city,",
    "Es war einmal ein alter Müller, der hatte drei Söhne und eine Mühle am Rande eines großen Waldes, und",
    "My grandmother used to say that bread should rest twice as long as you are willing to wait, because",
)


@dataclass(frozen=True)
class Row:
    """One drafter, temperature and kind of text: medians over turns of the ratio of seconds, with the 10th and 90th percentile.

    again   plain decoding against itself: how far to trust the others. plain  plain / auto.
    fixed   fastest fixed configuration / auto, and which it is (picked on the same turns, which favours it).
    rounds  target calls per token under auto; drafted  nodes per call.
    """

    drafter: str
    temperature: float
    text: str
    again: tuple[float, float, float]
    plain: tuple[float, float, float]
    fixed: tuple[float, float, float]
    best: str
    rounds: float
    drafted: float

    @property
    def kept(self) -> bool:
        return self.plain[0] >= LEAST and self.fixed[0] >= CLOSE


def pairs_of(pair: Pair, names: Sequence[str]) -> Iterator[tuple[str, Pair]]:
    """The target with each of the drafters."""
    for name in names:
        drafter = {"random": pair.drafter, "large": pair.target}.get(name)
        yield name, pair if drafter is None else replace(pair, drafter=_random(drafter))


def _random(model: PreTrainedModel) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(model.config).float().eval()


def texts(pair: Pair, count: int) -> dict[str, list[Prompt]]:
    """Prompts by kind; noise is token ids drawn uniformly, which nothing compresses."""
    draw = np.random.default_rng(0).integers(3, pair.target.config.vocab_size, (count, 40))
    prose = [Prompt(f"prose {i}", "own", pair.tokenizer(text)["input_ids"]) for i, text in enumerate(PROSE[:count])]
    noise = [Prompt(f"noise {i}", "random ids", ids) for i, ids in enumerate(draw.tolist())]
    return {"code": list(pair.prompts[:count]), "prose": prose, "noise": noise}


def contenders(drafter: str, pair: Pair, task: Task) -> list[Ours]:
    asked = {"drafter": "lookup"} if drafter == "lookup" else {}
    fixed = FIXED if drafter in ("own", "lookup") else {NONE: FIXED[NONE]}
    named = {AUTO: {}, AGAIN: FIXED[NONE], **fixed}
    return [Ours(name, pair, task, **options, **asked) for name, options in named.items()]


def summarise(drafter: str, text: str, runs: Iterable[Run]) -> Row:
    by_name: dict[str, dict[tuple[str, int], Run]] = {}
    for run in runs:
        by_name.setdefault(run.contender, {})[run.prompt, run.repeat] = run
    auto = by_name[AUTO]

    def ratio(name: str, over: dict[tuple[str, int], Run]) -> tuple[float, float, float]:
        shares = [by_name[name][turn].seconds / run.seconds for turn, run in over.items()]
        low, middle, high = (float(x) for x in np.percentile(shares, [10, 50, 90]))
        return middle, low, high

    best = min((name for name in FIXED if name in by_name), key=lambda name: ratio(name, auto)[0])
    tokens, rounds = sum(run.tokens for run in auto.values()), sum(run.rounds for run in auto.values())
    return Row(
        drafter,
        next(iter(auto.values())).temperature,
        text,
        ratio(NONE, by_name[AGAIN]),
        ratio(NONE, auto),
        ratio(best, auto),
        best,
        rounds / tokens,
        sum(run.nodes for run in auto.values()) / rounds,
    )


def markdown(report: dict[str, Any], rows: Sequence[Row]) -> str:
    settings = report["settings"]
    out = ["# Never slower", "", sentence(report["environment"]), ""]
    out += [
        'The bundled target (12 layers, 10.2 M) with budget="auto", against plain decoding of the same engine and against fixed '
        f"budgets: {', '.join(FIXED)}. {settings['prompts']} prompts of each kind, {settings['repeats']} turns each, "
        f"{settings['tokens']} new tokens; everybody once per turn, in rotating order, reading the prompt included. Ratios of "
        "seconds within a turn, the other one's / auto's: above 1 auto is faster. Median, and 10th to 90th percentile.",
        "",
        *(f"- {name}: {what}." for name, what in DRAFTERS.items()),
        f"- Wanted: at least {LEAST} of plain decoding, and {CLOSE} of the best fixed budget (picked on the same turns).",
        "- plain, again: plain decoding against itself in the same turns, which shows what noise there is.",
        "",
        "Reproduce: `python bench/never_slower.py`.",
        "",
    ]
    head = ["drafter, text", "T", "plain, again", "plain / auto", "best fixed / auto", "best fixed", "calls per token"]
    lines = [
        [
            f"{row.drafter}, {row.text}",
            f"{row.temperature:g}",
            _ratio(row.again),
            _ratio(row.plain),
            _ratio(row.fixed),
            row.best,
            f"{row.rounds:.2f}{'' if row.kept else ' **missed**'}",
        ]
        for row in rows
    ]
    missed = sum(not row.kept for row in rows)
    return "\n".join([*out, *table(head, lines), "", f"{len(rows) - missed} of {len(rows)} rows are as wanted.", ""])


def write(report: dict[str, Any], rows: Sequence[Row], runs: Sequence[Run], folder: Path, name: str) -> None:
    """Markdown and JSON; called after every block, so that an interrupted run leaves what it has."""
    report["environment"]["load_after"] = load_average()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(markdown(report, rows), encoding="utf-8")
    body = report | {"rows": [asdict(row) for row in rows], "run_fields": list(Run.__dataclass_fields__)}
    lines = ",\n".join(json.dumps(list(vars(run).values())) for run in runs)
    head = json.dumps(body, indent=1, ensure_ascii=False)[:-2]
    (folder / f"{name}.json").write_text(f'{head},\n "runs": [\n{lines}\n]\n}}\n', encoding="utf-8")


def _ratio(ratio: tuple[float, float, float]) -> str:
    return f"{ratio[0]:.2f} ({ratio[1]:.2f}–{ratio[2]:.2f})"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure whether the automatic budget is ever slower.")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.6, 1.0, 1.5], metavar="T")
    parser.add_argument("--drafter", nargs="+", choices=list(DRAFTERS), default=list(DRAFTERS))
    parser.add_argument("--text", nargs="+", choices=["code", "prose", "noise"], default=["code", "prose", "noise"])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one prompt, 8 tokens, once")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of test material")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args(arguments)
    if min(options.prompts, options.repeats, options.tokens, options.threads) < 1 or min(options.temperature) < 0:
        parser.error("counts must be at least 1, and temperatures at least 0")
    if options.quick:
        options.prompts, options.repeats, options.tokens = 1, 1, 8
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    settings = {name: getattr(options, name) for name in ("prompts", "repeats", "tokens", "threads")}
    report: dict[str, Any] = {"settings": settings, "environment": environment()}
    pair = load_pair("bundled", options.data, options.prompts)
    rows: list[Row] = []
    every: list[Run] = []
    wanted = {kind: prompts for kind, prompts in texts(pair, options.prompts).items() if kind in options.text}
    with Progress() as progress:
        bar = progress.add_task("", total=len(options.drafter) * len(options.temperature) * len(wanted))
        for drafter, its in pairs_of(pair, options.drafter):
            for temperature in options.temperature:
                everybody = contenders(drafter, its, Task(temperature, options.tokens))
                for kind, prompts in wanted.items():
                    progress.update(bar, description=f"{drafter} T={temperature:g} {kind}")
                    runs = measure(everybody, prompts, options.repeats, drafter, temperature)
                    rows.append(summarise(drafter, kind, runs))
                    every += runs
                    write(report, rows, every, options.out, "never_slower-quick" if options.quick else "never_slower")
                    progress.advance(bar)
    print(markdown(report, rows))


if __name__ == "__main__":
    main()
