"""How much does a drafter for SmolLM2-135M-Instruct gain from millions of tokens of the target's answers?

    python -m experiments.train_smollm2 --gguf FILE --prompts FILE --answers FILE --out FOLDER --minutes 5

In a fixed time it reads the target, has it answer as many prompts as it can, trains the staged recipe on old and new answers, and
measures on held-out prompts and on held-out kinds of prompts. A part that fails is recorded, and the next goes on with what there
is. OUT gets report.json, answers-N.jsonl.gz and drafter/ (weights, config, card). Its end: docs/training.md tells the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from draftgraph.backends.feature_files import packed
from draftgraph.backends.features import FeatureNet, FeatureShape, default_taps
from draftgraph.lab.train.features.answers import (
    Answer,
    Split,
    frequent_tokens,
    read_answers,
    read_prompts,
    split,
    write_answers,
)
from draftgraph.lab.train.features.generate import Asked, answer_all
from draftgraph.lab.train.features.loop import MEASURED_ROWS, Training
from draftgraph.lab.train.features.measure import DEPTH, acceptance
from draftgraph.lab.train.features.recipe import Recipe, Span
from draftgraph.lab.train.whole_files import write_bytes

TEMPERATURES, SHARES = (0.0, 0.6, 0.8, 1.0), (0.2, 0.27, 0.32, 0.21)
MOST_TOKENS = 192
MOST_FILE_BYTES = 13 << 20
EOS = (2,)
FINISHING_SECONDS = 14.0
GENERATING = 0.42
"""Share of the time after the target was read."""
MEASURED_ANSWERS = 64
"""Held-out answers that are measured while training, of greedy and of sampled ones each."""
POOL = 6
"""Batches whose prompts are sorted by length together."""


@dataclass
class Run:
    """What all parts share: options, a clock that began with the process, and the report."""

    options: argparse.Namespace
    device: torch.device
    began: float
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds until the last part has to write its results."""
        return self.options.minutes * 60.0 - (time.monotonic() - self.began) - self.finishing

    @property
    def finishing(self) -> float:
        return min(FINISHING_SECONDS, 0.15 * self.options.minutes * 60.0)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[dict[str, Any]]:
        """A part of the run: its seconds and, if it fails, why. The run goes on."""
        told: dict[str, Any] = {}
        self.report[name] = told
        started = time.monotonic()
        try:
            yield told
        except Exception:
            told["failed"] = traceback.format_exc()
            print(told["failed"], flush=True)
        told["seconds"] = round(time.monotonic() - started, 2)
        if self.device.type == "cuda":
            told["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            torch.cuda.reset_peak_memory_stats()
        print(name, json.dumps({key: value for key, value in told.items() if key != "failed"})[:1500], flush=True)
        with contextlib.suppress(Exception):
            write_bytes(self.options.out / "report.json", json.dumps(self.report, indent=1).encode())


def main() -> None:
    began = time.monotonic()
    options = parse()
    device = torch.device("cpu" if options.cpu or not torch.cuda.is_available() else "cuda")
    torch.manual_seed(options.seed)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it builds a plan for every shape
    run = Run(options, device, began)
    run.report["machine"] = machine(device)
    target = None
    with run.part("target") as told:
        target = read_model(options, device)
        told["layers"] = target.config.num_hidden_layers
    if target is None:
        return
    answers: list[Answer] = []
    with run.part("answers") as told:
        answers += read_answers(options.answers)
        told["tokens"] = sum(answer.num_answered for answer in answers)
    if options.prompts is not None:
        answers += generate(run, target)
    parts = Split([], [], [])
    with run.part("split") as told:
        kinds = json.loads(options.held_out_kinds.read_text()) if options.held_out_kinds else []
        parts = split(answers, kinds)
        told |= {name: sum(a.num_answered for a in part) for name, part in vars(parts).items()}
    train(run, target, parts)
    print("done", round(time.monotonic() - began, 1), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, help="the target as a GGUF file")
    parser.add_argument("--target", type=Path, help="the target as a folder")
    parser.add_argument("--prompts", type=Path, help="gzipped JSON lines with p, prompt token ids")
    parser.add_argument(
        "--held-out-kinds", type=Path, help="JSON list of token ids that held-out kinds of prompts begin with"
    )
    parser.add_argument("--answers", type=Path, nargs="*", default=[], help="answers that are there already")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=1024, help="answers that are decoded at once")
    parser.add_argument("--most-tokens", type=int, default=MOST_TOKENS)
    parser.add_argument("--head", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=16384, help="padded rows per update")
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--generating", type=float, default=GENERATING, help="share of the time")
    parser.add_argument("--curve", type=float, nargs="*", default=[], help="also train on these shares of the answers")
    parser.add_argument("--curve-seconds", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="about 40 seconds: do all parts work, and how fast are they"
    )
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.minutes = min(options.minutes, 0.7)
    return options


def machine(device: torch.device) -> dict[str, Any]:
    import transformers

    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}


def read_model(options: argparse.Namespace, device: torch.device) -> PreTrainedModel:
    if options.gguf is not None:
        folder, file = str(options.gguf.parent), options.gguf.name
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)
    else:
        model = AutoModelForCausalLM.from_pretrained(str(options.target), dtype=torch.bfloat16)
    ready: PreTrainedModel = model.to(device).eval().requires_grad_(False)
    return ready


def asked_for(prompts: Sequence[Sequence[int]], batch: int, seed: int) -> Iterator[list[Asked]]:
    """Batches of prompts of similar length with temperatures, without end. A prompt is answered greedily once."""
    random = np.random.default_rng(seed)
    greedy = random.random(len(prompts)) < SHARES[0] * 2.0  # about two rounds are expected
    number = 0
    while True:
        pool: list[Asked] = []
        for i in random.permutation(len(prompts)):
            drawn = float(random.choice(TEMPERATURES[1:], p=np.array(SHARES[1:]) / sum(SHARES[1:])))
            pool.append((prompts[i], 0.0 if greedy[i] and number == i % 2 else drawn))
        for start in range(0, len(pool), POOL * batch):
            part = sorted(pool[start : start + POOL * batch], key=lambda asked: len(asked[0]))
            groups = [part[i : i + batch] for i in range(0, len(part), batch)]
            yield from (groups[i] for i in random.permutation(len(groups)))
        number += 1


def generate(run: Run, target: PreTrainedModel) -> list[Answer]:
    """New answers, written to OUT as well."""
    answers: list[Answer] = []
    with run.part("generation") as told, tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(2) as writer:
        options = run.options
        end = time.monotonic() + run.left * options.generating
        captured = run.device.type == "cuda"
        shards: list[tuple[Path, Future[None]]] = []
        told["batches"] = []
        for group in asked_for(read_prompts(options.prompts), options.batch, options.seed):
            started = time.monotonic()
            if started > end:
                break
            with heard(told, "capture failed"):
                new = answer_all(
                    target, group, options.most_tokens, EOS, captured, lambda: time.monotonic() > end + 4.0
                )
            if "capture failed" in told and captured:
                captured = False
                continue
            answers += new
            shards.append((Path(work) / f"{len(shards)}.gz", None))  # type: ignore[arg-type]
            shards[-1] = (shards[-1][0], writer.submit(write_answers, shards[-1][0], new))
            tokens = sum(answer.num_answered for answer in new)
            told["batches"].append([len(group), tokens, round(time.monotonic() - started, 3)])
            told["tokens"] = told.get("tokens", 0) + tokens
        told["captured"] = captured
        told["files"] = gather(options.out, shards)
    return answers


@contextlib.contextmanager
def heard(told: dict[str, Any], name: str) -> Iterator[None]:
    """The first failure inside is recorded under `name`; a second one is raised."""
    try:
        yield
    except Exception:
        if name in told:
            raise
        told[name] = traceback.format_exc()
        print(told[name], flush=True)


def gather(out: Path, shards: Sequence[tuple[Path, Future[None]]]) -> dict[str, int]:
    """Shards as few files; gzipped parts may stand one behind the other. Returns their sizes."""
    files: list[bytes] = [b""]
    for file, written in shards:
        written.result()
        content = file.read_bytes()
        if len(files[-1]) + len(content) > MOST_FILE_BYTES:
            files.append(b"")
        files[-1] += content
    for number, content in enumerate(files):
        write_bytes(out / f"answers-{number}.jsonl.gz", content)
    return {f"answers-{number}.jsonl.gz": len(content) for number, content in enumerate(files)}


def train(run: Run, target: PreTrainedModel, parts: Split) -> None:
    """The drafter on all answers, then on shares of them."""
    options, curve = run.options, run.options.curve
    made: Training | None = None
    with run.part("training") as told:
        seconds = max(5.0, run.left - len(curve) * options.curve_seconds)
        told["head"], made = train_once(run, target, parts.train, parts, seconds, told)
    if made is not None:
        finish(run, target, made, parts)
    for share in curve:
        with run.part(f"training on {share}") as told:
            few = parts.train[:: max(1, round(1 / share))]
            _, less = train_once(run, target, few, parts, options.curve_seconds, told)
            told["acceptance"] = measured(less, target, parts)


def train_once(
    run: Run, target: PreTrainedModel, answers: Sequence[Answer], parts: Split, seconds: float, told: dict[str, Any]
) -> tuple[dict[str, Any], Training]:
    """A drafter trained for so many seconds. Where memory runs out, with half the rows."""
    options = run.options
    ids, covered = frequent_tokens(answers, target.config.vocab_size, options.head)
    tokens = torch.tensor(ids, device=run.device)
    recipe = Recipe(
        head=options.head, rows=options.rows, peak=options.peak, seed=options.seed, measured=14, patience=1000
    )
    shape = FeatureShape(target.config.hidden_size, default_taps(target.config.num_hidden_layers), options.head)
    net = FeatureNet(shape, target.config).to(run.device)
    net.start_from(target, tokens)
    losses: list[tuple[int, float]] = []
    told["losses"] = losses
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as work:
        while True:
            span = Span(seconds=max(1.0, until - time.monotonic()))
            training = Training(
                net, target, tokens, answers, few_of(parts.new_prompts), recipe, span, Path(work) / "training.pt",
                report=reporter(losses),
            )  # fmt: skip
            try:
                training.run()
                break
            except torch.OutOfMemoryError:
                told.setdefault("halved rows", []).append(recipe.rows)
                recipe = replace(recipe, rows=recipe.rows // 2)
                torch.cuda.empty_cache()
                if recipe.rows < 1024:
                    raise
    told |= {"batches": training.position.batches, "rows": recipe.rows, "history": training.history}
    return {"tokens": len(ids), "covered": covered, "answers": len(answers)}, training


def few_of(answers: Sequence[Answer]) -> list[Answer]:
    """Some answers, greedy and sampled ones."""
    greedy, sampled = ([a for a in answers if (a.temperature == 0) == wanted] for wanted in (True, False))
    return [*greedy[:MEASURED_ANSWERS], *sampled[:MEASURED_ANSWERS]]


def reporter(losses: list[tuple[int, float]]) -> Callable[[Training, torch.Tensor], None]:
    def report(training: Training, loss: torch.Tensor) -> None:
        if training.position.batches % 25 == 1:
            losses.append((training.position.batches, round(loss.item(), 4)))
            print(training.stage.name, *losses[-1], f"{training.progress:.0%}", flush=True)

    return report


def measured(training: Training, target: PreTrainedModel, parts: Split, most: int = 4) -> dict[str, Any]:
    """Acceptance on held-out prompts and kinds."""
    training.net.eval()
    found = {}
    for name, part in (("new prompts", parts.new_prompts), ("new kinds", parts.new_kinds)):
        few = [*few_of(part), *few_of(part[len(part) // 2 :])] if most else part
        with torch.autocast(training.tokens.device.type, dtype=torch.bfloat16):
            each = acceptance(training.net, target, training.tokens, few, MEASURED_ROWS, DEPTH)
        found[name] = {how: one.to_dict() for how, one in each.items()}
    return found


def finish(run: Run, target: PreTrainedModel, training: Training, parts: Split) -> None:
    """The drafter's files, and what it is worth."""
    with run.part("drafter") as told:
        for name, content in packed(training.net, training.tokens, target, torch.bfloat16).items():
            write_bytes(run.options.out / "drafter" / name, content)
            told[name] = len(content)
    with run.part("acceptance") as told:
        told |= measured(training, target, parts)
    card = {key: value for key, value in run.report.items() if key != "generation"}
    with run.part("card"):
        write_bytes(run.options.out / "drafter" / "card.json", json.dumps(card, indent=1).encode())


if __name__ == "__main__":
    main()
