"""What does verification itself cost at large vocabularies? Warping and rule beside the target's forward, on this machine.

    python -m experiments.verification [--rounds 20] [--quick]

Targets of random weights, about 100 M parameters, with vocabularies of 32,768 and 151,936; 32 drafted nodes, 11 of them SAMPLED.
The drafter is the target with noise on its output rows, so that mass reaches every depth. Writes verification.json and
verification.md into --out.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.progress import track
from transformers import LlamaConfig, LlamaForCausalLM

import draftgraph as dg
from draftgraph.backends.base import CausalLM, Feed
from draftgraph.backends.prefill import read
from draftgraph.lab.pair import Pair
from draftgraph.lab.turns import Answer, take_turns
from draftgraph.request.clock import Clock
from draftgraph.sampling.rng import Noise
from draftgraph.sampling.warp import Prefixes, Warper
from draftgraph.types import FIXED, TokenTree
from draftgraph.view.sheet import Sheet
from experiments.experiment import Experiment, at_least, table
from experiments.one_round import Witness, draft_at, engine_with

CONTEXT = 64
BRANCHES, DEPTH = 4, 8
DRAFT = {"structure": dg.structures.Tree((BRANCHES, *[1] * (DEPTH - 1)), children="spine")}
SAMPLED = {*range(0, BRANCHES * DEPTH, BRANCHES), *range(BRANCHES + 1, 4 * BRANCHES, BRANCHES)}
"""Nodes that stay SAMPLED: one branch, and three tokens of another."""
SPREAD, NOISE = 6.0, 0.7
"""Standard deviation of the target's logits, and of the drafter's differences from them.

Untrained models are flatter, and filters that keep thousands of tokens take longer.
"""
SETTINGS: dict[str, dict[str, Any]] = {
    "T=1": {"temperature": 1.0},
    "T=0.6": {"temperature": 0.6},
    "T=0.6, top-k 20, top-p 0.95": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "T=0.6, top-p 0.95": {"temperature": 0.6, "top_p": 0.95},
    "T=0": {"temperature": 0.0},
}
RULES = ("layer", "recursive", "traversal", "walk")


@dataclass(frozen=True)
class Size:
    """A target of random weights; the embeddings are tied."""

    vocab: int
    width: int
    layers: int


SIZES = (Size(32_768, 768, 11), Size(151_936, 512, 8))
QUICK = (Size(4_096, 64, 2),)


@dataclass(frozen=True)
class Row:
    """Milliseconds of one round: medians over rounds, and the 10th and 90th percentile of (warping + rule) / forward.

    kept  tokens that have any probability after the filters, mean over rows.
    """

    vocab: int
    parameters: int
    settings: str
    rule: str
    forward: float
    warping: float
    rule_ms: float
    share: tuple[float, float, float]
    rounds: int
    kept: float


@torch.no_grad()
def make_pair(size: Size) -> Pair:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=2 * size.width + size.width // 2,
        num_hidden_layers=size.layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    target = LlamaForCausalLM(config).eval()
    target.model.norm.weight.mul_(SPREAD / target(torch.arange(CONTEXT)[None]).logits.std())
    drafter = copy.deepcopy(target)
    rows = drafter.lm_head.weight
    drafter.lm_head.weight = torch.nn.Parameter(rows + NOISE / SPREAD * rows.std() * torch.randn_like(rows))
    return Pair.load(target, drafter)


@dataclass(frozen=True)
class Verifying:
    """A contender: the part of a round that follows the draft, with a draft that is given."""

    settings: str
    rule: str
    target: CausalLM
    warper: Warper
    tree: TokenTree
    kept: float

    @property
    def name(self) -> str:
        return f"{self.settings}: {self.rule}"

    @torch.inference_mode()
    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        """The steps of `engine/round.py`, behind a prompt that has been read before the clock starts."""
        tree, cache = self.tree, self.target.open(len(prompt) + 2 * len(self.tree))
        read(self.target, cache, prompt[:-1])
        clock = Clock()
        with clock("target"):
            logits = self.target.forward([Feed(cache, prompt[-1:], tree.tokens, tree.parents)])[0].logits
        with clock("warping"):
            laws = self.warper.shape_round(self.warper.scores(logits, Prefixes.of_tree(prompt, tree)))
        with clock("rule"):
            verdict = dg.rules()[self.rule].decide(tree, laws, Noise(seed), len(prompt))
        self.target.close(cache)
        return Answer([*(tree.tokens[node] for node in verdict.path), verdict.token], 1, len(tree), clock.take())


def contenders(pair: Pair, context: Sequence[int]) -> Iterator[Verifying]:
    """Every rule with every setting of the sampling. All rules of a setting get the same draft, drawn without its filters."""
    engine = engine_with(Witness, pair, DRAFT)
    for settings, options in SETTINGS.items():
        drafted = draft_at(engine, context, options["temperature"] or 0.6, seed=1)
        drawn = SAMPLED if options["temperature"] > 0 else ()
        laws = [row if node in drawn else FIXED for node, row in enumerate(drafted.tree.law_row)]
        tree = TokenTree(drafted.tree.tokens, drafted.tree.parents, laws, drafted.tree.laws if drawn else None)
        warper = Warper(dg.SamplingParams(**options), len(context), [], engine.target.device)
        kept = float((warper.shape(drafted.scores) > 0).sum(dim=1).double().mean())
        for rule in RULES:
            yield Verifying(settings, rule, engine.target, warper, tree, kept)


def measure(size: Size, rounds: int) -> list[Row]:
    pair = make_pair(size)
    parameters = sum(weights.numel() for weights in pair.target.parameters())
    context = torch.randint(0, size.vocab, (CONTEXT,), generator=torch.Generator().manual_seed(2)).tolist()
    everybody = list(contenders(pair, context))
    parts: dict[str, list[Mapping[str, float]]] = {one.name: [] for one in everybody}
    for turn in track(take_turns(everybody, [context], rounds), f"vocabulary {size.vocab:,}", total=rounds):
        for name, timed in turn.timed.items():
            parts[name].append(timed.answer.parts or {})
    return [_row(size, parameters, one, parts[one.name]) for one in everybody]


def _row(size: Size, parameters: int, one: Verifying, rounds: Sequence[Mapping[str, float]]) -> Row:
    ms = {name: 1e3 * statistics.median(parts[name] for parts in rounds) for name in ("target", "warping", "rule")}
    shares = sorted((parts["warping"] + parts["rule"]) / parts["target"] for parts in rounds)
    middle, low, high = (shares[round(q * (len(shares) - 1))] for q in (0.5, 0.1, 0.9))
    return Row(
        size.vocab, parameters, one.settings, one.rule, ms["target"], ms["warping"], ms["rule"], (middle, low, high),
        len(rounds), one.kept,
    )  # fmt: skip


def blocks(rows: Sequence[Row]) -> Iterator[str | Sheet]:
    """The report."""
    yield (
        f"Random weights, {BRANCHES * DEPTH} drafted nodes ({len(SAMPLED)} SAMPLED; none at T=0), {CONTEXT} tokens of "
        f"context; medians over {rows[0].rounds} rounds, interleaved."
    )
    columns = ["vocabulary", "parameters", "sampling", "tokens kept", "rule", "forward ms", "warping ms", "rule ms"]
    yield table([*columns, "(warping + rule) / forward"], map(_cells, rows))


def _cells(row: Row) -> list[str]:
    return [
        f"{row.vocab:,}",
        f"{row.parameters / 1e6:.0f} M",
        row.settings,
        f"{row.kept:,.0f}",
        row.rule,
        f"{row.forward:.1f}",
        f"{row.warping:.2f}",
        f"{row.rule_ms:.2f}",
        f"{row.share[0]:.1%} ({row.share[1]:.1%}–{row.share[2]:.1%})",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    title = "The cost of verification at large vocabularies"
    experiment = Experiment("verification", title, __doc__, "a tiny model, 3 rounds", torch.get_num_threads())
    experiment.parser.add_argument("--rounds", type=at_least(1), default=20)
    options = experiment.start(arguments)
    rows: list[Row] = []
    for size in QUICK if options.quick else SIZES:
        rows += measure(size, 3 if options.quick else options.rounds)
    print(experiment.save(blocks(rows), rows=[asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
