"""Whether budget="auto" is ever slower than plain decoding, or far from the best fixed budget.

The bundled target with good and hostile drafters, at four temperatures, on code, on prose and on noise.

    python experiments/never_slower.py [--temperature 0 1] [--drafter own random large lookup] [--quick]

Writes never_slower.json (every run) and never_slower.md into --out; with --quick never_slower-quick.* instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
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

from draftgraph.request.stats import PARTS
from experiments.clock import Run, measure
from experiments.contenders import Ours, Task
from experiments.machine import ROOT, environment, load_average, sentence
from experiments.pairs import Pair, Prompt, load_pair
from experiments.report import table

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
    "It has long been known that rivers carry more sand in spring than in autumn; what was not known is why",
    "Le conseil municipal a décidé hier soir de fermer la vieille école, et les habitants du quartier ont",
    "She put the letter back into the drawer, locked it, and for the first time in years she did not",
    "The third movement opens slowly, with two horns above the strings, before the theme of the first is",
)
TWICE = ("own",)
"""Drafters that get twice the turns above temperature 0, where fixed budgets sample other texts than auto does."""
PICKING = 200
"""Resamples of turns for an interval."""


Ratio = tuple[float, float, float]
"""A ratio of summed seconds, and the 5th and 95th percentile of it over resampled prompts."""


@dataclass(frozen=True)
class Row:
    """One drafter, temperature and kind of text: seconds of another way over those of auto, so above 1 auto is faster.

    again   plain decoding over plain decoding: how far to trust the others. plain  plain decoding.
    fixed   the fixed configuration that was fastest on the other half of the prompts, as a user could have tuned it.
    best    which it was, on either half. rounds  target calls per token under auto; drafted  nodes per call.
    forwards   ms per token in forward passes: plain decoding's target; auto's target and drafter.
    """

    drafter: str
    temperature: float
    text: str
    again: Ratio
    plain: Ratio
    fixed: Ratio
    best: str
    rounds: float
    drafted: float
    forwards: tuple[float, float, float]

    @property
    def ideal(self) -> float:
        """plain / auto if nothing but the forwards took time: τ T(1) / (T(N) + drafting), prompt reading on both sides."""
        plain, target, drafter = self.forwards
        return plain / (target + drafter)

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


def summarise(drafter: str, text: str, runs: Sequence[Run]) -> Row:
    seconds: dict[str, dict[str, float]] = {}
    for run in runs:  # turns of one prompt are summed: prompts are what differs
        by_prompt = seconds.setdefault(run.contender, {})
        by_prompt[run.prompt] = by_prompt.get(run.prompt, 0.0) + run.seconds
    auto = [run for run in runs if run.contender == AUTO]
    picked = pick([name for name in FIXED if name in seconds], seconds)
    tuned = {prompt: seconds[name][prompt] for prompt, name in picked.items()}
    tokens, rounds = sum(run.tokens for run in auto), sum(run.rounds for run in auto)
    return Row(
        drafter,
        auto[0].temperature,
        text,
        ratio(seconds[NONE], seconds[AGAIN]),
        ratio(seconds[NONE], seconds[AUTO]),
        ratio(tuned, seconds[AUTO]),
        " / ".join(dict.fromkeys(picked.values())),
        rounds / tokens,
        sum(run.nodes for run in auto) / rounds,
        (forward_ms(runs, NONE, "target"), forward_ms(runs, AUTO, "target"), forward_ms(runs, AUTO, "drafter")),
    )


def forward_ms(runs: Sequence[Run], name: str, part: str) -> float:
    """ms per token that one contender spent in forwards of one model."""
    its = [run for run in runs if run.contender == name and run.parts is not None]
    seconds = sum(run.parts[PARTS.index(part)] for run in its if run.parts is not None)
    return 1e3 * seconds / sum(run.tokens for run in its)


def pick(names: Sequence[str], seconds: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """For every prompt the contender that was fastest on the other half of them; with one prompt, on itself."""
    prompts = list(seconds[names[0]])
    picked = {}
    for half in (0, 1):
        others = prompts[1 - half :: 2] or prompts
        best = min(names, key=lambda name: sum(seconds[name][prompt] for prompt in others))
        picked.update(dict.fromkeys(prompts[half::2], best))
    return picked


def ratio(above: Mapping[str, float], below: Mapping[str, float]) -> Ratio:
    """Summed seconds over summed seconds; the interval resamples prompts, with a fixed seed."""
    a, b = (np.array([side[prompt] for prompt in above]) for side in (above, below))
    chosen = np.random.default_rng(0).integers(0, len(a), (PICKING, len(a)))
    low, high = (float(x) for x in np.percentile(a[chosen].sum(1) / b[chosen].sum(1), [5, 95]))
    return float(a.sum() / b.sum()), low, high


def markdown(report: dict[str, Any], rows: Sequence[Row]) -> str:
    settings = report["settings"]
    out = ["# Never slower", "", sentence(report["environment"]), ""]
    out += [
        'The bundled target (12 layers, 10.2 M) with budget="auto", against plain decoding of the same engine and against fixed '
        f"budgets: {', '.join(FIXED)}. {settings['prompts']} prompts of each kind, {settings['repeats']} turns each (twice as "
        f"many for the drafters {', '.join(TWICE)} above temperature 0), "
        f"{settings['tokens']} new tokens; everybody once per turn, in rotating order, reading the prompt included. Ratios of "
        "summed seconds, the other one's / auto's: above 1 auto is faster. In brackets the 5th and 95th percentile over "
        "resampled prompts. Temperatures above 0 sample different texts under different configurations, and texts differ in how "
        "well they can be drafted: that is most of the spread there.",
        "",
        *(f"- {name}: {what}." for name, what in DRAFTERS.items()),
        f"- Wanted: at least {LEAST} of plain decoding, and {CLOSE} of the best fixed budget. That one is picked for each half "
        "of the prompts by the seconds of the other half: the best of several noisy figures, picked and measured on the same "
        "turns, would look better than it is.",
        "- plain, again: plain decoding against itself in the same turns, which shows what noise there is.",
        "",
        "Reproduce: `python experiments/never_slower.py`.",
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
    verdict = f"{len(rows) - missed} of {len(rows)} rows are as wanted."
    return "\n".join([*out, *table(head, lines), "", verdict, "", *parts(rows)])


def parts(rows: Sequence[Row]) -> list[str]:
    """The table of what forwards alone would give, for drafters that speed decoding up."""
    told = [row for row in rows if row.plain[0] > 1.1]
    if not told:
        return []
    head = ["drafter, text", "T", "T(1)", "T(N)", "drafting", "ideal", "plain / auto", "share of the ideal"]
    lines = [
        [
            f"{row.drafter}, {row.text}",
            f"{row.temperature:g}",
            *(f"{ms:.2f}" for ms in row.forwards),
            f"{row.ideal:.2f}",
            f"{row.plain[0]:.2f}",
            f"{row.plain[0] / row.ideal:.2f}",
        ]
        for row in told
    ]
    return [
        "## Where the time goes",
        "",
        "ms per token in forward passes, prompt reading included: plain decoding's target, T(1); auto's target, T(N); its "
        "drafter. Ideal: plain / auto if nothing else took time.",
        "",
        *table(head, lines),
        "",
    ]


def write(report: dict[str, Any], rows: Sequence[Row], runs: Sequence[Run], folder: Path, name: str) -> None:
    """Markdown and JSON; called after every block, so that an interrupted run leaves what it has."""
    report["environment"]["load_after"] = load_average()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(markdown(report, rows), encoding="utf-8")
    body = report | {"rows": [asdict(row) for row in rows], "run_fields": list(Run.__dataclass_fields__)}
    lines = ",\n".join(json.dumps(list(vars(run).values())) for run in runs)
    head = json.dumps(body, indent=1, ensure_ascii=False)[:-2]
    (folder / f"{name}.json").write_text(f'{head},\n "runs": [\n{lines}\n]\n}}\n', encoding="utf-8")


def _ratio(shown: Ratio) -> str:
    return f"{shown[0]:.2f} ({shown[1]:.2f}–{shown[2]:.2f})"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure whether the automatic budget is ever slower.")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.6, 1.0, 1.5], metavar="T")
    parser.add_argument("--drafter", nargs="+", choices=list(DRAFTERS), default=list(DRAFTERS))
    parser.add_argument("--text", nargs="+", choices=["code", "prose", "noise"], default=["code", "prose", "noise"])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
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
                    turns = options.repeats * (2 if drafter in TWICE and temperature > 0 else 1)
                    runs = measure(everybody, prompts, turns, drafter, temperature)
                    rows.append(summarise(drafter, kind, runs))
                    every += runs
                    write(report, rows, every, options.out, "never_slower-quick" if options.quick else "never_slower")
                    progress.advance(bar)
    print(markdown(report, rows))


if __name__ == "__main__":
    main()
