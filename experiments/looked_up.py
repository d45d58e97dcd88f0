"""Looked-up drafts beside those of OpenVINO GenAI, llama.cpp and transformers: the same weights, prompts and turns.

    python -m experiments.looked_up --model /path/to/SmolLM2-135M-Instruct --make FOLDER    # once: what the others read
    python -m experiments.looked_up --model ... --mode f32 --transformers --genai FOLDER --threads 1
    python -m experiments.looked_up --model ... --mode "int8 bf16" --llama FOLDER/q8_0.gguf --threads 2

24 prompts: summaries, edits of code, questions about passages. Everybody continues the same token ids by the same number of
tokens, greedily, and looks its drafts up in the text. Writes looked_up-MODE.json and looked_up-MODE.md into --out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

import draftgraph as dg
from draftgraph.backends.load import load_model
from draftgraph.lab.bench.contenders import Task, Transformers, endless
from draftgraph.lab.turns import Answer, Contender, Turn, take_turns
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table
from experiments.peer_files import LLAMA, make
from experiments.quantised import Decoder, messages

MODES: dict[str, dict[str, Any]] = {
    "f32": {},
    "bf16": {"dtype": "bfloat16", "bitwise": True},
    "int8": {"weights": "int8", "bitwise": True},
    "int8 bf16": {"weights": "int8", "dtype": "bfloat16", "bitwise": True},
}
OURS = {"draftgraph plain": 0, "draftgraph, 5 nodes": 5, "draftgraph, 9 nodes": 9, "draftgraph": "auto"}
"""Budgets. The last one is what everybody is compared with."""
GENAI_DRAFTED, NGRAM = 5, 3
"""Tokens that GenAI looks up, and of a match, as in its documentation."""
LLAMA_DRAFTED = 10
"""Tokens that llama.cpp's binding looks up: its default, which is for GPUs; 2 is what it names for CPUs and is run as well."""
PLAIN, US = "draftgraph plain", "draftgraph"


class GenAi:
    """OpenVINO GenAI in float32, plain or with its prompt lookup."""

    def __init__(self, folder: Path, threads: int, tokens: int, drafted: int = 0) -> None:
        import openvino_genai

        self.name = f"GenAI lookup ({drafted})" if drafted else "GenAI plain"
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        options = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": threads}
        options |= {"scheduler_config": scheduler} | ({"prompt_lookup": True} if drafted else {})
        self.pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", **options)
        self.config = openvino_genai.GenerationConfig()
        self.config.max_new_tokens, self.config.ignore_eos, self.config.do_sample = tokens, True, False
        self.config.apply_chat_template = False
        if drafted:
            self.config.num_assistant_tokens, self.config.max_ngram_size = drafted, NGRAM

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        import openvino
        import openvino_genai

        ids = np.array([list(prompt)], dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        new = [int(token) for token in self.pipeline.generate(inputs, self.config).tokens[0]]
        return Answer(new, len(new), 0)  # it does not say how many passes it made


class Llama:
    """llama.cpp through its binding, plain or with the binding's lookup. Its files and cache are as shipped."""

    def __init__(self, file: Path, threads: int, tokens: int, drafted: int = 0) -> None:
        import llama_cpp
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        self.name = f"llama.cpp {file.stem} lookup ({drafted})" if drafted else f"llama.cpp {file.stem} plain"
        options: dict[str, Any] = {"n_threads": threads, "n_threads_batch": threads, "verbose": False, "n_ctx": 0}
        if drafted:
            options |= {"draft_model": LlamaPromptLookupDecoding(num_pred_tokens=drafted), "logits_all": True}
        self.model, self.tokens = llama_cpp.Llama(str(file), **options), tokens

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        self.model.reset()
        ids = [int(token) for token in islice(self.model.generate(list(prompt), temp=0.0), self.tokens)]
        return Answer(ids, len(ids), 0)  # the binding does not say how many passes it made


def ours(options: argparse.Namespace) -> list[Decoder]:
    loading: dict[str, Any] = {"backend": "openvino", "drafter": "lookup"} | MODES[options.mode]
    found = []
    for name, budget in OURS.items():
        found.append(Decoder(name, dg.Engine.from_pretrained(options.model, budget=budget, **loading), options.tokens))
    found[-1].engine.warm_up()
    return found


def others(options: argparse.Namespace) -> Iterator[Contender]:
    if options.transformers:
        target = endless(load_model(options.model, torch.float32, "cpu"))
        yield Transformers("transformers plain", target, Task(0.0, options.tokens))
        yield Transformers("transformers lookup (10)", target, Task(0.0, options.tokens), prompt_lookup_num_tokens=10)
    if options.genai is not None:
        for drafted in (0, GENAI_DRAFTED):
            yield GenAi(options.genai, options.threads, options.tokens, drafted)
    if options.llama is not None:
        for drafted in (0, LLAMA_DRAFTED, 2):
            yield Llama(options.llama, options.threads, options.tokens, drafted)


@dataclass(frozen=True)
class Row:
    """over_us  seconds of a contender over those of draftgraph: median over turns, 10th and 90th percentile. over_plain  the same
    over draftgraph without drafts. ms  per token. same  texts that are those of draftgraph without drafts.
    """

    kind: str
    name: str
    over_us: tuple[float, float, float]
    over_plain: tuple[float, float, float]
    ms: float
    same: int
    texts: int


def rows(kinds: Sequence[str], names: Sequence[str], turns: Sequence[Turn]) -> list[Row]:
    """Per kind of prompts, and over all."""
    found = []
    for kind in ("all", *dict.fromkeys(kinds)):
        mine = [turn for turn in turns if kind in ("all", kinds[turn.prompt])]
        found += [_row(kind, name, [turn for turn in mine if name in turn.timed]) for name in names]
    return found


def _row(kind: str, name: str, turns: Sequence[Turn]) -> Row:
    over_us, over_plain = (
        _spread([turn.timed[name].pace / turn.timed[other].pace for turn in turns]) for other in (US, PLAIN)
    )
    ms = 1e3 * statistics.median(turn.timed[name].pace for turn in turns)
    same = sum(turn.timed[name].answer.ids == turn.timed[PLAIN].answer.ids for turn in turns)
    return Row(kind, name, over_us, over_plain, ms, same, len(turns))


def _spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    cut = statistics.quantiles(ratios, n=10, method="inclusive") if len(ratios) > 1 else list(ratios) * 9
    return statistics.median(ratios), cut[0], cut[-1]


def blocks(options: argparse.Namespace, found: Sequence[Row]) -> list[str | Sheet]:
    cells = [
        [
            row.kind, row.name, *(f"{a:.2f} ({b:.2f}–{c:.2f})" for a, b, c in (row.over_us, row.over_plain)),
            f"{row.ms:.2f}", f"{row.same} of {row.texts}",
        ]
        for row in found
    ]  # fmt: skip
    return [
        f"{options.mode}, {options.threads} thread(s), greedy, {options.tokens} tokens per answer, reading the prompt included; "
        "everybody in turns. Seconds of each over those of draftgraph as users get it, and over those of draftgraph without "
        "drafts: median over turns, with the 10th and 90th percentile. Above 1 draftgraph is faster. Other weights than "
        "draftgraph's give other texts: llama.cpp's file is quantised by itself.",
        table(["prompts", "who", "over draftgraph", "over plain", "ms per token", "texts of plain"], cells),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(
        "looked_up", "Looked-up drafts beside those of others", __doc__, "a prompt of each kind, 8 tokens"
    )
    add = experiment.parser.add_argument
    add("--model", type=Path, required=True, help="folder of a chat model")
    add("--make", type=Path, default=None, help=f"write what GenAI reads, and {LLAMA}, into this folder, and end")
    add("--mode", choices=list(MODES), default="f32", help="of draftgraph")
    add("--transformers", action="store_true", help="also transformers, plain and with its prompt lookup")
    add("--genai", type=Path, default=None, help="also GenAI in float32; a folder that --make wrote")
    add("--llama", type=Path, default=None, help="also llama.cpp; a GGUF file")
    add("--prompts", type=at_least(1), default=8, help="of each kind")
    add("--repeats", type=at_least(1), default=2)
    add("--tokens", type=at_least(1), default=96)
    options = experiment.start(arguments)
    if options.make is not None:
        make(options.model, options.make)
        return
    if options.quick:
        options.prompts, options.repeats, options.tokens = 1, 1, 8
    experiment.file = experiment.file.with_name(f"{experiment.file.name}-{options.mode.replace(' ', '-')}")
    contenders: list[Contender] = [*ours(options), *others(options)]
    kinds, texts = zip(*messages(options.data / "prompts", options.prompts), strict=True)
    engine = contenders[0].engine  # type: ignore[attr-defined]
    prompts = [engine.chat_prompt(text) for text in texts]
    count = options.repeats * len(prompts)
    turns = list(track(take_turns(contenders, prompts, count), "looked up", count))
    found = rows(kinds, [each.name for each in contenders], turns)
    settings = {name: getattr(options, name) for name in ("mode", "prompts", "repeats", "tokens", "threads")}
    print(experiment.save(blocks(options, found), settings=settings, rows=[asdict(row) for row in found]))


if __name__ == "__main__":
    main()
