"""What verification itself costs at large vocabularies: warping and rule beside the target's forward, on this machine.

    python experiments/verification.py [--rounds 20] [--quick]

Random weights of about 100 M parameters with vocabularies of 32,768 and 151,936; 32 drafted nodes, 11 of them SAMPLED, drafted
from noisy copies of the target's own rows, so that mass reaches every depth. Writes verification.json and verification.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.progress import Progress
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.backends.torch_model import HFModel
from draftgraph.sampling.rng import Noise
from draftgraph.sampling.warp import Prefixes, Warper
from draftgraph.types import FIXED, TokenTree
from draftgraph.verification.registry import get_rule
from experiments.machine import ROOT, environment, load_average, sentence
from experiments.report import table

CONTEXT = 64
DEPTH, BRANCHES, SAMPLED = 8, 4, 11
SPREAD = 6.0
"""Standard deviation of the logits; untrained models are flatter, and filters that keep thousands of tokens take longer."""
SETTINGS: dict[str, dict[str, float]] = {
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


def make_target(size: Size) -> HFModel:
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
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        logits = model(torch.arange(CONTEXT)[None]).logits
        model.model.norm.weight.mul_(SPREAD / logits.std())
    return HFModel(model)


def make_draft(target: HFModel, context: Sequence[int], warper: Warper) -> TokenTree:
    """Four branches of eight tokens. One is SAMPLED throughout, one for three tokens; the others are FIXED."""
    generator = torch.Generator().manual_seed(1)
    tokens: list[int] = []
    parents: list[int] = []
    law_row: list[int] = []
    laws: list[torch.Tensor] = []
    layer = [-1] * BRANCHES
    for depth in range(DEPTH):
        text = target.open(CONTEXT + 2 * DEPTH * BRANCHES)
        logits = target.forward([Feed(text, context, tokens, parents)])[0]
        target.close(text)
        noisy = logits + 0.7 * torch.randn(logits.shape, generator=generator)
        q = warper.shape(noisy)
        row = q[[parent + 1 for parent in layer]]
        best = row[0].topk(BRANCHES).indices.tolist() if depth == 0 else row.argmax(dim=1).tolist()
        for branch in range(BRANCHES):
            sampled = branch == 0 or (branch == 1 and 1 <= depth <= SAMPLED - DEPTH)
            law = row[branch].clone()
            if depth == 0:
                law[best[1:]] = 0.0
                law /= law.sum()
            token = int(torch.multinomial(law, 1, generator=generator)) if sampled else best[branch]
            tokens.append(token)
            parents.append(layer[branch])
            law_row.append(len(laws) if sampled else FIXED)
            laws += [law] if sampled else []
        layer = list(range(len(tokens) - BRANCHES, len(tokens)))
    return TokenTree(tokens, parents, law_row, torch.stack(laws))


@torch.inference_mode()
def measure(size: Size, rounds: int, progress: Progress) -> list[Row]:
    target = make_target(size)
    parameters = sum(weights.numel() for weights in target.model.parameters())
    context = torch.randint(0, size.vocab, (CONTEXT,), generator=torch.Generator().manual_seed(2)).tolist()
    jobs = []
    for settings, options in SETTINGS.items():
        warper = Warper(dg.SamplingParams(**options), CONTEXT, [], target.device)  # type: ignore[arg-type]
        shaped = Warper(dg.SamplingParams(temperature=max(options["temperature"], 0.6)), CONTEXT, [], target.device)
        tree = make_draft(target, context, shaped)
        if options["temperature"] == 0:  # nothing is drawn at temperature 0
            tree = TokenTree(tree.tokens, tree.parents, [FIXED] * len(tree))
        jobs += [(settings, rule, warper, tree) for rule in RULES]
    laps: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    kept = {settings: _kept(target, context, warper, tree) for settings, _, warper, tree in jobs}
    bar = progress.add_task(f"vocabulary {size.vocab:,}", total=rounds + 2)
    for number in range(rounds + 2):
        for settings, rule, warper, tree in jobs:  # interleaved: what the machine does otherwise hits all alike
            lap = one_round(target, context, warper, tree, rule, number)
            if number >= 2:
                laps.setdefault((settings, rule), []).append(lap)
        progress.advance(bar)
    return [_row(size, parameters, settings, rule, timed, kept[settings]) for (settings, rule), timed in laps.items()]


def _kept(target: HFModel, context: Sequence[int], warper: Warper, tree: TokenTree) -> float:
    text = target.open(CONTEXT + 2 * len(tree))
    rows = target.forward([Feed(text, context, tree.tokens, tree.parents)])[0]
    target.close(text)
    return float((warper.shape(rows) > 0).sum(dim=1).double().mean())


def one_round(
    target: HFModel, context: Sequence[int], warper: Warper, tree: TokenTree, rule: str, seed: int
) -> tuple[float, float, float]:
    """Seconds of forward, warping and rule, as `round.py` does them."""
    text = target.open(CONTEXT + 2 * len(tree))
    target.forward([Feed(text, context[:-1])])
    begin = time.perf_counter()
    rows = target.forward([Feed(text, context[-1:], tree.tokens, tree.parents)])[0]
    forward = time.perf_counter()
    p = warper.shape_round(warper.scores(rows, Prefixes.of_tree(context, tree)))
    warped = time.perf_counter()
    get_rule(rule).verdict(tree, p, Noise(seed), CONTEXT)
    done = time.perf_counter()
    target.close(text)
    return forward - begin, warped - forward, done - warped


def _row(
    size: Size, parameters: int, settings: str, rule: str, laps: Sequence[tuple[float, float, float]], kept: float
) -> Row:
    forward, warping, verdict = (1e3 * statistics.median(part) for part in zip(*laps, strict=True))
    shares = sorted((warp + rest) / pass_ for pass_, warp, rest in laps)
    share = tuple(shares[round(q * (len(shares) - 1))] for q in (0.5, 0.1, 0.9))
    return Row(size.vocab, parameters, settings, rule, forward, warping, verdict, share, len(laps), kept)  # type: ignore[arg-type]


def markdown(report: dict[str, Any], rows: Sequence[Row]) -> str:
    out = ["# The cost of verification at large vocabularies", "", sentence(report["environment"]), ""]
    out += [
        f"Random weights, {DEPTH * BRANCHES} drafted nodes ({SAMPLED} SAMPLED; none at T=0), {CONTEXT} tokens of context; "
        f"medians over {rows[0].rounds} rounds, interleaved. Reproduce: `python experiments/verification.py`.",
        "",
    ]
    head = [
        "vocabulary",
        "parameters",
        "sampling",
        "tokens kept",
        "rule",
        "forward ms",
        "warping ms",
        "rule ms",
        "(warping + rule) / forward",
    ]
    lines = [
        [
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
        for row in rows
    ]
    return "\n".join([*out, *table(head, lines), ""])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time warping and rule beside the target's forward.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a tiny model and 3 rounds")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.threads) < 1:
        parser.error("--rounds and --threads must be at least 1")
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    report: dict[str, Any] = {"environment": environment()}
    rows: list[Row] = []
    with Progress() as progress:
        for size in QUICK if options.quick else SIZES:
            rows += measure(size, 3 if options.quick else options.rounds, progress)
    report["environment"]["load_after"] = load_average()
    text = markdown(report, rows)
    options.out.mkdir(parents=True, exist_ok=True)
    name = "verification-quick" if options.quick else "verification"
    (options.out / f"{name}.md").write_text(text, encoding="utf-8")
    body = json.dumps(report | {"rows": [asdict(row) for row in rows]}, indent=1)
    (options.out / f"{name}.json").write_text(body + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
