"""What does the engine itself cost? CPU time of a round by part, apart from the two models' own calls.

    python -m experiments.round_cost [--against CHECKOUT] [--backend openvino] [--turns 4] [--quick]

The bundled pair, prompts of `draftgraph bench`. Every turn is a process of its own; with --against the two checkouts take turns.
Writes round_cost.json and round_cost.md into --out.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.lab.pair import Pair
from draftgraph.request.clock import Clock
from draftgraph.request.state import Request
from draftgraph.view.sheet import Sheet
from experiments.experiment import ROOT, Experiment, at_least, table
from experiments.material import beginnings

ENGINE = ("drafting", "warping", "rule", "commit", "outside")
"""Parts of `draftgraph.request.stats` that are no model's, and what is in none of them."""
AROUND = ("around drafter", "around target")
"""What the two forwards of the backend do around the models' own calls: cells, masks, checks."""
MODELS = ("drafter", "target")
WARM_ROUNDS = 2
"""First rounds of a request that are left out: they read the prompt."""
CHAIN: dict[str, Any] = {"structure": "chain", "budget": 4}
TREE: dict[str, Any] = {"structure": "tree", "budget": 8}
now = time.thread_time


@dataclass(frozen=True)
class Case:
    """options  of the engine. model  whether it has a draft model; without one it looks up."""

    name: str
    options: Mapping[str, Any]
    temperature: float
    model: bool = True


CASES = (
    Case("chain of 4, T=0", CHAIN, 0.0),
    Case("chain of 4, T=1", CHAIN, 1.0),
    Case("tree of 8, T=0", TREE, 0.0),
    Case("tree of 8, T=1", TREE, 1.0),
    Case("auto, T=0", {}, 0.0),
    Case("auto, T=1", {}, 1.0),
    Case("lookup of 8, T=0", {"budget": 8}, 0.0, model=False),
    Case("lookup of 8, T=1", {"budget": 8}, 1.0, model=False),
)
Round = dict[str, float]
"""CPU seconds of one round by ENGINE, AROUND and MODELS."""


class Calls:
    """The seconds that a model spends in its own calls: of a transformers model, or of OpenVINO's requests."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @classmethod
    def of(cls, model: Any) -> Calls:
        """Those of a model, which engines may share."""
        known: Calls | None = vars(model).get("timed_calls")
        if known is not None:
            return known
        calls: Calls = cls()
        model.timed_calls = calls
        if hasattr(model, "call"):
            model.call = calls._timed(model.call)
        else:
            calls._cover(model._compiled)
            calls._cover_chains(getattr(model, "_chains", None))
        return calls

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(**inputs: Any) -> Any:
            begun = now()
            found = call(**inputs)
            self.seconds += now() - begun
            return found

        return timed

    def _cover(self, compiled: Any) -> None:
        compiled._request.infer = self._timed(compiled._request.infer)

    def _cover_chains(self, chains: Any) -> None:
        """Those of chains that are read in one pass, which are compiled when they are needed."""
        if chains is None:
            return
        make = chains._make

        def made(steps: int, draws: bool) -> int:
            found: int = make(steps, draws)
            self._cover(chains._made[draws, found])
            return found

        for compiled in chains._made.values():
            self._cover(compiled)
        chains._make = made

    def take(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class Measured:
    """An engine whose requests are timed by the CPU time of their thread."""

    def __init__(self, engine: dg.Engine) -> None:
        self.engine = engine
        self._begin = engine.drafter.begin
        engine.drafter.begin = self._begin_on_cpu
        models = {"target": engine.target, "drafter": engine.drafter.model}
        self.calls = {name: Calls.of(model) for name, model in models.items() if model is not None}

    def _begin_on_cpu(self, request: Request) -> None:
        request.clock = Clock(now)
        self._begin(request)

    def rounds(self, ids: Sequence[int], params: dg.SamplingParams) -> Iterator[Round]:
        """The rounds of one request, without the first ones."""
        step = partial(next, iter(self.engine.stream(list(ids), params)), None)
        number, begun = 0, now()
        while (event := step()) is not None:
            whole = now() - begun
            called = {name: calls.take() for name, calls in self.calls.items()}
            if number >= WARM_ROUNDS:
                yield _parts(event.round.seconds, called, whole)
            number, begun = number + 1, now()


def _parts(seconds: Mapping[str, float], called: Mapping[str, float], whole: float) -> Round:
    around = {f"around {name}": seconds[name] - called.get(name, 0.0) for name in MODELS}
    own = {name: seconds[name] for name in ENGINE if name in seconds}
    models = {name: called.get(name, 0.0) for name in MODELS}
    return own | around | models | {"outside": whole - sum(seconds.values())}


def measure(prompts: int, tokens: int, backend: str) -> dict[str, list[Round]]:
    """Rounds of every case, in this process."""
    pair = Pair.load(*bundled_pair())
    texts = beginnings(pair)[:prompts]
    found: dict[str, list[Round]] = {case.name: [] for case in CASES}
    gc.disable()
    engines = {case.name: Measured(_engine(pair, case, backend)) for case in CASES}
    for number, ids in enumerate(texts):
        for case in CASES:
            params = dg.SamplingParams(tokens, temperature=case.temperature, seed=number, ignore_eos=True)
            found[case.name] += engines[case.name].rounds(ids, params)
        gc.collect()
    return found


def _engine(pair: Pair, case: Case, backend: str) -> dg.Engine:
    target, drafter = (pair.target, pair.drafter) if backend == "torch" else bundled_pair()
    drafting = {"draft_model": drafter} if case.model else {"drafter": "lookup"}
    return dg.Engine.from_pretrained(target, tokenizer=pair.tokenizer, backend=backend, **drafting, **case.options)


def measured_in(checkout: Path, sizes: Sequence[int], threads: int, backend: str) -> dict[str, list[Round]]:
    """`measure` in a process of its own, with the package of a checkout."""
    path = os.pathsep.join([str(checkout / "src"), str(ROOT)])
    code = f"from experiments import round_cost as r; r.tell({sizes[0]}, {sizes[1]}, {threads}, {backend!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    found: dict[str, list[Round]] = json.loads(done.stdout.splitlines()[-1])
    return found


def commit_of(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def tell(prompts: int, tokens: int, threads: int, backend: str) -> None:
    """Print what was measured here as a line of JSON."""
    torch.set_num_threads(threads)
    print(json.dumps(measure(prompts, tokens, backend)))


@dataclass(frozen=True)
class Row:
    """Milliseconds of CPU time per round, medians over rounds; `engine` and `around` are medians of sums over their parts."""

    case: str
    checkout: str
    rounds: int
    engine: float
    quartiles: tuple[float, float]
    around: float
    parts: Mapping[str, float]
    models: Mapping[str, float]


def row(case: str, checkout: str, rounds: Sequence[Round]) -> Row:
    def ms(values: Sequence[float]) -> float:
        return 1e3 * statistics.median(values)

    engine, around = ([sum(one[part] for part in names) for one in rounds] for names in (ENGINE, AROUND))
    low, _, high = (1e3 * value for value in statistics.quantiles(engine, n=4))
    parts, models = ({name: ms([one[name] for one in rounds]) for name in names} for names in (ENGINE + AROUND, MODELS))
    return Row(case, checkout, len(rounds), ms(engine), (low, high), ms(around), parts, models)


def blocks(rows: Sequence[Row], commits: Mapping[str, str]) -> Iterator[str | Sheet]:
    """The report."""
    yield (
        "Checkouts, which took turns: "
        + ", ".join(f"{name} is commit {commit}" for name, commit in commits.items())
        + "."
    )
    yield (
        "Milliseconds of CPU time per round (time.thread_time), medians over rounds; in brackets the quartiles. The engine is "
        "what is outside of the two forwards, with its parts behind it; around is what the forwards do besides calling the "
        "models. Both are medians of sums, which are not sums of medians."
    )
    columns = [
        "case",
        "checkout",
        "rounds",
        "engine",
        *ENGINE,
        "around",
        *AROUND,
        *(f"{name}'s calls" for name in MODELS),
    ]
    yield table(columns, map(_cells, rows))


def _cells(row: Row) -> list[str]:
    low, high = row.quartiles
    engine = f"{row.engine:.2f} ({low:.2f}–{high:.2f})"
    parts = [f"{row.parts[name]:.3f}" for name in ENGINE + AROUND]
    models = [f"{value:.2f}" for value in row.models.values()]
    return [
        row.case,
        row.checkout,
        str(row.rounds),
        engine,
        *parts[: len(ENGINE)],
        f"{row.around:.2f}",
        *parts[len(ENGINE) :],
        *models,
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(
        "round_cost", "What a round costs outside of the models", __doc__, "2 prompts, 12 tokens, 1 turn"
    )
    add = experiment.parser.add_argument
    add("--against", type=Path, help="another checkout, which takes turns with this one")
    add("--prompts", type=at_least(1), default=8)
    add("--tokens", type=at_least(4), default=64, help="per prompt")
    add("--turns", type=at_least(1), default=3)
    add("--backend", choices=("torch", "openvino"), default="torch", help="what runs both models")
    options = experiment.start(arguments)
    sizes, turns = ((2, 12), 1) if options.quick else ((options.prompts, options.tokens), options.turns)
    checkouts = {"before": options.against, "after": ROOT} if options.against else {"this": ROOT}
    commits = {name: commit_of(checkout) for name, checkout in checkouts.items()}
    found: dict[tuple[str, str], list[Round]] = defaultdict(list)
    for turn in range(turns):
        for name in [*checkouts][:: -1 if turn % 2 else 1]:
            for case, rounds in measured_in(checkouts[name], sizes, options.threads, options.backend).items():
                found[case, name] += rounds
    rows = [row(case.name, name, found[case.name, name]) for case in CASES for name in checkouts]
    print(experiment.save(blocks(rows, commits), commits=commits, rows=[asdict(one) for one in rows]))


if __name__ == "__main__":
    main()
