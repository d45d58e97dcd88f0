"""Drafting by search: the best continuations that an n-gram table knows (`draft/puct.py`), and copies of the text beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from draftgraph.draft.base import Drafter
from draftgraph.draft.edges.sources import TAIL, Sources
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.lookup import LookupDrafter, copied
from draftgraph.draft.ngrams.table import NgramTable
from draftgraph.draft.puct import SIMULATIONS, Found, Search
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.terms import Draft, Limits
from draftgraph.draft.whole_sizes import cut
from draftgraph.request.state import Request
from draftgraph.sampling.laws import TargetLaws
from draftgraph.types import FIXED, ROOT, Verdict

SEARCH = "search"
"""Origin of nodes that were searched for."""
SIMULATION_SECONDS, SEARCH_SHARE = 8e-6, 0.03
"""What a simulation takes, about; and what they may take together of a round without drafts, under the automatic budget."""


@dataclass
class Searching:
    """What the drafter keeps of a request. learnt  tokens of its text that the table knows."""

    table: NgramTable
    sources: Sources
    learnt: int = 0

    def catch_up(self, tokens: Sequence[int]) -> None:
        """The table learns what was committed since."""
        self.table.learn(tokens[max(0, self.learnt - 2) : self.learnt], tokens[self.learnt :])
        self.learnt = len(tokens)


class SearchDrafter(Drafter):
    """A search over an n-gram table, which learns from prompts and from what the target says; and copies, as lookup has them.

    Every slot is FIXED: no law is claimed.

    edges       names of the edge sources that are looked into beside the table; () leaves the table alone.
    prediction  token ids that the output is expected to repeat, with gaps; a request may have others.
    table       what requests begin with. named  what tells it from others, for tables of costs.
    shared      whether all requests learn into it, so that earlier ones shape the drafts of later ones; False: each has a fork.
    value_weight  of the mean value in the search; 0 searches by the table's probabilities alone.
    simulations   of a search.
    """

    draws = ("fixed",)
    structure = None
    heeds_prices = True
    trusted = True
    kind: ClassVar[type[Search]] = Search

    def __init__(
        self,
        edges: Sequence[str],
        prediction: Sequence[int] = (),
        table: NgramTable | None = None,
        named: str = "empty",
        shared: bool = False,
        value_weight: float = 1.0,
        simulations: int = SIMULATIONS,
    ) -> None:
        self.lookup = LookupDrafter(edges, prediction)
        self.edges = self.lookup.edges
        self.table = NgramTable() if table is None else table
        self.named, self.shared = named, shared
        self.value_weight, self.simulations = value_weight, simulations
        self.identity = f"search {named} {' '.join(self.edges)}"

    @property
    def name(self) -> str:
        return "a table of n-grams and text already seen" if self.edges else "a table of n-grams"

    def copies(self, structure: Structure) -> bool:
        """All that is searched for costs no pass, as copies do."""
        return True

    def begin(self, request: Request) -> None:
        table = self.table if self.shared else self.table.fork()
        request.drafting = Searching(table, self.lookup.sources(request))

    def end(self, request: Request) -> None:
        searching: Searching | None = request.drafting
        if searching is not None:  # else it has not begun, for it was interrupted
            searching.catch_up(request.tokens)

    def propose(self, request: Request, limits: Limits) -> Draft:
        searching: Searching = request.drafting
        searching.catch_up(request.tokens)
        graph = copied(request, searching.sources, limits)
        found = self.searched(request, searching, limits)
        width = request.choice.structure.width
        whole = likeliest(joined(graph, found, limits.floor), limits.budget, width)
        return Draft(cut(whole, limits))

    def searched(self, request: Request, searching: Searching, limits: Limits) -> list[Found]:
        """What the table knows, parents first."""
        depth = min(limits.depth or limits.reach, limits.reach)
        search = self.kind(
            request.tokens[-2:],
            searching.table.behind,
            trust_of(searching.sources),
            depth,
            request.warper.refuses,
            self.value_weight,
        )
        return search.found(limits.budget, affordable(self.simulations, limits))

    def verified(
        self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, laws: TargetLaws
    ) -> None:
        searching: Searching = request.drafting
        learn_trust(searching, request.tokens[-TAIL:], draft.graph, verdict)
        searching.sources.observe(request, draft, verdict, scores)

    def fresh(self) -> SearchDrafter:
        """With the same corpus. Without the predicted text and what requests have taught."""
        table = NgramTable(self.table.counts)
        return type(self)(self.edges, (), table, self.named, False, self.value_weight, self.simulations)


def affordable(simulations: int, limits: Limits) -> int:
    """How many simulations a round may spend: all of them with a fixed budget, else what the target's rounds allow."""
    if not limits.seconds:
        return simulations
    return min(simulations, int(SEARCH_SHARE * limits.seconds[0] / SIMULATION_SECONDS))


def trust_of(sources: Sources) -> Callable[[int], float]:
    """How much of the table's rows the target has confirmed in this request, by match length."""
    return lambda length: sources.discounts(SEARCH, length)


def learn_trust(searching: Searching, context: Sequence[int], graph: DraftGraph, verdict: Verdict) -> None:
    """Compare what the table promised along the accepted path with what the target chose there."""
    tokens = [*(graph.tokens[node] for node in verdict.path), verdict.token]
    text = list(context)
    for node, token in zip((ROOT, *verdict.path), tokens, strict=True):
        row = searching.table.behind(text)
        if row is not None:
            proposed = {graph.tokens[child] for child, parent in enumerate(graph.parents) if parent == node}
            shared = {t: prob for t, prob in zip(row.tokens, row.probs, strict=True) if t in proposed}
            if shared:
                searching.sources.discounts.learn(SEARCH, row.length, sum(shared.values()), token in shared)
        text.append(token)


def joined(graph: DraftGraph, found: Sequence[Found], floor: float) -> DraftGraph:
    """`graph` with what was found; a node that both have gets the better of two scores. No score may rise along a path."""
    nodes = {slot: node for node, slot in enumerate(zip(graph.parents, graph.tokens, strict=True))}
    at: dict[tuple[int, ...], int] = {(): ROOT}
    for path, score, length in found:
        if score < floor or path[:-1] not in at:
            continue
        slot = (at[path[:-1]], path[-1])
        node = nodes.get(slot)
        if node is None:
            node = nodes[slot] = graph.add(*slot, score, FIXED, SEARCH, None, length)
        else:
            graph.scores[node] = max(graph.scores[node], score)
        at[path] = node
    return graph


def likeliest(graph: DraftGraph, budget: int, width: int | None) -> DraftGraph:
    """The nodes with the highest scores, `budget` at most; with a `width`, so many children per node at most."""
    kept = range(len(graph)) if width is None else _narrowed(graph, width)
    best = sorted(kept, key=lambda node: (-graph.scores[node], node))[:budget]  # parents first: no score rises
    return graph if len(best) == len(graph) else graph.subset(best)


def _narrowed(graph: DraftGraph, width: int) -> list[int]:
    """Of every node the children below which most is expected, `width` at most; and what hangs on them."""
    worth = list(graph.scores)
    children: dict[int, list[int]] = {}
    for node in reversed(range(len(graph))):
        siblings = children.setdefault(graph.parents[node], [])
        best = sorted((worth[child] for child in children.get(node, ())), reverse=True)
        worth[node] += sum(best[:width])
        siblings.append(node)
    kept, pending = [], [ROOT]
    while pending:
        best_children = sorted(children.get(pending.pop(), ()), key=lambda node: (-worth[node], node))[:width]
        kept += best_children
        pending += best_children
    return kept
