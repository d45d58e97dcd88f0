"""How often are drafts of a trained drafter accepted on kinds of prompts that it has not learnt?

    python -m experiments.kinds --model SmolLM2-135M-Instruct --drafters FOLDER FOLDER [--work FOLDER]

The target answers prompts of Spec-Bench's kinds once, greedily and at temperature 1; answers and its hidden states lie in --work.
Acceptance is that of chains, at every position of these answers (`lab/train/features/measure.py`), with standard errors over
prompts. Writes kinds.json and kinds.md into --out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from draftgraph.backends.eos import eos_ids
from draftgraph.backends.feature_files import read_features
from draftgraph.backends.features import part_of_head
from draftgraph.lab.predict.estimate import Estimate, ratio
from draftgraph.lab.texts import laid_out
from draftgraph.lab.train.features.answering import answering
from draftgraph.lab.train.features.answers import Answer, read_answers, write_answers
from draftgraph.lab.train.features.loop import MEASURED_ROWS
from draftgraph.lab.train.features.measure import HeldOut
from draftgraph.lab.train.features.reading import LiveReading
from draftgraph.lab.train.features.stored import StoredReading
from draftgraph.lab.train.features.unroll import entries_of
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table

TEMPERATURES = (0.0, 1.0)
CHAIN = 3
"""Tokens of the chain whose tokens per call are told."""
ALL = "all"


@dataclass(frozen=True)
class Row:
    """accepted  by position. tokens  per call of a chain of CHAIN."""

    drafter: str
    kind: str
    temperature: float
    accepted: list[Estimate]
    tokens: Estimate


def prompts(data: Path, count: int) -> Iterator[tuple[str, str]]:
    """Kinds and texts of at most `count` prompts of each kind."""
    lines = (data / "prompts" / "spec_bench_dev100.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    for kind in dict.fromkeys(entry["category"] for entry in entries):
        yield from [(kind, entry["turns"][0]) for entry in entries if entry["category"] == kind][:count]


def answered(options: argparse.Namespace, target: PreTrainedModel) -> tuple[list[str], list[Answer]]:
    """Kinds and answers, one of each temperature per prompt. Answers that are in --work are taken from there."""
    asked = list(prompts(options.data, options.prompts))
    file = options.work / f"answers-{len(asked)}-{options.tokens}.jsonl.gz"
    if not file.exists():
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        ids = [laid_out([{"role": "user", "content": text}], tokenizer) for _, text in asked]
        loading = {"dtype": "bfloat16"}
        answer = answering(target, str(options.model), options.tokens, sorted(eos_ids(target, tokenizer)), loading)
        write_answers(file, answer([(each, at) for each in ids for at in TEMPERATURES], 0))
    return [kind for kind, _ in asked for _ in TEMPERATURES], read_answers([file])


def measured(options: argparse.Namespace) -> list[Row]:
    target = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).requires_grad_(False)
    kinds, answers = answered(options, target)
    return [
        row
        for folder in options.drafters
        for row in of_drafter(folder, target, kinds, answers, options.work / "states")
    ]


def of_drafter(
    folder: Path, target: PreTrainedModel, kinds: Sequence[str], answers: Sequence[Answer], work: Path
) -> list[Row]:
    """The rows of one drafter: all kinds together, and each alone."""
    net, tokens = read_features(folder, target)
    head = target.get_output_embeddings()
    live = LiveReading(target, part_of_head(head, tokens), net.shape.taps)
    reading = StoredReading(work, answers, live, net.features)
    reading.fill()
    entries = entries_of(tokens, head.weight.shape[0])
    kept: list[tuple[str, float, list[float], int]] = []
    for kind, answer in zip(kinds, answers, strict=True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = HeldOut(reading, [answer], entries, MEASURED_ROWS).acceptance(net, CHAIN)
        for each in found.values():  # none where the answer is shorter than a chain
            kept.append((kind, answer.temperature, [1.0, *each.kept], each.rows))
    return [
        _row(folder, kind, at, [(rates, rows) for k, t, rates, rows in kept if t == at and kind in (ALL, k)])
        for kind in (ALL, *dict.fromkeys(kinds))
        for at in TEMPERATURES
    ]


def _row(folder: Path, kind: str, temperature: float, kept: Sequence[tuple[list[float], int]]) -> Row:
    """From what each answer says: chances to keep 0, 1, 2, … tokens, and how many places they are of.

    Acceptance is NaN at a position that no draft reaches.
    """
    places = [float(rows) for _, rows in kept]
    sums = [[rates[depth] * rows for rates, rows in kept] for depth in range(CHAIN + 1)]
    count = int(sum(places))
    accepted = [
        ratio(now, before, count) if sum(before) else Estimate(math.nan, math.nan, len(kept), count)
        for before, now in itertools.pairwise(sums)
    ]
    return Row(
        folder.name, kind, temperature, accepted, ratio([sum(each) for each in zip(*sums, strict=True)], places, count)
    )


def cells(row: Row) -> list[str]:
    rates = [f"{each.value:.3f} ± {each.error:.3f}" for each in row.accepted]
    return [row.drafter, row.kind, f"{row.temperature:g}", *rates, f"{row.tokens.value:.2f} ± {row.tokens.error:.2f}"]


def blocks(options: argparse.Namespace, found: Sequence[Row]) -> list[str | Sheet]:
    return [
        f"{options.prompts} prompts of each kind at most, answers of at most {options.tokens} tokens, which the target says in "
        f"bfloat16. Acceptance by position, and tokens per call of a chain of {CHAIN}, with standard errors over prompts.",
        table(
            ["drafter", "kind", "temperature", *(f"position {i + 1}" for i in range(CHAIN)), "tokens per call"],
            map(cells, found),
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(
        "kinds", "Kinds of prompts that were not learnt", __doc__, "two prompts of each kind, 12 tokens"
    )
    add = experiment.parser.add_argument
    add("--model", type=Path, required=True, help="folder of a chat model")
    add("--drafters", type=Path, nargs="+", required=True, help="folders of drafters that were trained for it")
    add("--work", type=Path, required=True, help="folder for answers and hidden states, which are made once")
    add("--prompts", type=at_least(1), default=20, help="of each kind")
    add("--tokens", type=at_least(CHAIN + 2), default=96)
    options = experiment.start(arguments)
    if options.quick:
        options.prompts, options.tokens = 2, 12
    found = measured(options)
    settings: dict[str, Any] = {name: getattr(options, name) for name in ("prompts", "tokens", "threads")}
    print(experiment.save(blocks(options, found), settings=settings, rows=[_plain(row) for row in found]))


def _plain(row: Row) -> dict[str, Any]:
    accepted = [None if math.isnan(each.value) else [each.value, each.error] for each in row.accepted]
    told = {"accepted": accepted, "tokens": [row.tokens.value, row.tokens.error]}
    return {"drafter": row.drafter, "kind": row.kind, "temperature": row.temperature, **told}


if __name__ == "__main__":
    main()
