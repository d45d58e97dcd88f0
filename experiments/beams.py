"""What do drafts save where several beams go on, and what does that cost beside transformers' own beams?

    python -m experiments.beams [--beams 1 2 4] [--prompts 3] [--tokens 32] [--quick]

The bundled pair continues beginnings of Python functions, without an end token: sampled beams and searched ones, on torch and on
OpenVINO, without drafts and with them; transformers' own beam sampling and beam search; and the plain reference sampler, which
reads every text anew. Everybody in turns. Writes beams.json and beams.md into --out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.progress import track
from transformers import AutoModelForCausalLM, PreTrainedModel

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.lab.bench.prompts import BUNDLED, read_prompts
from draftgraph.lab.plain_beams import plain_beam_sample
from draftgraph.lab.turns import Answer, Turn, take_turns
from draftgraph.sampling.rng import Noise, Role
from draftgraph.verification.base import sample
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table

BACKENDS = ("torch", "openvino")
DRAFTS: dict[str, dict[str, Any]] = {
    "no drafts": {"num_speculative_tokens": 0},
    "1 layer": {"num_speculative_tokens": 1},
    "default": {},
    "4 layers": {"num_speculative_tokens": 4},
    "4 layers, widths by threshold": {"num_speculative_tokens": 4, "width": "threshold"},
}
Run = Callable[[Sequence[int], int], tuple[list[int], int, int]]
"""run(prompt, seed) -> the best beam's ids, target calls, and rows that the target computed in them."""


@dataclass(frozen=True)
class Beams:
    """A way to continue a prompt with beams. base  the name of the way that it is compared with."""

    name: str
    base: str
    run: Run

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        begun = time.process_time()
        ids, calls, rows = self.run(prompt, seed)
        return Answer(ids, calls, rows, {"cpu": time.process_time() - begun})


@dataclass(frozen=True)
class Row:
    """One way: medians over turns, of CPU milliseconds per layer and of the base's over its own, with the extremes.

    calls, rows  of the target, per layer.
    """

    beams: int
    task: str
    way: str
    ms: float
    ratio: tuple[float, float, float]
    calls: float
    rows: float


def ours(engine: dg.Engine, task: str, beams: int, tokens: int, options: dict[str, Any]) -> Run:
    params = dg.BeamParams(num_beams=beams, max_new_tokens=tokens, ignore_eos=True, **options)

    def run(prompt: Sequence[int], seed: int) -> tuple[list[int], int, int]:
        decode = engine.beam_sample if task == "sample" else engine.beam_search
        result = decode(list(prompt), params, seed=seed)
        return result.token_ids, result.stats.num_target_calls, result.stats.num_target_rows

    return run


def theirs(model: PreTrainedModel, task: str, beams: int, tokens: int) -> Run:
    def run(prompt: Sequence[int], seed: int) -> tuple[list[int], int, int]:
        torch.manual_seed(seed)
        ids = torch.tensor([list(prompt)])
        options = {"num_beams": beams, "max_new_tokens": tokens, "do_sample": task == "sample", "pad_token_id": 0}
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), **options)  # type: ignore[operator]
        return whole[0, len(prompt) :].tolist(), tokens, len(prompt) + beams * (tokens - 1)

    return run


def reference(model: PreTrainedModel, beams: int, tokens: int) -> Run:
    params = dg.BeamParams(num_beams=beams, max_new_tokens=tokens)

    @torch.inference_mode()
    def run(prompt: Sequence[int], seed: int) -> tuple[list[int], int, int]:
        noise, calls, rows = Noise(seed), [0], [0]

        def law(output: tuple[int, ...]) -> torch.Tensor:
            rows[0] += len(prompt) + len(output)
            return model(torch.tensor([[*prompt, *output]])).logits[0, -1].double().softmax(-1)

        def draw(weights: torch.Tensor) -> int:
            calls[0] += 1
            return sample(weights, noise.uniform(calls[0], Role.DRAFT))

        best = plain_beam_sample(law, draw, params, ())[0]
        return list(best[1]), tokens, rows[0]

    return run


def contenders(beams: int, tokens: int) -> list[Beams]:
    """All ways for one number of beams."""
    target, drafter = bundled_pair()
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    found = []
    for task in ("sample", "search"):
        for backend in BACKENDS:
            engine = dg.Engine.from_pretrained(target, draft_model=drafter, backend=backend)
            for way, options in DRAFTS.items():
                if task == "sample" or "width" not in options:
                    base = f"{task}: {backend}, no drafts"
                    found.append(Beams(f"{task}: {backend}, {way}", base, ours(engine, task, beams, tokens, options)))
        found.append(Beams(f"{task}: transformers", f"{task}: torch, no drafts", theirs(model, task, beams, tokens)))
    found.append(Beams("sample: reference", "sample: torch, no drafts", reference(model, beams, tokens)))
    return found


def rows(beams: int, ways: Sequence[Beams], turns: Sequence[Turn]) -> list[Row]:
    """One per way."""
    return [_row(beams, way, turns) for way in ways]


def _row(beams: int, way: Beams, turns: Sequence[Turn]) -> Row:
    answers = [turn.timed[way.name].answer for turn in turns]
    layers = sum(len(answer.ids) for answer in answers)
    ratios = [_pace(turn.timed[way.base].answer) / _pace(turn.timed[way.name].answer) for turn in turns]
    task, _, name = way.name.partition(": ")
    return Row(
        beams,
        task,
        name,
        1e3 * statistics.median(map(_pace, answers)),
        (statistics.median(ratios), min(ratios), max(ratios)),
        sum(answer.rounds for answer in answers) / layers,
        sum(answer.nodes for answer in answers) / layers,
    )


def _pace(answer: Answer) -> float:
    """CPU seconds per layer."""
    assert answer.parts is not None, "they were measured"
    return answer.parts["cpu"] / len(answer.ids)


def blocks(tokens: int, found: Sequence[Row]) -> list[str | Sheet]:
    return [
        f"The bundled pair, {tokens} layers per answer, reading the prompt included. CPU time of the process, medians over "
        "prompts. Beams per second: beams of a layer over its time. Ratios: the time without drafts on the same backend (torch "
        "for transformers and the reference) over that of the way; median, least and largest. Below 1 the way is slower.",
        "transformers draws beams without replacement, which is another law than ours. Its search is the same.",
        table(
            [
                "beams",
                "task",
                "way",
                "ms per layer",
                "beams per second",
                "ratio",
                "target calls per layer",
                "rows per layer",
            ],
            map(_cells, found),
        ),
    ]


def _cells(row: Row) -> list[str]:
    middle, low, high = row.ratio
    speed = [f"{row.ms:.2f}", f"{1e3 * row.beams / row.ms:.0f}", f"{middle:.2f} ({low:.2f}–{high:.2f})"]
    return [str(row.beams), row.task, row.way, *speed, f"{row.calls:.2f}", f"{row.rows:.1f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment("beams", "Beams", __doc__, "one prompt, two beams, 8 tokens")
    add = experiment.parser.add_argument
    add("--beams", type=at_least(1), nargs="+", default=[1, 2, 4])
    add("--prompts", type=at_least(1), default=3)
    add("--tokens", type=at_least(1), default=32)
    options = experiment.start(arguments)
    if options.quick:
        options.prompts, options.beams, options.tokens = 1, [2], 8
    tokenizer = dg.Engine.from_pretrained(bundled_pair()[0], backend="torch").tokenizer
    texts = [entry.turns[0] for entry in read_prompts(BUNDLED).entries][: options.prompts]
    prompts = [tokenizer(text)["input_ids"] for text in texts]  # type: ignore[misc]
    found: list[Row] = []
    settings = {name: getattr(options, name) for name in ("beams", "prompts", "tokens", "threads")}
    report = ""
    for beams in options.beams:
        ways = contenders(beams, options.tokens)
        turns = list(track(take_turns(ways, prompts, len(prompts)), f"{beams} beams", len(prompts)))
        found += rows(beams, ways, turns)
        told = [asdict(row) for row in found]
        report = experiment.save(blocks(options.tokens, found), settings=settings, rows=told)
    print(report)


if __name__ == "__main__":
    main()
