"""Drafts of a feature drafter: taps as plain forwards give them, exact texts, exact laws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from dflash_folders import write_dflash
from draftgraph.backends.base import Feed
from draftgraph.backends.feature_model import FeatureModel, FeatureReader
from draftgraph.backends.torch_model import TorchModel
from draftgraph.backends.trained import find_trained
from draftgraph.draft import model
from draftgraph.draft.hidden import HiddenDrafter
from draftgraph.draft.proposal import propose
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.terms import Limits
from draftgraph.errors import OptionError, PairError
from draftgraph.lab.prove.law import (
    Draw,
    Laws,
    Program,
    drafted,
    emitted_law,
    output_law,
    random_tables,
    total_variation,
)
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise
from draftgraph.sampling.warp import Warper
from draftgraph.structures import Chain, Comb, Graph, Tree
from draftgraph.types import TokenTree
from draftgraph.verification.registry import RULES, get_rule
from eagle3_folders import write_eagle3
from feature_drafters import FORMS, tiny_form, tiny_net, write_drafter
from feature_drafters import WRITERS as FORM_WRITERS
from laws import p_value
from models import tiny_lm
from test_sampling_law import LENGTH, PROMPT, exact, target

TEXT = [5, 9, 3, 40, 7, 2]
STRUCTURES: dict[str, Structure] = {
    "graph": Graph(), "tree": Tree(), "chain": Chain(), "comb": Comb(), "shape": Tree((2, 2, 1)), "long": Chain(4),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drafter(tmp_path_factory.mktemp("drafter"), tiny_lm(layers=4))


@pytest.fixture(scope="module", params=["own", "EAGLE-3", *FORMS])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every kind."""
    writers: dict[str, Callable[[Path, PreTrainedModel], Path]] = {"own": write_drafter, "EAGLE-3": write_eagle3}
    write = (writers | FORM_WRITERS)[request.param]
    return write(tmp_path_factory.mktemp("drafter"), tiny_lm(layers=4))


@cache
def over() -> PreTrainedModel:
    """The target that the folders were trained for."""
    return tiny_lm(layers=4)


@cache
def plainly(prompt: tuple[int, ...], rule: str, **options: Any) -> list[int]:
    """The text without drafts."""
    return dg.Engine.from_pretrained(over(), budget=0, rule=rule).generate(list(prompt), **options).token_ids


class Listening(dg.Drafter):
    """Drafts a little, and keeps what it reads of the target."""

    taps = ("hidden:0", "hidden:2")

    def __init__(self) -> None:
        self.heard: list[torch.Tensor] = []

    def read(self, request: Any, taps: Mapping[str, torch.Tensor], path: Sequence[int]) -> None:
        rows = torch.cat([taps[name] for name in self.taps], dim=1)
        joined = len(request.text) - sum(map(len, self.heard))
        self.heard.append(rows[[*range(joined), *(joined + node for node in path)]])

    def propose(self, request: Any, limits: Limits) -> dg.Draft:
        graph = dg.DraftGraph()
        for parent in (dg.ROOT, dg.ROOT, 0, 1)[: 4 if limits.reach > 1 else 2]:
            graph.fix(parent, request.tokens[-1 - len(graph)])
        return dg.Draft(graph)


@pytest.mark.parametrize("most_rows", [1024, 3])
def test_drafters_are_handed_the_hidden_states_of_the_whole_text(most_rows: int) -> None:
    heard = Listening()
    engine = dg.Engine.from_pretrained(tiny_lm(), drafter=heard, budget=4)
    engine.target.most_rows = most_rows
    result = engine.generate(TEXT * 2, max_new_tokens=24, temperature=0.7, seed=1)
    assert result.stats.num_accepted_tokens > 0
    seen = torch.cat(heard.heard)
    text = [*TEXT, *TEXT, *result.token_ids]
    states = tiny_lm()(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states
    expected = torch.cat([states[0][0], states[2][0]], dim=1)
    assert len(seen) >= len(text) - 1
    torch.testing.assert_close(seen[: len(text) - 1], expected[:-1], atol=2e-4, rtol=1e-3)


def test_taps_that_the_target_does_not_have_are_refused() -> None:
    class Asking(Listening):
        taps = ("hidden:3",)

    with pytest.raises(OptionError, match="taps='hidden:3' is not possible; write 'hidden:0'"):
        dg.Engine.from_pretrained(tiny_lm(), drafter=Asking())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_greedy_texts_are_exact(structure: str, trained: Path) -> None:
    engine = dg.Engine.from_pretrained(over(), draft_model=trained, structure=STRUCTURES[structure], budget=7)
    engine.target.most_rows = engine.drafter.model.most_rows = 5  # type: ignore[union-attr]
    for seed in range(2):
        prompt = torch.randint(1, 64, (4 + 5 * seed,), generator=torch.Generator().manual_seed(seed)).tolist()
        result = engine.generate(prompt, max_new_tokens=18, temperature=0.0)
        assert result.token_ids == plainly(tuple(prompt), "auto", max_new_tokens=18, temperature=0.0)
        assert result.rounds[0].num_passes == 0  # nothing is known of the prompt's end
        assert result.stats.num_drafter_evaluations > 0


def test_the_automatic_budget_times_it(trained: Path) -> None:
    engine = dg.Engine.from_pretrained(over(), draft_model=trained)
    options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.0}
    assert engine.generate(TEXT, **options).token_ids == plainly(tuple(TEXT), "auto", **options)
    assert engine.costs.drafter is not None


def test_another_target_is_refused(folder: Path) -> None:
    with pytest.raises(PairError, match="num_hidden_layers is 4, the target's 2"):
        dg.Engine.from_pretrained(tiny_lm(), draft_model=folder)


@pytest.mark.parametrize(
    ("rule", "kind"), [("layer", "own"), ("block", "own"), ("agree", "own"), ("layer", "EAGLE-3"), ("block", "EAGLE-3")]
)
@torch.inference_mode()
def test_the_engines_law_is_the_targets(rule: str, kind: str, tmp_path: Path) -> None:
    reduced = round(0.6 * target().config.vocab_size)
    folder = (
        write_drafter(tmp_path, target())
        if kind == "own"
        else write_eagle3(tmp_path, target(), "speculators", entries=reduced, ids=[0])
    )
    options: dict[str, Any] = {"structure": "chain"} if rule == "block" else {}
    engine = dg.Engine.from_pretrained(target(), draft_model=folder, rule=rule, budget=4, **options)
    warped: dict[str, Any] = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.3}
    texts = [
        tuple(engine.generate(PROMPT, max_new_tokens=LENGTH, seed=11, sample=number, **warped).token_ids)
        for number in range(300)
    ]
    assert p_value(texts, exact("warped")) > 1e-4


# Every draft enumerated.

VOCAB, DEPTH = 4, 2


@cache
def exact_pair(kind: str) -> tuple[TorchModel, FeatureReader]:
    """A pair in float64, whose head has three of the four tokens."""
    over: PreTrainedModel = tiny_lm(vocab=VOCAB, layers=3, logit_gain=1.0).double()
    target = TorchModel(over)
    if kind == "own" or kind in FORMS:
        net, tokens = tiny_net(over, share=0.75) if kind == "own" else tiny_form(FORMS[kind], over, share=0.75)
        return target, FeatureModel(net, tokens, target.model.get_input_embeddings())
    with TemporaryDirectory() as folder:
        written = WRITERS[kind](Path(folder), over)
        found = find_trained(written)
        assert found is not None
        return target, found.read(over)


def blocks(folder: Path, over: PreTrainedModel, layout: str) -> Path:
    return write_dflash(folder, over, layout, entries=3, ids=(1, 2), size=3)


WRITERS: dict[str, Callable[[Path, PreTrainedModel], Path]] = {
    "EAGLE-3": lambda folder, over: write_eagle3(folder, over, entries=3),
    "DFlash": lambda folder, over: blocks(folder, over, "dflash"),
    "DSpark": lambda folder, over: blocks(folder, over, "dspark"),
}
"""Drafters whose heads have three of four tokens."""
Spoil = Callable[[TokenTree], TokenTree]


def program(
    kind: str, structure: Structure, edges: Sequence[str], budget: int, spoil: Spoil = lambda tree: tree
) -> Program:
    """A first draft behind a text that the target has read but for its last token."""
    over, network = exact_pair(kind)
    drafter = HiddenDrafter(network, VOCAB, edges)
    text = [1, 2, 0, 2]
    params = SamplingParams(max_new_tokens=DEPTH + 1, temperature=1.0)

    @torch.inference_mode()
    def first(q: Laws, draw: Draw) -> TokenTree:
        noise = Noise(0)
        noise.enumerator = draw  # type: ignore[attr-defined]
        request = Request(
            params, Strategy(get_rule("layer"), structure, True, ""), list(text), len(text), DEPTH + 1, frozenset(), noise,
            Warper(params, len(text), [], over.device), Detokenizer(None, text, ()), VOCAB,
        )  # fmt: skip
        request.text = over.open(0)
        drafter.begin(request)
        try:
            drafter.read(request, over.forward([Feed(request.text, text[:-1])], drafter.taps)[0].taps, ())
            return spoil(propose(drafter, request, Limits(budget, DEPTH, DEPTH)).tree)
        finally:
            drafter.end(request)
            over.close(request.text)

    return first


def enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every draw be asked of the program that enumerates them."""

    def drawer(request: Request) -> Any:
        draw: Draw = request.noise.enumerator  # type: ignore[attr-defined]
        return lambda laws, depth, addresses: [draw(row) for row in laws]

    monkeypatch.setattr(model, "_drawer", drawer)


CASES: list[tuple[str, Structure, int]] = [
    ("layer", Tree(), 5), ("layer", Graph(), 6), ("layer", Tree((2, 1)), 4),
    ("layer", Comb(), 5), ("layer", Chain(), 2), ("block", Chain(), 2), ("token", Chain(), 2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "structure", "budget", "kind"),
    [
        (*case, kind)
        for kind in ("own", *FORMS, *WRITERS)
        for case in (CASES[3:] if kind in ("DFlash", "DSpark") else CASES)  # block drafters draft along one path
    ],
    ids=lambda value: str(value),
)
def test_every_draft_is_verified_exactly(
    rule: str, structure: Structure, budget: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enumerated(monkeypatch)
    edges = ("own", "context") if structure.filled else ()
    targets = [random_tables(laws, VOCAB, DEPTH, 3) for laws in ("random", "sparse", "greedy")]
    drafts = list(drafted(targets[0], program(kind, structure, edges, budget)))
    assert len(drafts) > 3
    for tables in targets:  # of which the drafter reads nothing
        judged = [replace(draft, p=tables.rows(draft.tree)) for draft in drafts]
        law = emitted_law(RULES[rule], tables, judged, DEPTH + 1).law
        assert total_variation(law, tables.target_law(DEPTH + 1)) < 1e-12


@pytest.mark.parametrize(
    ("rule", "structure", "kind"),
    [
        ("layer", Tree(), "EAGLE-3"),
        ("block", Chain(), "EAGLE-3"),
        ("layer", Comb(), "DFlash"),
        ("block", Chain(), "DSpark"),
    ],
    ids=lambda value: str(value),
)
def test_laws_that_forget_the_reduced_vocabulary_are_refuted(
    rule: str, structure: Structure, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens are drawn from three entries, and stated as drawn from all four: a control that must fail."""
    enumerated(monkeypatch)

    def spoil(tree: TokenTree) -> TokenTree:
        assert all(bool((laws == 0.0).any()) for laws in tree.laws)
        spread = torch.where(tree.laws > 0.0, tree.laws, 0.3)
        return replace(tree, laws=spread / spread.sum(dim=1, keepdim=True))

    tables = random_tables("random", VOCAB, DEPTH, 3)
    emitted = output_law(RULES[rule], tables, program(kind, structure, (), 4, spoil), DEPTH + 1)
    assert total_variation(emitted.law, tables.target_law(DEPTH + 1)) > 1e-3


@pytest.mark.parametrize("structure", ["graph", "chain", "comb"])
def test_under_agree_a_drafter_changes_no_token(structure: str, trained: Path) -> None:
    """Noise belongs to positions, so that the law of the text is that of plain decoding, seed by seed."""
    engine = dg.Engine.from_pretrained(over(), draft_model=trained, rule="agree", structure=structure, budget=6)
    accepted = 0
    for seed in range(3):
        options: dict[str, Any] = {"max_new_tokens": 16, "temperature": 1.5, "seed": seed}
        result = engine.generate(TEXT, **options)
        accepted += result.stats.num_accepted_tokens
        assert result.token_ids == plainly(tuple(TEXT), "agree", **options)
    assert accepted > 0


# Drafters that give a block at once.


@pytest.mark.parametrize("structure", ["auto", Chain(4), Comb()], ids=["auto", "long", "comb"])
@pytest.mark.parametrize("layout", ["original", "dflash", "dspark"])
def test_greedy_texts_of_block_drafters_are_exact(layout: str, structure: str | Structure, tmp_path: Path) -> None:
    folder = write_dflash(tmp_path, over(), layout, entries=None if layout == "original" else 40)
    engine = dg.Engine.from_pretrained(over(), draft_model=folder, structure=structure, budget=7)
    engine.target.most_rows = engine.drafter.model.most_rows = 5  # type: ignore[union-attr]
    accepted = 0
    for seed in range(3):
        prompt = torch.randint(1, 64, (1 + 7 * seed,), generator=torch.Generator().manual_seed(seed)).tolist()
        result = engine.generate(prompt, max_new_tokens=24, temperature=0.0)
        assert result.token_ids == plainly(tuple(prompt), "auto", max_new_tokens=24, temperature=0.0)
        accepted += result.stats.num_accepted_tokens
    assert accepted > 0


@pytest.mark.parametrize("layout", ["dflash", "dspark"])
def test_the_law_with_block_drafters_is_the_targets(layout: str, tmp_path: Path) -> None:
    reduced = round(0.7 * target().config.vocab_size)
    folder = write_dflash(tmp_path, target(), layout, entries=reduced, ids=(0,), size=4)
    engine = dg.Engine.from_pretrained(target(), draft_model=folder, budget=4)
    assert engine.config.structure == "comb"
    warped: dict[str, Any] = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.3}
    texts = [
        tuple(engine.generate(PROMPT, max_new_tokens=LENGTH, seed=11, sample=number, **warped).token_ids)
        for number in range(300)
    ]
    assert p_value(texts, exact("warped")) > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "tree"}, "gives 4 tokens in one pass, .* structure='tree' branches below siblings"),
        ({"structure": "graph"}, "structure='graph' branches below siblings; write 'comb' or 'chain'"),
        ({"structure": Tree((2, 2))}, "branches below siblings"),
        ({"structure": Tree((3, 1, 1))}, "branches below siblings"),
        ({"num_speculative_tokens": 5}, "and 5 were asked for; write num_speculative_tokens=4 or less"),
        ({"structure": Chain(5)}, "and 5 were asked for"),
        ({"edges": ("own",)}, "fill the spare slots of structure='graph'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_drafts_that_a_block_cannot_give_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write_dflash(tmp_path, tiny_lm(layers=4))
    with pytest.raises(OptionError, match=message):
        dg.Engine.from_pretrained(tiny_lm(layers=4), draft_model=folder, **options)
