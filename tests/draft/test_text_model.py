"""Drafters that read the text alone: exact texts, exact laws, passes that do not grow with the block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.backends.exit_model import ExitModel
from draftgraph.backends.feature_model import FeatureReader
from draftgraph.backends.masked_model import MaskedModel
from draftgraph.backends.torch_model import TorchModel
from draftgraph.draft import model
from draftgraph.draft.proposal import propose
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.terms import Limits
from draftgraph.draft.text_model import TextDrafter
from draftgraph.errors import OptionError
from draftgraph.lab.prove.law import Draw, Laws, Program, output_law, random_tables, total_variation
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise
from draftgraph.sampling.warp import Warper
from draftgraph.structures import Chain, Comb, Graph, Tree
from draftgraph.types import FIXED, TokenTree
from draftgraph.verification.registry import RULES, get_rule
from models import tiny_lm
from text_drafters import tiny_exit, tiny_masked, write_exit, write_masked

TEXT = [5, 9, 3, 14, 7, 2]
WRITERS: dict[str, Callable[[Path, PreTrainedModel], Path]] = {
    "exit": write_exit,
    "one pass": write_masked,
    "three passes": lambda folder, target: write_masked(folder, target, passes=3),
}


@cache
def over() -> PreTrainedModel:
    return tiny_lm(vocab=24, layers=4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write(tmp_path_factory.mktemp("drafter"), over()) for kind, write in WRITERS.items()}


@pytest.mark.parametrize(
    ("kind", "structure"),
    [
        *(("exit", each) for each in ("auto", "graph", "tree", Chain(4), Comb())),
        *((kind, each) for kind in ("one pass", "three passes") for each in ("auto", Chain(4), Comb())),
    ],
    ids=str,
)
def test_greedy_texts_are_exact(kind: str, structure: Any, folders: dict[str, Path]) -> None:
    plain = dg.Engine.from_pretrained(over(), budget=0)
    drafted = dg.Engine.from_pretrained(over(), draft_model=folders[kind], structure=structure, budget=7)
    drafted.target.most_rows = drafted.drafter.model.most_rows = 5  # type: ignore[union-attr]
    prompts = [
        torch.randint(1, 24, (1 + 7 * seed,), generator=torch.Generator().manual_seed(seed)).tolist()
        for seed in range(2)
    ]
    results = drafted.generate(prompts, max_new_tokens=16, temperature=0.0)
    for prompt, result in zip(prompts, results, strict=True):
        assert result.token_ids == plain.generate(prompt, max_new_tokens=16, temperature=0.0).token_ids
        assert result.token_ids == drafted.generate(prompt, max_new_tokens=16, temperature=0.0).token_ids
        assert result.rounds[0].num_passes > 0  # nothing of the target is waited for
        assert result.stats.lossless
    assert sum(result.stats.num_accepted_tokens for result in results) > 0


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize("kind", WRITERS)
def test_texts_that_fill_the_window_are_exact(kind: str, family: str, tmp_path: Path) -> None:
    """Slots of the last rounds would lie beyond it."""
    full = tiny_lm(family, vocab=24, layers=4, window=20)
    drafted = dg.Engine.from_pretrained(full, draft_model=WRITERS[kind](tmp_path, full), budget=4)
    plain = dg.Engine.from_pretrained(full, budget=0)
    for length in (6, 15, 17, 18):
        prompt = [1 + i % 20 for i in range(length)]
        asked: dict[str, Any] = {"max_new_tokens": 20 - length, "temperature": 0.0}
        assert drafted.generate(prompt, **asked).token_ids == plain.generate(prompt, **asked).token_ids


@pytest.mark.parametrize("kind", WRITERS)
def test_the_automatic_budget_times_it(kind: str, folders: dict[str, Path]) -> None:
    engine = dg.Engine.from_pretrained(over(), draft_model=folders[kind])
    plain = dg.Engine.from_pretrained(over(), budget=0)
    for options in ({"temperature": 0.0}, {"temperature": 0.8, "seed": 3}):
        result = engine.generate(TEXT, max_new_tokens=30, **options)
        if not options["temperature"]:
            assert result.token_ids == plain.generate(TEXT, max_new_tokens=30, **options).token_ids
    assert engine.costs.drafter is not None


@pytest.mark.parametrize("structure", ["chain", "comb"])
@pytest.mark.parametrize("kind", WRITERS)
def test_under_agree_a_drafter_changes_no_token(kind: str, structure: str, folders: dict[str, Path]) -> None:
    plain = dg.Engine.from_pretrained(over(), budget=0, rule="agree")
    drafted = dg.Engine.from_pretrained(over(), draft_model=folders[kind], rule="agree", structure=structure, budget=4)
    for seed in range(3):
        options: dict[str, Any] = {"max_new_tokens": 14, "temperature": 1.5, "seed": seed}
        assert drafted.generate(TEXT, **options).token_ids == plain.generate(TEXT, **options).token_ids


@pytest.mark.parametrize("kind", ["exit", "three passes"])
def test_targets_on_openvino_are_drafted_for(kind: str, folders: dict[str, Path]) -> None:
    pytest.importorskip("openvino")
    plain, drafted = (
        dg.Engine.from_pretrained(over(), draft_model=folder, backend="openvino", budget=4 if folder else 0)
        for folder in (None, folders[kind])
    )
    result = drafted.generate(TEXT, max_new_tokens=16, temperature=0.0)
    assert result.token_ids == plain.generate(TEXT, max_new_tokens=16, temperature=0.0).token_ids
    assert result.stats.num_accepted_tokens > 0
    assert drafted.drafter.model.name == "torch"  # type: ignore[union-attr]


def test_slots_of_several_passes_are_fixed(folders: dict[str, Path]) -> None:
    for kind, kinds in (("one pass", {True}), ("three passes", {False})):
        engine = dg.Engine.from_pretrained(over(), draft_model=folders[kind], rule="layer", structure="chain", budget=3)
        result = engine.generate(TEXT, max_new_tokens=12, temperature=1.0, seed=1)
        assert {sampled for record in result.rounds for sampled in record.sampled} == kinds


@pytest.mark.parametrize("kind", ["one pass", "three passes"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "tree"}, "gives 4 tokens in one pass, .* structure='tree' branches below siblings"),
        ({"structure": Tree((2, 2))}, "branches below siblings"),
        ({"num_speculative_tokens": 5}, "and 5 were asked for; write num_speculative_tokens=4 or less"),
        ({"edges": ("own",)}, "fill the spare slots of structure='graph'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_drafts_that_a_block_cannot_give_are_refused(
    kind: str, options: dict[str, Any], message: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(OptionError, match=message):
        dg.Engine.from_pretrained(over(), draft_model=folders[kind], **options)


# Every draft enumerated.

VOCAB, DEPTH = 4, 2


@cache
def exact_pair(kind: str, passes: int = 1) -> tuple[TorchModel, FeatureReader]:
    """A pair in float64, whose head has three of the four tokens."""
    target = TorchModel(tiny_lm(vocab=VOCAB, layers=3, logit_gain=1.0).double())
    if kind == "exit":
        return target, ExitModel(*tiny_exit(target.model, share=0.75))
    net, tokens = tiny_masked(target.model, slots=2, passes=passes, share=0.75)
    return target, MaskedModel(net, tokens, target.model.get_input_embeddings())


def program(kind: str, structure: Structure, budget: int, passes: int = 1) -> Program:
    """A first draft behind a text."""
    target, network = exact_pair(kind, passes)
    drafter = TextDrafter(network, VOCAB)
    text, params = [1, 2, 0, 2], SamplingParams(max_new_tokens=DEPTH + 1, temperature=1.0)

    @torch.inference_mode()
    def drafted(q: Laws, draw: Draw) -> TokenTree:
        noise = Noise(0)
        noise.enumerator = draw  # type: ignore[attr-defined]
        sampled = "sampled" in drafter.draws
        request = Request(
            params, Strategy(get_rule("layer"), structure, sampled, ""), list(text), len(text), DEPTH + 1, frozenset(), noise,
            Warper(params, len(text), [], target.device), Detokenizer(None, text, ()), VOCAB,
        )  # fmt: skip
        drafter.begin(request)
        try:
            return propose(drafter, request, Limits(budget, DEPTH, DEPTH)).tree
        finally:
            drafter.end(request)

    return drafted


def enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every draw be asked of the program that enumerates them."""

    def drawer(request: Request) -> Any:
        draw: Draw = request.noise.enumerator  # type: ignore[attr-defined]
        return lambda laws, depth, addresses: [draw(row) for row in laws]

    monkeypatch.setattr(model, "_drawer", drawer)


def distance(rule: str, drafts: Program, laws: str = "random") -> float:
    tables = random_tables(laws, VOCAB, DEPTH, 3)
    return total_variation(output_law(RULES[rule], tables, drafts, DEPTH + 1).law, tables.target_law(DEPTH + 1))


@pytest.mark.parametrize(
    ("kind", "rule", "structure", "budget"),
    [
        ("exit", "layer", Tree(), 5), ("exit", "layer", Graph(), 5), ("exit", "block", Chain(), 2), ("exit", "agree", Tree(), 4),
        ("masked", "layer", Comb(), 5), ("masked", "block", Chain(), 2), ("masked", "token", Chain(), 2),
        ("masked", "agree", Comb(), 4),
    ],
    ids=str,
)  # fmt: skip
def test_every_draft_is_verified_exactly(
    kind: str, rule: str, structure: Structure, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    enumerated(monkeypatch)
    for laws in ("random", "sparse", "greedy"):
        assert distance(rule, program(kind, structure, budget), laws) < 1e-12


@pytest.mark.parametrize("rule", ["layer", "block", "agree"])
def test_drafts_of_several_passes_are_verified_exactly(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    enumerated(monkeypatch)
    structure = Chain() if rule == "block" else Comb()
    for laws in ("random", "sparse"):
        assert distance(rule, program("masked", structure, 2 if rule == "block" else 4, passes=2), laws) < 1e-12


@torch.inference_mode()
def filled_by_draws(judged: bool) -> Program:
    """A block whose second slot is drawn first, and whose first slot is drawn knowing it.

    judged  whether the rows that the slots were drawn from are recorded as their laws.
    """
    target, _ = exact_pair("masked", 2)
    net, tokens = tiny_masked(target.model, slots=2, passes=2, share=0.75)
    net.queries.mul_(0.02)  # a slot reads its neighbour more than itself

    @torch.inference_mode()
    def drafted(q: Laws, draw: Draw) -> TokenTree:
        drawn: list[tuple[int, torch.Tensor]] = []

        def one(logits: torch.Tensor) -> int:
            law = torch.zeros(VOCAB, dtype=torch.float64)
            law[tokens] = logits.softmax(-1)
            drawn.append((draw(law), law))
            return drawn[-1][0]

        embedded = target.model.get_input_embeddings()(torch.tensor([[1, 2, 0, 2, 0, 0]]))
        root = torch.tensor([3])
        late = one(net.logits(net.blocks(embedded[:, :4], root)[0, 0, 1]))
        embedded = target.model.get_input_embeddings()(torch.tensor([[1, 2, 0, 2, 0, late]]))
        known = torch.tensor([[[False, True]]])
        # both slots lie inside the padded text, whose rows behind the root are read by nobody
        one(net.logits(net.blocks(embedded, root, known)[0, 0, 0]))
        (second, late_law), (first, early_law) = drawn
        laws = torch.stack([early_law, late_law]) if judged else None
        return TokenTree([first, second], [-1, 0], [0, 1] if judged else [FIXED] * 2, laws)

    return drafted


@pytest.mark.parametrize("rule", ["layer", "block", "token"])
def test_rows_of_several_passes_are_no_laws(rule: str) -> None:
    """A control that must fail: what stood beside a slot when it was filled is not the law given the tokens before it."""
    assert distance(rule, filled_by_draws(judged=True)) > 1e-3
    assert distance(rule, filled_by_draws(judged=False)) < 1e-12


# What a round costs.


class Counting:
    """Counts the passes of a network's core."""

    def __init__(self, core: torch.nn.Module) -> None:
        self.count = 0
        core.register_forward_hook(self)

    def __call__(self, *given: Any) -> None:
        self.count += 1


@pytest.mark.parametrize("passes", [1, 3])
@torch.inference_mode()
def test_the_passes_of_a_block_do_not_grow_with_its_slots(passes: int) -> None:
    for slots in (3, 5, 12):
        net, tokens = tiny_masked(over(), slots=slots, passes=passes)
        network = MaskedModel(net, tokens, over().get_input_embeddings())
        drafter = TextDrafter(network, 24)
        counting = Counting(net.core)
        text = network.open(0)
        network.forward([Feed(text, TEXT)])
        for node in range(slots - 1):
            network.forward([Feed(text, (), [7], [node - 1])])
        assert counting.count == passes
        assert drafter.depths == slots


def test_an_exit_keeps_the_rows_of_accepted_tokens(folders: dict[str, Path]) -> None:
    engine = dg.Engine.from_pretrained(over(), draft_model=folders["exit"], structure="chain", budget=3)
    rows = 0

    def counted(module: Any, args: Any, given: dict[str, Any]) -> None:
        nonlocal rows
        rows += given["input_ids"].shape[1]

    engine.drafter.model.model.register_forward_pre_hook(counted, with_kwargs=True)  # type: ignore[union-attr]
    result = engine.generate(TEXT, max_new_tokens=30, temperature=0.0)
    rounds = result.rounds
    assert result.stats.num_accepted_tokens > 0
    # every round reads its bonus token, and the last drafted token where that was accepted without being read
    whole = sum(len(record.path) == len(record.tokens) for record in rounds[:-1])
    drafted = sum(max(0, len(record.tokens) - 1) for record in rounds)
    assert rows <= len(TEXT) + len(rounds) + whole + drafted


def test_spoilt_rows_are_noticed() -> None:
    """The enumeration sees a law that forgets the reduced vocabulary."""
    drafts = program("masked", Chain(), 2)

    def spoilt(q: Laws, draw: Draw) -> TokenTree:
        tree = drafts(q, draw)
        assert tree.laws is not None
        spread = torch.where(tree.laws > 0.0, tree.laws, 0.3)
        return replace(tree, laws=spread / spread.sum(dim=1, keepdim=True))

    with pytest.MonkeyPatch.context() as patch:
        enumerated(patch)
        assert distance("block", spoilt) > 1e-3
