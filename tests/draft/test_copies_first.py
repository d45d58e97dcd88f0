"""Copies before a trained drafter: whichever comes first, the text has the target's law, and copies come where they give more."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from cost_tables import costs, with_chains
from draftgraph.backends.base import Feed
from draftgraph.backends.feature_model import FeatureModel
from draftgraph.backends.torch_model import TorchModel
from draftgraph.budget.automatic import AutoBudget
from draftgraph.budget.limits import Windows, limits
from draftgraph.draft.hidden import HiddenDrafter
from draftgraph.draft.lookup import copied
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.terms import Draft, Limits
from draftgraph.engine.round import decode_round
from draftgraph.lab.prove.law import Draw, enumerate_draws, total_variation
from draftgraph.request.result import Event
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.warp import Warper
from draftgraph.structures import Chain, Comb, Graph
from draftgraph.verification.registry import get_rule
from enumerated import EnumeratedNoise, enumerate_drafts, enumerated_rule
from feature_drafters import tiny_net, write_drafter
from models import perturbed, tiny_lm

VOCAB, LENGTH = 3, 4
PROMPT = [1, 2, 0, 1, 2, 0, 1]
EDGES = ("own", "context")


@cache
def pair() -> tuple[TorchModel, FeatureModel]:
    """A target in float64, and a drafter whose head has two of the three tokens."""
    over: PreTrainedModel = tiny_lm(vocab=VOCAB, layers=3, logit_gain=1.0).double()
    net, tokens = tiny_net(over, share=0.7)
    target = TorchModel(over)
    return target, FeatureModel(net, tokens, target.model.get_input_embeddings())


@cache
def law() -> torch.Tensor:
    """f64[V ** LENGTH], that of the target's own texts."""
    target, _ = pair()
    found = []
    for text in product(range(VOCAB), repeat=LENGTH):
        handle = target.open(0)
        ids = [*PROMPT, *text[:-1]]
        with torch.inference_mode():
            rows = torch.cat([target.forward([Feed(handle, [token])])[0].logits for token in ids])
        target.close(handle)
        laws = rows[len(PROMPT) - 1 :].double().softmax(1)
        found.append(float(laws[torch.arange(LENGTH), list(text)].prod()))
    return torch.tensor(found, dtype=torch.float64)


Seen = Counter[str]
Propose = Callable[[HiddenDrafter, Request, Limits], Draft]


def decoded(rule: str, structure: Structure, propose: Propose, seen: Seen, draw: Draw) -> tuple[int, ...]:
    """A whole text of the real rounds, all of whose randomness is the enumerator's."""
    target, network = pair()
    drafter = HiddenDrafter(network, VOCAB, EDGES)
    drafter.propose = lambda request, bounds: propose(drafter, request, bounds)  # type: ignore[method-assign]
    params = SamplingParams(max_new_tokens=LENGTH, temperature=1.0)
    verified = enumerated_rule(get_rule(rule))
    choice = Strategy(verified, structure, verified.uses_laws, "enumerated")
    request = Request(
        params, choice, list(PROMPT), len(PROMPT), LENGTH, frozenset(), EnumeratedNoise(draw),
        Warper(params, len(PROMPT), [], target.device), Detokenizer(None, PROMPT, ()), VOCAB,
    )  # fmt: skip
    table = costs(drafter=0.3, reached=0.45)
    request.plan = AutoBudget(table, 2, True, True, structure.nodes_per_level, draws=choice.sampled)
    request.text = target.open(0)
    drafter.begin(request)
    try:
        while request.finish_reason is None:
            bounds = limits("auto", None, request, Windows.of(target, drafter))
            happened = decode_round([request], drafter, target, [bounds])
            assert isinstance(happened[0], Event), happened
            seen[request.rounds[-1].decision] += 1
    finally:
        drafter.end(request)
        target.close(request.text)
    return tuple(request.output)


def text_law(*asked: Any) -> torch.Tensor:
    masses: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for probability, text in enumerate_draws(lambda draw: decoded(*asked, draw)):
        masses[text] += probability
    return torch.tensor([masses[text] for text in product(range(VOCAB), repeat=LENGTH)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "structure"),
    [("layer", Graph()), ("layer", Comb()), ("block", Chain()), ("agree", Graph()), ("agree", Chain())],
    ids=str,
)
def test_texts_of_several_rounds_have_the_targets_law(
    rule: str, structure: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds of copies and of drafts follow one another, as what was accepted says."""
    enumerate_drafts(monkeypatch)
    seen: Seen = Counter()
    found = text_law(rule, structure, HiddenDrafter.propose, seen)
    print(rule, structure, seen)
    assert seen["copies"] > 10
    assert seen["draft"] > 5
    assert total_variation(found, law()) <= 1e-12


def peeking(drafter: HiddenDrafter, request: Request, bounds: Limits) -> Draft:
    """Prefers copies where the token that was drawn is not the one that copies expect: a control that must fail."""
    draft = HiddenDrafter.propose(drafter, request, bounds)
    if bounds.instead is None or not any(row >= 0 for row in draft.tree.law_row):
        return draft
    graph = copied(request, request.drafting.sources, bounds.instead).subset([0])
    return draft if draft.tree.tokens[0] == graph.tokens[0] else Draft(graph)


@pytest.mark.parametrize(("rule", "structure"), [("layer", Comb()), ("block", Chain())], ids=str)
def test_a_choice_that_looks_at_what_was_drawn_is_refuted(
    rule: str, structure: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    enumerate_drafts(monkeypatch)
    assert total_variation(text_law(rule, structure, peeking, Counter()), law()) > 1e-3


# Through the engine.

TEXT = [5, 9, 3, 40, 7, 2, 5, 9, 3, 40, 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drafter(tmp_path_factory.mktemp("drafter"), tiny_lm(layers=4))


def engine(**options: Any) -> dg.Engine:
    made = dg.Engine.from_pretrained(tiny_lm(layers=4), **options)
    made.__dict__["costs"] = with_chains(costs(drafter=0.3, reached=0.6), 0.6)
    return made


PROMPTS = (TEXT, TEXT[3:], TEXT * 3, [1, 2])
GREEDY: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.0}


@cache
def plain() -> list[list[int]]:
    """The texts without drafts."""
    return [result.token_ids for result in engine(budget=0).generate(list(PROMPTS), **GREEDY)]


OPTIONS: dict[str, dict[str, Any]] = {
    "auto": {}, "chain": {"structure": "chain"}, "block": {"rule": "block"}, "graph": {"structure": "graph"},
    "comb": {"structure": "comb"}, "short": {"num_speculative_tokens": 2}, "agree": {"rule": "agree"},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_greedy_texts_are_exact_alone_and_in_batches(name: str, folder: Path) -> None:
    drafting = engine(draft_model=folder, **OPTIONS[name])
    alone = [drafting.generate(prompt, **GREEDY) for prompt in PROMPTS]
    rounds = [record for result in alone for record in result.rounds]
    assert [result.token_ids for result in alone] == plain()
    together = drafting.generate(list(PROMPTS), **GREEDY)
    assert [result.token_ids for result in together] == plain()
    assert {"copies", "draft"} <= {record.decision for record in rounds}
    assert {result.rounds[0].decision for result in alone} == {"copies"}  # nothing is known of the prompt's end
    assert any(record.decision == "copies" and "from the drafter" in record.reason for record in rounds)
    assert all(record.num_passes == 0 for record in rounds if record.decision == "copies")
    if name == "short":
        rounds += [record for result in together for record in result.rounds]
        assert max(max(record.depths(), default=0) for record in rounds if record.decision == "copies") == 2
    if name in ("chain", "block"):
        assert all([*record.parents] == list(range(-1, len(record.tokens) - 1)) for record in rounds)


@pytest.mark.parametrize("structure", ["auto", "chain", "comb", "graph"])
def test_who_is_left_alone_drafts_again_as_deep_as_was_asked_for(structure: str, tmp_path: Path) -> None:
    target = tiny_lm(layers=4, window=256)
    drafting = dg.Engine.from_pretrained(
        target, draft_model=write_drafter(tmp_path, target), structure=structure, num_speculative_tokens=4
    )
    drafting.__dict__["costs"] = with_chains(costs(drafter=0.1, reached=0.8, row=0.02), 0.8)
    long, short = {"max_new_tokens": 120, "temperature": 0.0}, {"max_new_tokens": 10, "temperature": 0.0}
    first = drafting.generate([TEXT, *([1, 2, i] for i in range(7))], [long, *[short] * 7])[0]
    late = [record for record in first.rounds if record.length > len(TEXT) + 30]
    assert not [record.reason for record in late if "beside" in record.reason]
    assert any(len(record.tokens) > 1 for record in late)


def test_under_agree_a_seed_gives_the_text_without_drafts(folder: Path) -> None:
    drafting, plain = engine(draft_model=folder, rule="agree"), engine(budget=0, rule="agree")
    for seed in range(3):
        asked: dict[str, Any] = {"max_new_tokens": 30, "temperature": 0.7, "seed": seed}
        assert drafting.generate(TEXT, **asked).token_ids == plain.generate(TEXT, **asked).token_ids


@pytest.mark.parametrize(
    "options",
    [{"edges": ()}, {"structure": "tree"}, {"structure": "gsd"}, {"rule": "kseq", "structure": "chain"}],
    ids=str,
)
def test_no_copies_come_where_none_were_asked_for_or_the_rule_cannot_use_them(
    options: dict[str, Any], folder: Path
) -> None:
    result = engine(draft_model=folder, **options).generate(TEXT * 2, max_new_tokens=30, temperature=0.8, seed=1)
    assert {origin for record in result.rounds for origin in record.origins} <= {"drafter", "merge"}


def test_a_small_model_has_copies_before_it_too() -> None:
    target = tiny_lm(layers=4)
    drafting = engine(draft_model=perturbed(target, 0.3))
    result = drafting.generate(TEXT * 2, max_new_tokens=40, temperature=0.0)
    assert result.token_ids == engine(budget=0).generate(TEXT * 2, max_new_tokens=40, temperature=0.0).token_ids
    assert {"copies", "draft"} <= {record.decision for record in result.rounds}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_targets_on_openvino_are_drafted_for(dtype: str, folder: Path, tmp_path: Path) -> None:
    """In bfloat16 rows are the same bit for bit, and every draft is a chain."""
    pytest.importorskip("openvino")
    tiny_lm(layers=4).save_pretrained(tmp_path)
    asked: dict[str, Any] = {"max_new_tokens": 30, "temperature": 0.0}
    loaded: dict[str, Any] = {"backend": "openvino", "dtype": dtype}
    plain = dg.Engine.from_pretrained(tmp_path, draft_model=folder, budget=0, **loaded).generate(TEXT, **asked)
    drafting = dg.Engine.from_pretrained(tmp_path, draft_model=folder, **loaded)
    drafting.__dict__["costs"] = costs(drafter=0.3, reached=0.6)
    result = drafting.generate(TEXT, **asked)
    assert result.token_ids == plain.token_ids
    assert any(record.decision == "copies" and record.path for record in result.rounds)
    if dtype == "bfloat16":
        assert all([*record.parents] == list(range(-1, len(record.tokens) - 1)) for record in result.rounds)
