"""What does a pass over many requests cost, by their number and by how long their texts are?

    python -m experiments.batch_passes [--sizes 1 2 4 8 16 32] [--contexts 512 2048 8192] [--layers 3] [--quick]

A random model with the widths of SmolLM2-135M and few layers, whose requests have caches of their own. CPU time of passes with
one row per request, as without drafts, and with a chain of four. Writes batch_passes.json and batch_passes.md into --out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import draftgraph as dg
from draftgraph.backends.base import CacheHandle, CausalLM, Feed
from draftgraph.backends.prefill import read_piece
from draftgraph.types import ROOT
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table

ROWS = (1, 5)
"""Rows per request: none drafted, and a chain of four."""
VOCABULARY = 8192
SMOLLM2_LAYERS = 30


@dataclass(frozen=True)
class Row:
    """ms  CPU time of a pass, by rows per request: medians."""

    context: int
    requests: int
    ms: Sequence[float]


def widths_of_smollm2(layers: int, window: int) -> LlamaForCausalLM:
    """A random model; its vocabulary is smaller, for the head has nothing to do with the number of requests."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=window, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@torch.inference_mode()
def measure(model: CausalLM, contexts: Sequence[int], sizes: Sequence[int], repeats: int) -> Iterator[Row]:
    """All requests are read to one context after the other, and timed there in groups."""
    texts = [model.open(max(contexts)) for _ in range(max(sizes))]
    try:
        for context in sorted(contexts):
            for text in texts:
                while len(text) < context:
                    unread = [(7 * i) % VOCABULARY for i in range(len(text), context)]
                    if read_piece(model, text, unread) is None:
                        model.forward([Feed(text, unread)])
            for size in sizes:
                yield Row(context, size, [1e3 * seconds(model, texts[:size], rows, repeats) for rows in ROWS])
    finally:
        for text in texts:
            model.close(text)


def seconds(model: CausalLM, texts: Sequence[CacheHandle], rows: int, repeats: int) -> float:
    """CPU time of a pass with so many rows per request; the first pass is left out."""
    found = []
    for _ in range(1 + repeats):
        feeds = [Feed(text, [], list(range(rows)), range(ROOT, rows - 1)) for text in texts]
        begun = time.process_time()
        model.forward(feeds)
        found.append(time.process_time() - begun)
        for text in texts:
            model.keep(text, ())
    return statistics.median(found[1:])


def blocks(rows: Sequence[Row], layers: int, cell: int) -> Iterator[str | Sheet]:
    whole = cell / layers * SMOLLM2_LAYERS
    yield (
        f"A random model with the widths of SmolLM2-135M and {layers} layers; CPU milliseconds of a pass, and per request. "
        f"A token of a request takes {cell} bytes here. SmolLM2-135M itself has {SMOLLM2_LAYERS} layers, and takes "
        f"{whole / 1024:.0f} KiB in float32, {whole / 2048:.1f} KiB in bfloat16."
    )
    names = [f"{name} with {count} row{'s' * (count > 1)}" for count in ROWS for name in ("pass", "per request")]
    yield table(
        ["context", "requests", *names],
        (
            [
                str(row.context),
                str(row.requests),
                *(f"{ms:.2f}" for each in row.ms for ms in (each, each / row.requests)),
            ]
            for row in rows
        ),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(
        "batch_passes", "Passes over many requests", __doc__, "1 and 2 requests of 16 and 32 tokens"
    )
    add = experiment.parser.add_argument
    add("--sizes", type=at_least(1), nargs="+", default=[1, 2, 4, 8, 16, 32], help="requests at once")
    add("--contexts", type=at_least(1), nargs="+", default=[512, 2048, 8192], help="tokens of each")
    add("--layers", type=at_least(1), default=3, help="of the model")
    add("--repeats", type=at_least(1), default=7, help="passes per figure")
    add("--backend", default="auto", help="torch or openvino")
    options = experiment.start(arguments)
    if options.quick:
        options.sizes, options.contexts, options.layers, options.repeats = [1, 2], [16, 32], 1, 1
    lm = widths_of_smollm2(options.layers, max(options.contexts) + 64)
    engine = dg.Engine.from_pretrained(lm, drafter="lookup", budget=0, backend=options.backend, tokenizer=None)
    rows = list(measure(engine.target, options.contexts, options.sizes, options.repeats))
    cell = engine.target.cell_bytes
    report = blocks(rows, options.layers, cell)
    print(experiment.save(report, rows=[asdict(row) for row in rows], cell_bytes=cell))


if __name__ == "__main__":
    main()
