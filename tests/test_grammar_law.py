"""Grammars are exact: every round of the real loop is enumerated, and the text has the law of plain masked sampling.

The tables are random, so a mask that is left out at one node, or taken from another one, shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch

from automata import Automaton
from draftgraph.draft import model
from draftgraph.draft.base import Drafter
from draftgraph.draft.edges.sources import edges_beside_model, edges_without_model
from draftgraph.draft.lookup import LookupDrafter
from draftgraph.draft.terms import Limits
from draftgraph.engine.config import Config
from draftgraph.engine.round import decode_round
from draftgraph.errors import LogitsError
from draftgraph.lab.prove.law import Draw, Laws, Tables, enumerate_draws, random_tables
from draftgraph.request.result import Event
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.grammar_states import GrammarStates, State
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise
from draftgraph.sampling.warp import Prefixes, Warper
from draftgraph.structures import Paths, Tree
from draftgraph.types import TokenTree, Verdict
from draftgraph.verification.base import Rule
from draftgraph.verification.registry import RULES
from test_sampling_law import TableLM

EXACT, VISIBLE = 1e-12, 1e-3
VOCAB, EOS, LENGTH = 4, 3, 4
PROMPT = [0, 1]
Text = tuple[int, ...]

GRAMMARS = {
    "pairs": Automaton(
        {"start": {0: "a", 1: "b"}, "a": {1: "start", 2: "b"}, "b": {0: "start", EOS: None}}, vocab=VOCAB
    ),
    "one end": Automaton({"start": {0: "a", 2: "start"}, "a": {1: "end", 2: "a"}, "end": {EOS: None}}, vocab=VOCAB),
    "no end": Automaton({"start": {0: "a", 1: "start", 2: "a"}, "a": {1: "complete"}, "complete": {}}),
}


@dataclass(frozen=True)
class Case:
    rule: str
    config: Config = field(default_factory=Config)
    limits: Limits = field(default_factory=lambda: Limits(4, 2, 0))
    params: dict[str, Any] = field(default_factory=dict)
    looked_up: bool = False


COPIES = Limits(3, 0, 0)
CASES = {
    "layer, graph": Case("layer", Config(structure="graph")),
    "layer, tree": Case("layer", Config(structure="tree"), Limits(5, 2, 0)),
    "layer, chain": Case("layer", Config(structure="chain"), Limits(3, 3, 0)),
    "layer, shape": Case("layer", Config(structure=Tree((2, 1)))),
    "layer, comb": Case("layer", Config(structure="comb")),
    "layer, paths": Case("layer", Config(structure=Paths(2, 2)), Limits(3, 2, 0)),
    "layer, systematic": Case("layer", Config(structure=Tree((2,), "systematic")), Limits(2, 1, 0)),
    "layer, copies": Case("layer", Config(structure="graph", edges=("own", "context", "rejected")), COPIES),
    "layer, lookup": Case("layer", Config(structure="graph"), Limits(4, 2, 0), looked_up=True),
    "layer, warped": Case(
        "layer", Config(structure="graph"), params={"temperature": 0.6, "top_k": 2, "min_new_tokens": 2}
    ),
    "layer, biased": Case("layer", Config(structure="tree"), params={"logit_bias": {0: 1.0, EOS: -2.0}, "min_p": 0.2}),
    "block, chain": Case("block", Config(structure="chain"), Limits(3, 3, 0)),
    "token, chain": Case("token", Config(structure="chain"), Limits(3, 3, 0)),
    "recursive, without replacement": Case("recursive", Config(structure=Tree((2, 1), "without_replacement"))),
    "traversal, shape": Case("traversal", Config(structure=Tree((2, 1)))),
    "kseq, paths": Case("kseq", Config(structure=Paths(2, 1)), Limits(2, 1, 0)),
    "walk, graph": Case("walk", Config(structure="graph")),
    "agree's walk, gsd": Case("walk", Config(structure="gsd"), Limits(5, 2, 0)),
}


class EnumeratedNoise(Noise):
    def __init__(self, draw: Draw) -> None:
        super().__init__(0)
        self.draw = draw


def enumerated(rule: Rule) -> Rule:
    """The rule, whose verdicts are enumerated."""

    def verdict(self: Rule, tree: TokenTree, p: torch.Tensor, noise: Any, length: int) -> Verdict:
        outcome = self.outcome(tree, p)
        end = noise.draw(torch.tensor(outcome.stop, dtype=torch.float64))
        return Verdict(tuple(tree.path(end - 1)), noise.draw(outcome.bonus(end)))

    kind = type(rule)
    made: Rule = type(f"Enumerated{kind.__name__}", (kind,), {"verdict": verdict})()
    return made


@pytest.fixture(autouse=True)
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    drawer = lambda request: lambda laws, depth, addresses: [request.noise.draw(law) for law in laws]  # noqa: E731
    monkeypatch.setattr(model, "_drawer", drawer)


class TableModel(TableLM):
    def __init__(self, laws: Laws) -> None:
        self.vocab_size = VOCAB
        self.row = lambda text: laws(text[len(PROMPT) :]).log()


def decoded(case: Case, tables: Tables, grammar: Automaton, draw: Draw) -> Request:
    """A whole request, round by round."""
    structure = case.config.resolved_structure
    choice = Strategy(enumerated(RULES[case.rule]), structure, structure.draws, "enumerated")
    drafter: Drafter
    if case.looked_up:
        drafter = LookupDrafter(edges_without_model("auto", False))
    else:
        drafter = model.ModelDrafter(
            TableModel(tables.drafter), VOCAB, edges_beside_model(case.config.edges, structure)
        )
    target = TableModel(tables.target)
    params = SamplingParams(**{"temperature": 1.0, **case.params, "max_new_tokens": LENGTH})
    states = GrammarStates(grammar, VOCAB, {EOS})
    request = Request(
        params, choice, list(PROMPT), len(PROMPT), LENGTH, frozenset({EOS}), EnumeratedNoise(draw),
        Warper(params, len(PROMPT), [EOS], target.device, True, states), Detokenizer(None, PROMPT, ()), VOCAB,
    )  # fmt: skip
    request.text = target.open(0)
    drafter.begin(request)
    while request.finish_reason is None:
        reach = request.remaining - 1
        [event] = decode_round([request], drafter, target, [replace(case.limits, reach=reach)])
        if isinstance(event, LogitsError):  # the target never emits what the grammar admits: the text ends here
            break
        assert isinstance(event, Event), event
    return request


def emitted(case: Case, tables: Tables, grammar: Automaton) -> tuple[dict[Text, float], float]:
    """The law of the texts, and the expected number of accepted tokens."""
    law: defaultdict[Text, float] = defaultdict(float)
    accepted = 0.0
    for probability, request in enumerate_draws(partial(decoded, case, tables, grammar)):
        law[tuple(request.output)] += probability
        accepted += probability * request.tally.accepted
    return dict(law), accepted


def plain(case: Case, tables: Tables, grammar: Automaton) -> dict[Text, float]:
    """Plain masked sampling, prefix by prefix. The options' own processors are those of plain decoding without a grammar."""
    params = SamplingParams(**{"temperature": 1.0, **case.params, "max_new_tokens": LENGTH})
    warper = Warper(params, len(PROMPT), [EOS], torch.device("cpu"))
    ends: dict[Text, float] = {}
    pending = [((), 1.0, grammar)]
    while pending:
        text, mass, state = pending.pop()
        mask = state.mask()[:VOCAB]
        if not bool(mask.any()) or len(text) == LENGTH:
            ends[text] = mass
            continue
        row = tables.target(text).log()[None].masked_fill(~mask, -torch.inf)
        if not bool(
            (row > -torch.inf).any()
        ):  # the target never emits what the grammar admits: an error, with this text
            ends[text] = mass
            continue
        law = warper.probabilities(row, Prefixes([*PROMPT, *text], lambda _: ()))[0]
        if not bool(torch.isfinite(law).all()):  # min_new_tokens forbids the one end that the grammar admits
            law = torch.softmax(row[0], dim=0)
        for token, p in enumerate(law.tolist()):
            if p > 0.0 and token == EOS:
                ends[*text, token] = mass * p
            elif p > 0.0:
                after = state.fork()
                after.accept(token)
                pending.append(((*text, token), mass * p, after))
    return ends


def distance(first: dict[Text, float], second: dict[Text, float]) -> float:
    return 0.5 * sum(abs(first.get(text, 0.0) - second.get(text, 0.0)) for text in first.keys() | second.keys())


@pytest.mark.parametrize("grammar", GRAMMARS)
@pytest.mark.parametrize("name", CASES)
def test_rounds_emit_the_law_of_plain_masked_sampling(name: str, grammar: str) -> None:
    case, number = CASES[name], list(CASES).index(name) + list(GRAMMARS).index(grammar)
    tables = random_tables(("random", "sparse")[number % 2], VOCAB, LENGTH, 0)
    law, _ = emitted(case, tables, GRAMMARS[grammar])
    assert sum(law.values()) == pytest.approx(1.0, abs=1e-9)
    assert distance(law, plain(case, tables, GRAMMARS[grammar])) <= EXACT


# Mistakes, which must be seen.


def _only_at_the_root(behind: Any) -> Any:
    """Every row of a draft is masked by the state of the committed text, as if one mask per request would do."""
    return lambda self, path: behind(self, ())


def _not_below_the_root(behind: Any) -> Any:
    """Deep rows are not masked."""
    return lambda self, path: State(None) if path else behind(self, path)


def _of_a_sibling(behind: Any) -> Any:
    """A node's row is masked by the state behind another child of the node above it."""

    def wrong(self: GrammarStates, path: Sequence[int]) -> State:
        others = [token for token in range(VOCAB - 1) if path and token != path[-1]]
        siblings = [s for t in others if (s := behind(self, [*path[:-1], t])).allowed(VOCAB) is not None]
        return siblings[0] if siblings else behind(self, path)

    return wrong


MISTAKES = {"root": _only_at_the_root, "deep": _not_below_the_root, "sibling": _of_a_sibling}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", ["layer, graph", "layer, chain", "walk, graph", "traversal, shape"])
def test_a_mask_of_another_node_is_seen(name: str, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GrammarStates, "behind", MISTAKES[mistake](GrammarStates.behind))
    tables = random_tables("random", VOCAB, LENGTH, 0)
    law, _ = emitted(CASES[name], tables, GRAMMARS["pairs"])
    assert distance(law, plain(CASES[name], tables, GRAMMARS["pairs"])) > VISIBLE


def test_a_mask_that_only_the_drafter_lacks_costs_drafts_and_no_exactness(monkeypatch: pytest.MonkeyPatch) -> None:
    case, grammar = replace(CASES["layer, chain"], limits=Limits(2, 2, 0)), GRAMMARS["one end"]
    tables = random_tables("random", VOCAB, LENGTH, 0)
    _, with_masks = emitted(case, tables, grammar)
    read = model.DrafterPasses._read

    def unmasked(self: Any, paths: Any) -> None:
        states, self.request.warper.grammar = self.request.warper.grammar, None
        read(self, paths)
        self.request.warper.grammar = states

    monkeypatch.setattr(model.DrafterPasses, "_read", unmasked)
    law, without = emitted(case, tables, grammar)
    assert distance(law, plain(case, tables, grammar)) <= EXACT
    assert without < with_masks - 0.1
