"""Do chains pay on models with recurrent layers, where what was kept of a rejected draft is read again?

    python -m experiments.hybrids [--tokens 48] [--turns 4] [--threads 1] [--quick]

Random models of about 100M weights in float32, as hybrids are built, and a model of attention alone beside them. An oracle
drafts: it knows the text, costs nothing, and is right with a probability that is a dial. Plain decoding and chains take turns.
Writes hybrids.json and hybrids.md into --out.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import torch
from rich.progress import track
from transformers import AutoConfig, AutoModelForCausalLM

import draftgraph as dg
from draftgraph.backends.base import Feed, Scored
from draftgraph.lab.turns import Answer, Turn, answer_of, take_turns
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table

LINEAR, FULL = "linear_attention", "full_attention"
PROMPT = 256
"""Tokens of a prompt."""


@dataclass(frozen=True)
class Size:
    """Sizes that all models share."""

    vocab: int = 16384
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    head: int = 64
    window: int = 2048

    def common(self) -> dict[str, Any]:
        return {
            "vocab_size": self.vocab, "hidden_size": self.hidden, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.heads // 3, "intermediate_size": 8 * self.hidden // 3,
            "max_position_embeddings": self.window, "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
            "pad_token_id": None,
        }  # fmt: skip


FULL_SIZE, QUICK_SIZE = Size(), Size(vocab=128, hidden=96, layers=4, heads=3, head=32, window=512)


def families(size: Size) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name in the report, model type and its options."""
    quarter = [LINEAR, LINEAR, LINEAR, FULL] * (size.layers // 4)
    delta = {
        "layer_types": quarter, "head_dim": size.head, "linear_key_head_dim": size.head, "linear_value_head_dim": size.head,
        "linear_num_key_heads": size.heads, "linear_num_value_heads": size.heads,
    }  # fmt: skip
    mamba = {
        "mamba_d_ssm": size.hidden, "mamba_n_heads": size.heads, "mamba_d_head": size.hidden // size.heads, "mamba_n_groups": 1,
        "mamba_d_state": size.head, "mamba_chunk_size": 64, "head_dim": size.head,
    }  # fmt: skip
    return {
        "attention alone (llama)": ("llama", {"head_dim": size.head}),
        "3 of 4 layers linear attention (qwen3_5_text)": ("qwen3_5_text", delta),
        "Mamba-2 beside attention (falcon_h1)": ("falcon_h1", mamba),
        "3 of 4 layers convolutions (lfm2)": (
            "lfm2", {"layer_types": [FULL if kind == FULL else "conv" for kind in quarter]},
        ),
    }  # fmt: skip


class Oracle(dg.Drafter):
    """Chains of the text that the target says, with a wrong token for a share of all positions.

    text  token ids, by prompt. length  of a chain. agreement  probability that a token is right.
    """

    draws = ("fixed",)
    structure = dg.structures.Chain()

    def __init__(self, vocab: int) -> None:
        self.vocab, self.length, self.agreement = vocab, 0, 1.0
        self.texts: dict[tuple[int, ...], list[int]] = {}

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        prompt = request.tokens[: len(request.tokens) - len(request.output)]
        done = len(request.output)
        graph, node = dg.DraftGraph(), dg.ROOT
        wanted = min(self.length, limits.reach, limits.budget)
        for place, token in enumerate(self.texts.get(tuple(prompt), [])[done : done + wanted], done):
            right = Random(f"{place} after {prompt[-1]}").random() < self.agreement
            node = graph.fix(node, token if right else (token + 1) % self.vocab)
        return dg.Draft(graph)


class Measured:
    """An engine over one model, and the rows that its target reads."""

    def __init__(self, kind: str, options: dict[str, Any], size: Size, most: int) -> None:
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **size.common() | options)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self.oracle = Oracle(size.vocab)
        self.engine = dg.Engine.from_pretrained(model, drafter=self.oracle, budget=most)
        self.rows = 0
        self._forward = self.engine.target.forward
        self.engine.target.forward = self._counted  # type: ignore[method-assign]

    def _counted(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        self.rows += sum(feed.num_rows for feed in feeds)
        return self._forward(feeds, taps)


@dataclass
class Way:
    """Chains of one length from an oracle of one agreement; length 0 is plain decoding.

    again  rows that the last answer read although they had been read before.
    """

    name: str
    measured: Measured
    length: int
    agreement: float
    tokens: int
    again: int = 0

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        oracle, self.measured.rows = self.measured.oracle, 0
        oracle.length, oracle.agreement = self.length, self.agreement
        params = dg.SamplingParams(max_new_tokens=self.tokens, ignore_eos=True)
        found = answer_of(self.measured.engine, prompt, params, seed)
        if not self.length:
            oracle.texts[tuple(prompt)] = found.ids
        self.again = self.measured.rows - len(prompt) - (len(found.ids) - 1) - (found.nodes - self.kept(found))
        return found

    @staticmethod
    def kept(found: Answer) -> int:
        """Drafted tokens that were kept, which the draft's own pass has read."""
        return len(found.ids) - found.rounds


@dataclass(frozen=True)
class Row:
    """One way on one model.

    ratio   CPU seconds per token of plain decoding over those of the way, median over turns. wall  the same by wall time.
    ms      CPU milliseconds per token, median. length  tokens per target call.
    again   rows per target call that had been read before, in the last turn.
    same    texts that are those of plain decoding, of `texts`.
    """

    model: str
    way: str
    ratio: float
    wall: float
    ms: float
    length: float
    again: float
    same: int
    texts: int


def ways(measured: Measured, tokens: int, lengths: Sequence[int], dials: Sequence[float]) -> list[Way]:
    drafted = [
        Way(f"chain of {length}, {dial:.0%} right", measured, length, dial, tokens)
        for dial in dials
        for length in lengths
    ]
    return [Way("plain", measured, 0, 1.0, tokens), *drafted]


def rows(model: str, every: Sequence[Way], turns: Sequence[Turn]) -> Iterator[Row]:
    for way in every:
        runs, plain = [turn.timed[way.name] for turn in turns], [turn.timed["plain"] for turn in turns]
        pairs = list(zip(plain, runs, strict=True))
        rounds = sum(run.answer.rounds for run in runs)
        yield Row(
            model,
            way.name,
            statistics.median(before.on_core / after.on_core for before, after in pairs),
            statistics.median(before.seconds / after.seconds for before, after in pairs),
            1e3 * statistics.median(run.on_core / len(run.answer.ids) for run in runs),
            sum(len(run.answer.ids) for run in runs) / rounds,
            way.again / runs[-1].answer.rounds,
            sum(before.answer.ids == after.answer.ids for before, after in pairs),
            len(pairs),
        )


def blocks(tokens: int, parameters: dict[str, int], found: Sequence[Row]) -> list[str | Sheet]:
    sizes = ", ".join(f"{name} {count / 1e6:.0f}M" for name, count in parameters.items())
    return [
        f"Random weights in float32: {sizes}. Prompts of {PROMPT} tokens, {tokens} new ones, greedy, the prompt's pass included. "
        "An oracle that costs nothing drafts, so that the ratios are upper bounds for drafters that are right as often.",
        "plain / way: CPU seconds of the thread, of plain decoding over those of the way, median over turns; wall: the same by "
        "wall time. Read again: rows per target call that had been read before, since a state was put back.",
        table(
            ["model", "way", "plain / way", "wall", "ms per token", "τ", "read again", "same texts"], map(_cells, found)
        ),
    ]


def _cells(row: Row) -> list[str]:
    figures = [f"{row.ratio:.2f}", f"{row.wall:.2f}", f"{row.ms:.1f}", f"{row.length:.2f}", f"{row.again:.2f}"]
    return [row.model, row.way, *figures, f"{row.same} of {row.texts}"]


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment(
        "hybrids", "Chains on models with recurrent layers", __doc__, "tiny models, 12 tokens, 1 turn"
    )
    add = experiment.parser.add_argument
    add("--tokens", type=at_least(4), default=48, help="per answer")
    add("--turns", type=at_least(1), default=4, help="in which everybody answers once")
    add("--lengths", type=at_least(1), nargs="+", default=[2, 4, 8], help="of chains")
    add("--dials", type=float, nargs="+", default=[0.6, 0.9], help="probabilities that a drafted token is right")
    options = experiment.start(arguments)
    size = QUICK_SIZE if options.quick else FULL_SIZE
    tokens, count = (12, 1) if options.quick else (options.tokens, options.turns)
    prompts = [[(7 * i * i + (3 + n) * i) % size.vocab for i in range(PROMPT)] for n in range(2)]
    found: list[Row] = []
    parameters: dict[str, int] = {}
    for name, (kind, given) in families(size).items():
        measured = Measured(kind, given, size, max(options.lengths))
        parameters[name] = measured.parameters
        every = ways(measured, tokens, options.lengths, options.dials)
        for prompt in prompts:
            every[0].answer(prompt, 0)  # the oracle hears the texts
        found += rows(name, every, list(track(take_turns(every, prompts, count), name, count)))
        settings = {each: getattr(options, each) for each in ("tokens", "turns", "lengths", "dials", "threads")}
        text = experiment.save(
            blocks(tokens, parameters, found), settings=settings, rows=[asdict(row) for row in found]
        )
    print(text)


if __name__ == "__main__":
    main()
