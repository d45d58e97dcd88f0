"""Is the automatic budget ever slower than plain decoding, or far from the best fixed budget?

    python -m experiments.never_slower [--temperature 0 1] [--drafter own random large lookup] [--backend torch] [--quick]

The bundled target with good and hostile drafters, at four temperatures, on code, on prose and on noise. Writes
never_slower.json (with every run) and never_slower.md into --out, after every row.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.progress import track
from transformers import AutoConfig, AutoModelForCausalLM

from draftgraph.data import bundled_pair
from draftgraph.lab.bench.contenders import Ours, Task
from draftgraph.lab.pair import Pair
from draftgraph.lab.turns import Turn, take_turns
from draftgraph.request.stats import PARTS
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table
from experiments.material import beginnings

AGAIN, AUTO, NONE = "plain, again", "auto", "plain (budget 0)"
FIXED: dict[str, dict[str, Any]] = {
    NONE: {"budget": 0},
    "chain 2": {"structure": "chain", "budget": 2},
    "chain 3": {"structure": "chain", "budget": 3},
    "chain 4": {"structure": "chain", "budget": 4},
    "chain 6": {"structure": "chain", "budget": 6},
    "tree 8": {"structure": "tree", "budget": 8},
    "graph 4": {"budget": 4},
    "graph 8": {"budget": 8},
    "graph 16": {"budget": 16},
}
"""Fixed configurations. Hostile drafters meet only the first: drafting is what must not happen there."""
LEAST, CLOSE = 0.97, 0.95
"""Shares that auto must reach: of the speed of plain decoding, and of that of the best fixed configuration."""
DRAFTERS = {
    "own": "the bundled drafter",
    "random": "random weights in the drafter's shape",
    "large": "random weights in the target's shape: every pass costs as much as a token",
    "lookup": "no model: what followed the same words earlier in the text",
}
TWICE = ("own",)
"""Drafters that get twice the turns above temperature 0, where fixed budgets sample other texts than auto does."""
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
NOISE_TOKENS = 40
RESAMPLES = 200
"""Resamples of prompts for an interval."""
RUN_FIELDS = (
    "pair", "temperature", "contender", "prompt", "repeat", "place", "seconds", "tokens", "rounds", "nodes", "same", "parts",
)  # fmt: skip
"""Columns of the runs in the JSON file. pair: the drafter; same: at temperature 0, whether the text is plain decoding's."""

Ratio = tuple[float, float, float]
"""A ratio of summed seconds, and the 5th and 95th percentile of it over resampled prompts."""
Seconds = Mapping[int, float]
"""By prompt, summed over turns: prompts are what differs."""


@dataclass(frozen=True)
class Row:
    """One drafter, temperature and kind of text: seconds of another way over those of auto, so above 1 auto is faster.

    again     plain decoding over plain decoding: how far to trust the others.
    plain     plain decoding.
    fixed     the fixed configuration that was fastest on the other half of the prompts, as a user could have tuned it.
    best      its name, on either half.
    rounds    target calls per token under auto.
    drafted   nodes per call under auto.
    forwards  ms per token in forward passes: plain decoding's target; auto's target and drafter.
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


def pair_with(name: str, folder: Path, backend: str) -> Pair:
    """The bundled target with one of DRAFTERS, random ones in `folder`; engines load both from their files."""
    target, drafter = bundled_pair()
    shape = {"random": drafter, "large": target}.get(name)
    return Pair.load(
        target, drafter if shape is None else _random(shape, folder / name), made_with={"backend": backend}
    )


def _random(shape: Path, folder: Path) -> Path:
    """A model of this shape in a folder."""
    shutil.copytree(shape, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(shape)).float().save_pretrained(folder)
    return folder


def texts(pair: Pair, count: int) -> dict[str, list[list[int]]]:
    """Prompts by kind; noise is token ids drawn uniformly, which nothing compresses."""
    noise = np.random.default_rng(0).integers(3, pair.vocab, (count, NOISE_TOKENS)).tolist()
    return {"code": beginnings(pair)[:count], "prose": pair.encode(PROSE[:count]), "noise": noise}


def contenders(drafter: str, pair: Pair, task: Task) -> list[Ours]:
    asked = {"drafter": "lookup"} if drafter == "lookup" else {}
    fixed = FIXED if drafter in ("own", "lookup") else {NONE: FIXED[NONE]}
    named = {AUTO: {}, AGAIN: FIXED[NONE], **fixed}
    return [Ours(name, pair, task, **options, **asked) for name, options in named.items()]


def summarise(drafter: str, temperature: float, text: str, turns: Sequence[Turn]) -> Row:
    seconds: dict[str, dict[int, float]] = {name: {} for name in turns[0].timed}
    for turn in turns:
        for name, timed in turn.timed.items():
            seconds[name][turn.prompt] = seconds[name].get(turn.prompt, 0.0) + timed.seconds
    picked = pick({name: seconds[name] for name in FIXED if name in seconds})
    tuned = {prompt: seconds[name][prompt] for prompt, name in picked.items()}
    auto = [turn.timed[AUTO].answer for turn in turns]
    rounds = sum(answer.rounds for answer in auto)
    return Row(
        drafter,
        temperature,
        text,
        ratio(seconds[NONE], seconds[AGAIN]),
        ratio(seconds[NONE], seconds[AUTO]),
        ratio(tuned, seconds[AUTO]),
        " / ".join(dict.fromkeys(picked.values())),
        rounds / sum(len(answer.ids) for answer in auto),
        sum(answer.nodes for answer in auto) / rounds,
        (forward_ms(turns, NONE, "target"), forward_ms(turns, AUTO, "target"), forward_ms(turns, AUTO, "drafter")),
    )


def forward_ms(turns: Sequence[Turn], name: str, part: str) -> float:
    """ms per token that one contender spent in forwards of one model."""
    answers = [turn.timed[name].answer for turn in turns]
    return 1e3 * sum((answer.parts or {})[part] for answer in answers) / sum(len(answer.ids) for answer in answers)


def pick(seconds: Mapping[str, Seconds]) -> dict[int, str]:
    """For every prompt the contender that was fastest on the other half of them; with one prompt, on itself."""
    prompts = list(next(iter(seconds.values())))
    picked = {}
    for half in (0, 1):
        others = prompts[1 - half :: 2] or prompts
        best = min(seconds, key=lambda name: sum(seconds[name][prompt] for prompt in others))
        picked.update(dict.fromkeys(prompts[half::2], best))
    return picked


def ratio(above: Seconds, below: Seconds) -> Ratio:
    """Summed seconds over summed seconds; the interval resamples prompts, with a fixed seed."""
    a, b = (np.array([side[prompt] for prompt in above]) for side in (above, below))
    chosen = np.random.default_rng(0).integers(0, len(a), (RESAMPLES, len(a)))
    low, high = (float(x) for x in np.percentile(a[chosen].sum(1) / b[chosen].sum(1), [5, 95]))
    return float(a.sum() / b.sum()), low, high


def runs_of(drafter: str, temperature: float, text: str, turns: Sequence[Turn]) -> list[list[Any]]:
    """Every run, in the order of RUN_FIELDS."""
    runs: list[list[Any]] = []
    for turn in turns:
        plain = turn.timed[NONE].answer.ids
        for name, timed in turn.timed.items():
            answer, parts = timed.answer, timed.answer.parts or {}
            same = answer.ids == plain if temperature == 0 else None
            runs.append(
                [drafter, temperature, name, f"{text} {turn.prompt}", turn.repeat, timed.place, timed.seconds,
                 len(answer.ids), answer.rounds, answer.nodes, same, [parts[part] for part in PARTS]]
            )  # fmt: skip
    return runs


def blocks(settings: dict[str, int], on: str, rows: Sequence[Row]) -> list[str | Sheet]:
    """The report. on  what runs the target, and why."""
    missed = sum(not row.kept for row in rows)
    return [
        f'The bundled target (12 layers, 10.2 M; {on}) with budget="auto", against plain decoding of the same engine and fixed '
        f"budgets: {', '.join(FIXED)}. {settings['prompts']} prompts of each kind, {settings['repeats']} turns each (twice as "
        f"many for the drafters {', '.join(TWICE)} above temperature 0), "
        f"{settings['tokens']} new tokens; everybody once per turn, in rotating order, reading the prompt included. Ratios of "
        "summed seconds, the other one's / auto's: above 1 auto is faster. In brackets the 5th and 95th percentile over "
        "resampled prompts. Temperatures above 0 sample different texts under different configurations, and texts differ in how "
        "well they can be drafted: that is most of the spread there.",
        "\n".join(
            [
                *(f"- {name}: {what}." for name, what in DRAFTERS.items()),
                f"- Wanted: at least {LEAST} of plain decoding, and {CLOSE} of the best fixed budget. That one is picked for "
                "each half of the prompts by the seconds of the other half: the best of several noisy figures, picked and "
                "measured on the same turns, would look better than it is.",
                "- plain, again: plain decoding against itself in the same turns, which shows what noise there is.",
            ]
        ),
        table(
            [
                "drafter, text",
                "T",
                "plain, again",
                "plain / auto",
                "best fixed / auto",
                "best fixed",
                "calls per token",
            ],
            map(_cells, rows),
        ),
        f"{len(rows) - missed} of {len(rows)} rows are as wanted.",
        *_where_the_time_goes([row for row in rows if row.plain[0] > 1.1]),
    ]


def _cells(row: Row) -> list[str]:
    ratios = (f"{middle:.2f} ({low:.2f}–{high:.2f})" for middle, low, high in (row.again, row.plain, row.fixed))
    calls = f"{row.rounds:.2f}{'' if row.kept else ' **missed**'}"
    return [f"{row.drafter}, {row.text}", f"{row.temperature:g}", *ratios, row.best, calls]


def _where_the_time_goes(rows: Sequence[Row]) -> list[str | Sheet]:
    """What forwards alone would give, for drafters that speed decoding up."""
    if not rows:
        return []
    lines = []
    for row in rows:
        figures = (*row.forwards, row.ideal, row.plain[0], row.plain[0] / row.ideal)
        lines.append([f"{row.drafter}, {row.text}", f"{row.temperature:g}", *(f"{figure:.2f}" for figure in figures)])
    return [
        "## Where the time goes",
        "ms per token in forward passes, prompt reading included: plain decoding's target, T(1); auto's target, T(N); its "
        "drafter. Ideal: plain / auto if nothing else took time.",
        table(["drafter, text", "T", "T(1)", "T(N)", "drafting", "ideal", "plain / auto", "share of the ideal"], lines),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment("never_slower", "Never slower", __doc__, "one prompt, 8 tokens, once")
    add = experiment.parser.add_argument
    kinds = ["code", "prose", "noise"]
    add("--temperature", type=float, nargs="+", default=[0.0, 0.6, 1.0, 1.5], metavar="T")
    add("--drafter", nargs="+", choices=list(DRAFTERS), default=list(DRAFTERS))
    add("--text", nargs="+", choices=kinds, default=kinds)
    add("--prompts", type=at_least(1), default=8)
    add("--repeats", type=at_least(1), default=1)
    add("--tokens", type=at_least(1), default=64)
    add("--backend", choices=["auto", "torch", "openvino"], default="auto")
    options = experiment.start(arguments)
    if options.quick:
        options.prompts, options.repeats, options.tokens = 1, 1, 8
    settings = {name: getattr(options, name) for name in ("prompts", "repeats", "tokens", "threads")}
    rows: list[Row] = []
    runs: list[list[Any]] = []
    with TemporaryDirectory() as folder:
        for drafter in options.drafter:
            pair = pair_with(drafter, Path(folder), options.backend)
            prompts = texts(pair, options.prompts)
            for temperature, text in track(list(product(options.temperature, options.text)), drafter):
                everybody = contenders(drafter, pair, Task(temperature, options.tokens))
                repeats = options.repeats * (2 if drafter in TWICE and temperature > 0 else 1)
                turns = list(take_turns(everybody, prompts[text], repeats * len(prompts[text])))
                rows.append(summarise(drafter, temperature, text, turns))
                runs += runs_of(drafter, temperature, text, turns)
                told = [asdict(row) for row in rows]
                on = everybody[0].engine.backends["target"]
                report = experiment.save(
                    blocks(settings, on, rows), settings=settings, rows=told, run_fields=RUN_FIELDS, runs=runs
                )
    print(report)


if __name__ == "__main__":
    main()
