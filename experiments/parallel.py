"""Does it pay on this machine to draft on while the target verifies?

    python -m experiments.parallel [--threads 2] [--turns 6] [--quick]

Both schedules continue the same prompts in turns, on torch and on OpenVINO: sequential rounds with all threads, parallel ones
with half of them for each model. Between them the parallel schedule runs on its virtual clock: one model after the other, each
with half of the threads, as if every round took as long as the longer of both. That is the prediction. Pairs: the bundled one,
and a deep target with the drafter that it was grown from. Writes parallel.json and parallel.md into --out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from rich.progress import track
from transformers import LlamaConfig, LlamaForCausalLM

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.engine.lanes import InTurn, few_threads
from draftgraph.engine.schedules import Parallel
from draftgraph.lab.turns import Answer, Turn, take_turns
from draftgraph.request.record import RoundRecord
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table

COUNTS = (2, 3, 4, 6, 8)
"""Tokens drafted per round."""
BACKENDS = ("torch", "openvino")
PLAIN, SEQUENTIAL, PARALLEL, VIRTUAL = "plain", "sequential", "parallel", "virtual clock"
DEEP_LAYERS, GROWN_FROM, WIDTH, VOCAB, WEIGHT = 12, 2, 512, 512, 0.05
"""Of the deep target: layers, those that its drafter has, and what the others add to a row, as a share of their usual output."""


@dataclass
class Decoder:
    """A schedule that drafts `count` tokens a round, and takes turns. rounds  of all its answers."""

    way: str
    engine: dg.Engine
    count: int
    tokens: int
    rounds: list[RoundRecord] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.way} {self.count}"

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        params = dg.SamplingParams(max_new_tokens=self.tokens, ignore_eos=True, seed=seed)
        options = {"budget": self.count} | ({"num_speculative_tokens": self.count} if self.count else {})
        result = self.engine.generate(list(prompt), params, **options)
        self.rounds += result.rounds
        return Answer(result.token_ids, len(result.rounds), result.stats.num_verified_nodes, result.stats.seconds)


class Virtual(Decoder):
    """The parallel schedule on its virtual clock; `parts` of its answers are seconds of that clock."""

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        real = self.engine.schedule
        self.engine.schedule = Parallel(InTurn(threads=real.threads))
        try:
            with few_threads(real.threads):
                return super().answer(prompt, seed)
        finally:
            self.engine.schedule = real


@dataclass(frozen=True)
class Row:
    """ms  per token: median over turns, with the 10th and 90th percentile. length  tokens per target call.

    gain  the best sequential way's ms per token over those of this way, medians.
    """

    pair: str
    backend: str
    way: str
    count: int
    ms: tuple[float, float, float]
    length: float
    gain: float


@dataclass(frozen=True)
class Ratio:
    """ms of a pass with half of the threads: of the drafter, and of the target over as many rows as the drafter drafts.

    step  ⌈T / c⌉. best  tokens per round of the fastest way: sequential, parallel, by the virtual clock.
    """

    pair: str
    backend: str
    drafter: float
    target: float
    step: int
    best: tuple[int, int, int]


def deep_pair() -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """A random target and the first of its layers, which agree in part: the other layers add little."""
    torch.manual_seed(0)
    size = {"vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": 8}
    named = {"max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": False}
    target, drafter = (
        LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **size, **named)).eval()
        for layers in (DEEP_LAYERS, GROWN_FROM)
    )
    with torch.no_grad():
        for weight in target.parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 1.5 / math.sqrt(weight.shape[1]))
        for layer in target.model.layers[GROWN_FROM:]:
            layer.self_attn.o_proj.weight *= WEIGHT
            layer.mlp.down_proj.weight *= WEIGHT
    drafter.load_state_dict(target.state_dict(), strict=False)
    return target, drafter


def decoders(models: tuple[Any, Any], backend: str, tokens: int) -> list[Decoder]:
    """Everybody who takes turns on one pair and backend."""

    def made(schedule: str) -> dg.Engine:
        options: dict[str, Any] = {"backend": backend, "structure": "chain", "schedule": schedule}
        return dg.Engine.from_pretrained(models[0], draft_model=models[1], budget=COUNTS[0], **options)

    sequential, parallel = made("sequential"), made("parallel")
    ways: list[tuple[str, Callable[..., Decoder], dg.Engine]] = [
        (SEQUENTIAL, Decoder, sequential),
        (PARALLEL, Decoder, parallel),
        (VIRTUAL, Virtual, parallel),
    ]
    drafting = [make(way, engine, count, tokens) for way, make, engine in ways for count in COUNTS]
    return [Decoder(PLAIN, sequential, 0, tokens), *drafting]


def rows(pair: str, backend: str, ways: Sequence[Decoder], turns: Sequence[Turn]) -> Iterator[Row]:
    """What came of the turns of one pair and backend."""
    paces = {way.name: sorted(1e3 * _pace(way, turn) for turn in turns) for way in ways}
    best = min(statistics.median(paces[way.name]) for way in ways if way.way in (PLAIN, SEQUENTIAL))
    for way in ways:
        found = paces[way.name]
        spread = statistics.quantiles(found, n=10, method="inclusive") if len(found) > 1 else found * 9
        middle = statistics.median(found)
        answers = [turn.timed[way.name].answer for turn in turns]
        length = sum(len(answer.ids) for answer in answers) / sum(answer.rounds for answer in answers)
        yield Row(pair, backend, way.way, way.count, (middle, spread[0], spread[-1]), length, best / middle)


def _pace(way: Decoder, turn: Turn) -> float:
    """Seconds per token, by the clock that counts for a way."""
    timed = turn.timed[way.name]
    if way.way != VIRTUAL or timed.answer.parts is None:
        return timed.pace
    return sum(timed.answer.parts.values()) / len(timed.answer.ids)


def ratio(pair: str, backend: str, ways: Sequence[Decoder], found: Sequence[Row]) -> Ratio:
    """Passes as the virtual clock saw them, one model at a time."""
    virtual = {way.count: way.rounds for way in ways if way.way == VIRTUAL}
    drafter = statistics.median(
        _drafted(record) for records in virtual.values() for record in records if record.num_passes
    )
    scored = {count: statistics.median(_scored(records, count)) for count, records in virtual.items()}
    step = next((count for count in scored if count * drafter >= scored[count]), max(scored))
    best = [
        min((row for row in found if row.way == way), key=lambda row: row.ms[0]).count
        for way in (SEQUENTIAL, PARALLEL, VIRTUAL)
    ]
    return Ratio(
        pair, backend, 1e3 * drafter, 1e3 * scored[step], math.ceil(scored[step] / drafter), (best[0], best[1], best[2])
    )


def _drafted(record: RoundRecord) -> float:
    """Seconds per drafted token of a round."""
    return (record.seconds["drafter"] + record.seconds["drafting"]) / record.num_passes


def _scored(records: Sequence[RoundRecord], count: int) -> list[float]:
    """Seconds of the target's passes over as many rows as are drafted, or over any number if there were none."""
    whole = [record for record in records if len(record.tokens) == count - 1] or records
    return [record.seconds["target"] + record.overlapped for record in whole]


def blocks(found: Sequence[Row], ratios: Sequence[Ratio], turns: int, tokens: int) -> list[str | Sheet]:
    fastest = [
        min(
            (row for row in found if (row.pair, row.backend, row.way) == (one.pair, one.backend, way)),
            key=lambda row: row.ms[0],
        )
        for one in ratios
        for way in (PLAIN, SEQUENTIAL, PARALLEL, VIRTUAL)
    ]
    return [
        f"Greedy, {tokens} tokens per answer, reading the prompt included; {turns} turns, everybody in each of them. ms per "
        "token: median, with the 10th and 90th percentile. The gain is over the fastest way that is not parallel. The virtual "
        "clock is the prediction: real passes of one model at a time, each with half of the threads, in rounds as long as the "
        "longer of both.",
        "The fastest number of drafted tokens of every way:",
        table(["pair, backend", "way", "drafted", "ms per token", "τ", "gain"], map(_cells, fastest)),
        "With half of the threads a drafted token takes c ms, verifying ⌈T/c⌉ tokens T ms. Then the numbers that were fastest:",
        table(
            ["pair, backend", "c", "T", "⌈T/c⌉", "sequential", "parallel", "virtual clock"],
            (
                [
                    f"{one.pair}, {one.backend}",
                    f"{one.drafter:.2f}",
                    f"{one.target:.2f}",
                    str(one.step),
                    *map(str, one.best),
                ]
                for one in ratios
            ),
        ),
        "All of them:",
        table(["pair, backend", "way", "drafted", "ms per token", "τ", "gain"], map(_cells, found)),
    ]


def _cells(row: Row) -> list[str]:
    middle, low, high = row.ms
    told = f"{middle:.2f} ({low:.2f}–{high:.2f})"
    return [f"{row.pair}, {row.backend}", row.way, str(row.count or "–"), told, f"{row.length:.2f}", f"{row.gain:.2f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    quick = "two turns of 12 tokens on the bundled pair"
    experiment = Experiment("parallel", "Drafting while the target verifies", __doc__, quick, threads=2)
    add = experiment.parser.add_argument
    add("--turns", type=at_least(1), default=6)
    add("--tokens", type=at_least(1), default=48)
    add("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    options = experiment.start(arguments)
    if options.quick:
        options.turns, options.tokens = 2, 12
    bundled = bundled_pair()
    pairs = {"bundled": bundled} | ({} if options.quick else {f"{DEEP_LAYERS} layers with {GROWN_FROM}": deep_pair()})
    found: list[Row] = []
    ratios: list[Ratio] = []
    for pair, models in pairs.items():
        prompts = [[(17 * i * i + 5 * i + n) % 499 for i in range(1, 17)] for n in range(options.turns)]
        for backend in options.backends:
            ways = decoders(models, backend, options.tokens)
            turns = list(track(take_turns(ways, prompts, options.turns), f"{pair}, {backend}", options.turns))
            found += (these := list(rows(pair, backend, ways, turns)))
            ratios.append(ratio(pair, backend, ways, these))
    settings = {name: getattr(options, name) for name in ("turns", "tokens", "threads", "backends")}
    told = {"rows": [asdict(row) for row in found], "ratios": [asdict(one) for one in ratios]}
    print(experiment.save(blocks(found, ratios, options.turns, options.tokens), settings=settings, **told))


if __name__ == "__main__":
    main()
