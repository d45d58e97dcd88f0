"""The law of what the whole engine emits: Monte Carlo on a tiny vocabulary against enumeration from the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import draftgraph as dg
from draftgraph.backends.base import CacheHandle, Feed, Scored
from draftgraph.draft import model
from draftgraph.draft.edges.sources import edges_beside_model, edges_without_model
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.structures import tree as trees
from draftgraph.verification.layer import LayerRule
from laws import p_value
from models import perturbed, tiny_lm
from own_drafters import Beside

VOCAB = 7
PROMPT = [1, 2]
LENGTH = 3
SAMPLES = 600
WARPINGS: dict[str, dict[str, Any]] = {
    "plain": {"temperature": 1.0},
    "warped": {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.3},
}
TREE = {"structure": dg.structures.Tree((3, 2))}
CASES = [
    ("layer", "plain", {"structure": "graph", "budget": 8}),
    ("layer", "warped", {"structure": "graph", "budget": 6, "num_speculative_tokens": 1}),
    ("layer", "warped", {"structure": "tree", "budget": 8}),
    ("layer", "plain", {"structure": "chain", "budget": 3}),
    ("layer", "plain", TREE),
    ("layer", "warped", {"structure": "gsd", "budget": 6}),
    ("layer", "warped", {}),
    ("layer", "plain", {"drafter": "lookup"}),
    ("layer", "warped", {"drafter": Beside(), "budget": 6}),
    ("block", "warped", {"budget": 3}),
    ("token", "plain", {"budget": 3}),
    ("agree", "warped", {"structure": "graph", "budget": 6}),
    ("agree", "plain", TREE),
]


@cache
def target() -> PreTrainedModel:
    return tiny_lm(vocab=VOCAB, layers=1, logit_gain=1.0)


class TableLM:
    """A model whose rows are computed once per prefix: the seam of `backends.base`, with tokens for slots."""

    name = model_name = fingerprint = "TableLM"
    vocab_size, context_window, most_rows, switch, numerics, branches = VOCAB, None, 1024, None, "exact", True
    joins = True
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, model: PreTrainedModel) -> None:
        self.row = cache(lambda prefix: model(torch.tensor([prefix])).logits[0, -1])

    def refuse_training(self) -> None:
        pass

    def open(self, capacity: int) -> CacheHandle:
        return CacheHandle()

    def expect(self, text: CacheHandle, length: int) -> None:
        pass

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        return [Scored(torch.stack([self.row(prefix) for prefix in self._enter(feed)])) for feed in feeds]

    def _enter(self, rows: Feed) -> Iterator[tuple[int, ...]]:
        text = rows.text
        text.slots = np.append(text.slots, np.array(rows.committed, dtype=np.int64))
        if rows.committed:
            yield tuple(text.slots.tolist())
        for i, token in enumerate(rows.tokens):
            text.nodes.append([*rows.ancestors(i), token])
            yield (*text.slots.tolist(), *text.nodes[-1])

    def keep(self, text: CacheHandle, nodes: Sequence[int]) -> None:
        if nodes:
            text.slots = np.append(text.slots, text.nodes[nodes[-1]])
        text.nodes.clear()

    def close(self, text: CacheHandle) -> None:
        pass


@cache
def tables() -> tuple[TableLM, TableLM]:
    return TableLM(target()), TableLM(perturbed(target(), 0.4))


def make_engine(rule: str, options: dict[str, Any]) -> dg.Engine:
    config = dg.Config().with_options(rule=rule, **options)
    p, q = tables()
    edges = (
        edges_without_model("auto", False) if config.drafter else edges_beside_model("auto", config.resolved_structure)
    )
    drafter = LookupDrafter(edges) if config.drafter == "lookup" else model.ModelDrafter(q, VOCAB, edges)
    drafter = config.own_drafter or drafter
    return dg.Engine(p, drafter, config, None, frozenset())


@cache
def exact(warping: str) -> dict[tuple[int, ...], float]:
    """The law of the first tokens: the target's logits, shaped by transformers' own processors prefix by prefix."""
    options = WARPINGS[warping]
    chain: list[LogitsProcessor] = [TemperatureLogitsWarper(options["temperature"])]
    if warping == "warped":
        chain = [RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]), *chain]
        chain += [TopKLogitsWarper(options["top_k"]), TopPLogitsWarper(options["top_p"])]
    law = {(): 1.0}
    for length in range(LENGTH):
        prefixes = list(product(range(VOCAB), repeat=length))
        ids = torch.tensor([[*PROMPT, *prefix] for prefix in prefixes])
        rows = LogitsProcessorList(chain)(ids, target()(ids).logits[:, -1].float()).softmax(-1).double().tolist()
        law = {
            (*prefix, token): law[prefix] * probability
            for prefix, row in zip(prefixes, rows, strict=True)
            for token, probability in enumerate(row)
        }
    return law


@torch.inference_mode()
def sample(warping: str, rule: str, options: dict[str, Any], samples: int = SAMPLES) -> tuple[float, float]:
    """The p-value of the engine's texts, and the tokens per target call."""
    engine = make_engine(rule, options)
    params = dg.SamplingParams(max_new_tokens=LENGTH, seed=11, **WARPINGS[warping])
    texts, rounds = [], 0
    for number in range(samples):
        result = engine.generate(PROMPT, replace(params, sample=number))
        texts.append(tuple(result.token_ids))
        rounds += result.stats.num_rounds
    return p_value(texts, exact(warping)), LENGTH * samples / rounds


@pytest.mark.parametrize(
    ("rule", "warping", "options"), CASES, ids=[f"{i}-{r}-{w}" for i, (r, w, _) in enumerate(CASES)]
)
def test_law(rule: str, warping: str, options: dict[str, Any]) -> None:
    p, tokens_per_call = sample(warping, rule, options)
    assert p > 1e-4
    if "drafter" not in options:
        assert tokens_per_call > 1.2


def _flat_law(grow: Callable[..., Any]) -> Callable[..., Any]:
    """The stored law is not the one that was drawn from."""

    def spoiled(*arguments: Any) -> Any:
        graph, passes = grow(*arguments)
        graph.laws = [torch.full_like(block, 1.0 / VOCAB) for block in graph.laws]
        return graph, passes

    return spoiled


def _argmax(request: Any) -> Callable[..., list[int]]:
    """Deterministic tokens that claim to be draws."""
    return lambda laws, depth, addresses: laws.argmax(dim=1).tolist()


def _sharpened(self: LayerRule, tree: dg.TokenTree, p: torch.Tensor) -> dg.Outcome:
    """Verifies against another temperature than the one asked for."""
    return LAYER(self, tree, p.square() / p.square().sum(dim=1, keepdim=True))


LAYER = LayerRule.outcome
CONTROLS = {
    "altered law": (trees, "grow_branching", _flat_law(trees.grow_branching)),
    "argmax called a draw": (model, "_drawer", _argmax),
    "sharpened target": (LayerRule, "outcome", _sharpened),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_negative_controls_fail(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same test must notice a law that is not the stored one, a draft that is no draw, and a rule that is wrong."""
    monkeypatch.setattr(*CONTROLS[control])
    p, _ = sample("plain", "layer", TREE)
    assert p < 1e-6
