"""What does a round cost behind 1,000, 4,000 and 16,000 tokens on OpenVINO, by part? It may grow by attention alone.

    python -m experiments.long_context [--model /path/to/SmolLM2-135M-Instruct] [--rounds 24] [--quick]

A random Llama with a long window, and a drafter that agrees with it in part, have so little to compute that what the engine does
around them shows. The bundled pair and the model in --model go as far as their windows. CPU seconds of the process, medians over
rounds; prompts are read before. Lines of Python that a round runs are counted as well, for no other process disturbs them, nor
does a cache that a graph has swept. Writes long_context.json and long_context.md into --out.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.progress import track
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.request.clock import Clock
from draftgraph.request.result import Stream
from draftgraph.request.state import Request
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table
from experiments.round_cost import Calls

CONTEXTS = (1000, 4000, 16_000)
SHORTER = (250, 900, 3000, 7500)
"""Contexts that are measured as well where the window ends before the longest of the others."""
OWN = ("drafting", "warping", "rule", "commit", "outside", "around drafter", "around target")
"""Parts that are no model's. Around: what a backend does beside its graph, such as laying out rows."""
MODELS = ("drafter", "target")
WARM_ROUNDS = 3
"""First rounds that are left out: they read the rest of the prompt, and compile a size of pass."""
TRACED_ROUNDS = 12
"""Rounds behind the measured ones whose lines are counted."""
GROWN_MS = 0.1
"""So much more behind the longest context than behind the shortest is growth, and not noise."""
SOURCE = str(Path(dg.__file__).parent)
now = time.process_time


@dataclass(frozen=True)
class Case:
    """options  of the engine. params  of the request. drafted  whether a model drafts; without one texts are looked up."""

    name: str
    options: Mapping[str, Any]
    params: Mapping[str, Any]
    drafted: bool = True


CASES = (
    Case("chain of 4, T=0", {"structure": "chain", "budget": 4}, {}),
    Case("tree of 8, T=1", {"structure": "tree", "budget": 8}, {"temperature": 1.0}),
    Case(
        "graph of 8, T=1, penalty", {"structure": "graph", "budget": 8}, {"temperature": 1.0, "repetition_penalty": 1.1}
    ),
    Case("lookup of 8, T=0", {"budget": 8}, {}, drafted=False),
)


@dataclass(frozen=True)
class Subject:
    """models  target and drafter, as engines take them."""

    name: str
    models: tuple[Any, Any]
    cases: Sequence[Case] = CASES


@dataclass(frozen=True)
class Row:
    """ms  per round, by OWN and MODELS. lines  of draftgraph that a round runs, mean."""

    subject: str
    case: str
    context: int
    rounds: int
    ms: Mapping[str, float]
    lines: float = 0.0

    @property
    def own(self) -> float:
        return sum(self.ms[part] for part in OWN)


def rounds(
    engine: dg.Engine, passes: Mapping[str, Calls], prompt: list[int], params: dg.SamplingParams, count: int
) -> tuple[list[dict[str, float]], float]:
    """Seconds by part of so many rounds behind the first ones, and the lines of a round."""
    begin = engine.drafter.begin

    def on_cpu(request: Request) -> None:
        request.clock = Clock(now)
        begin(request)

    engine.drafter.begin = on_cpu  # type: ignore[method-assign]
    try:
        stream = engine.stream(prompt, params)
        found = [_timed(stream, passes) for _ in range(WARM_ROUNDS + count)]
        return found[WARM_ROUNDS:], _lines(stream, TRACED_ROUNDS) / TRACED_ROUNDS
    finally:
        engine.drafter.begin = begin  # type: ignore[method-assign]


def _timed(stream: Stream, passes: Mapping[str, Calls]) -> dict[str, float]:
    """Seconds by part of the next round."""
    begun = now()
    event = next(stream)
    whole = now() - begun
    return _parts(event.round.seconds, {name: each.take() for name, each in passes.items()}, whole)


def _lines(stream: Stream, count: int) -> int:
    """Lines of draftgraph that the next rounds run."""
    ran = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal ran
        ran += event == "line"
        return trace if frame.f_code.co_filename.startswith(SOURCE) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for _ in range(count):
            next(stream)
    finally:
        sys.settrace(before)
    return ran


def _parts(seconds: Mapping[str, float], ran: Mapping[str, float], whole: float) -> dict[str, float]:
    models = {name: ran.get(name, 0.0) for name in MODELS}
    around = {f"around {name}": seconds.get(name, 0.0) - models[name] for name in MODELS}
    inside = {name: seconds[name] for name in OWN if name in seconds}
    return inside | around | models | {"outside": whole - sum(seconds.values())}


def measure(subject: Subject, contexts: Sequence[int], count: int) -> Iterator[Row]:
    """Every case behind every context that fits into the window."""
    for case in subject.cases:
        target, drafter = subject.models
        options = {"backend": "openvino", **case.options}
        engine = dg.Engine.from_pretrained(target, draft_model=drafter if case.drafted else None, **options)
        models = {"target": engine.target, "drafter": engine.drafter.model}
        passes = {name: Calls.of(model) for name, model in models.items() if model is not None}
        window = engine.target.context_window or max(contexts)
        room = 10 * (count + WARM_ROUNDS + TRACED_ROUNDS)
        for context in contexts:
            if context + room <= window:
                params = dg.SamplingParams(room, seed=context, ignore_eos=True, **case.params)
                found, lines = rounds(engine, passes, prompt(engine, context), params, count)
                parts = {part: 1e3 * statistics.median(each[part] for each in found) for part in (*OWN, *MODELS)}
                yield Row(subject.name, case.name, context, len(found), parts, lines)


def prompt(engine: dg.Engine, length: int) -> list[int]:
    """Tokens at random, of which stretches come back, so that there is something to look up."""
    generator = torch.Generator().manual_seed(7)
    fresh = torch.randint(engine.target.vocab_size, (max(1, length // 2),), generator=generator).tolist()
    return (fresh + fresh[: length - len(fresh)])[:length]


def long_pair(window: int) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A random Llama, and a copy with some noise."""
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=window, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    target, drafter = LlamaForCausalLM(config).eval(), LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight, other in zip(target.parameters(), drafter.parameters(), strict=True):
            if weight.ndim > 1:
                weight.normal_(0.0, 1.5 / weight.shape[-1] ** 0.5)
            other.copy_(weight + 0.1 * weight.std() * torch.randn_like(weight) if weight.ndim > 1 else weight)
    return target, drafter


def blocks(rows: Sequence[Row]) -> list[str | Sheet]:
    return [
        "Milliseconds of the processor per round, medians. Own: what is not inside a graph. The graphs attend to the context, so "
        "they cost more behind a longer one; nothing else should. A graph that has read a long context leaves nothing else in "
        "the processor's caches, so that the same lines take longer behind it. Lines: of Python, in draftgraph, per round.",
        table(
            [
                "models",
                "case",
                "context",
                "lines",
                "own ms",
                *OWN,
                *(f"graph of the {name}" for name in MODELS),
                "rounds",
            ],
            [_cells(row) for row in rows],
        ),
        "Growth of the own part from the shortest to the longest context: " + "; ".join(growth(rows)) + ".",
    ]


def _cells(row: Row) -> list[str]:
    parts = [f"{row.ms[part]:.3f}" for part in (*OWN, *MODELS)]
    return [row.subject, row.case, f"{row.context:,}", f"{row.lines:,.0f}", f"{row.own:.2f}", *parts, str(row.rounds)]


def growth(rows: Sequence[Row]) -> list[str]:
    """A sentence for every subject and case with several contexts."""
    said = []
    for subject, case in dict.fromkeys((row.subject, row.case) for row in rows):
        mine = sorted((row for row in rows if (row.subject, row.case) == (subject, case)), key=lambda row: row.context)
        if len(mine) > 1:
            more = mine[-1].own - mine[0].own
            grown = {part: mine[-1].ms[part] - mine[0].ms[part] for part in OWN}
            most = max(grown, key=lambda part: grown[part])
            named = f", most of it in {most!r}" if more > GROWN_MS else ""
            said.append(f"{subject}, {case}: {more:+.2f} ms from {mine[0].context:,} to {mine[-1].context:,}{named}")
    return said


def subjects(options: Any) -> Iterator[tuple[Subject, Sequence[int]]]:
    yield Subject("random Llama", long_pair(max(options.contexts) + 1000)), options.contexts
    if options.quick:
        return
    yield Subject("bundled pair", bundled_pair()), [*SHORTER, *options.contexts]
    if options.model is not None:
        looked_up = [replace(case, drafted=False) for case in CASES if not case.drafted]
        yield Subject(options.model.name, (options.model, None), looked_up), sorted({*SHORTER, *options.contexts})


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(
        "long_context", "Long contexts", __doc__, "the random model alone, two short contexts, 4 rounds"
    )
    add = experiment.parser.add_argument
    add("--model", type=Path, default=None, help="folder of a model, whose drafts are looked up")
    add("--contexts", nargs="+", type=at_least(16), default=list(CONTEXTS))
    add("--rounds", type=at_least(1), default=24, help="measured per row")
    options = experiment.start(arguments)
    if options.quick:
        options.contexts, options.rounds = [64, 256], 4
    rows: list[Row] = []
    report = ""
    for subject, contexts in subjects(options):
        for row in track(measure(subject, contexts, options.rounds), subject.name):
            rows.append(row)
            report = experiment.save(blocks(rows), rows=[asdict(each) for each in rows])
    print(report)


if __name__ == "__main__":
    main()
