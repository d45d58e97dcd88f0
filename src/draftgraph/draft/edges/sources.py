"""Which edge sources a request drafts from, and what they learn from its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from draftgraph.draft.edges.rows import Discounts, DraftRows, TextRows
from draftgraph.draft.edges.table import TableRows, TokenTable
from draftgraph.draft.graph import SHARED_ROW, DraftGraph, Edge, EdgeSource, Refuses, Row
from draftgraph.draft.passes import Path
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.terms import Draft
from draftgraph.draft.unroll import Unroller
from draftgraph.errors import OptionError
from draftgraph.request.state import Request
from draftgraph.types import ROOT, Verdict

EDGES = ("merge", "own", "context", "rejected", "text", "table")
"""Names of all sources."""
DRAFTED_ROWS = ("merge", "rejected")
"""Sources whose rows a draft model computed."""
LEAST_AHEAD = 0.03
"""Estimated chance to be reached that a copy must have to be read ahead."""
GREEDY_SHARPNESS = 2.0
"""At temperature 0 a row is kept to the power of this, normalised: its best token is the target's choice more often than the
probability says. On lookup drafts 4 to 10 % fewer seconds per token than with 1; 4 and more did no better."""
TAIL = 8
"""Tokens before a node that a match may look at, and a few more."""


def edges_beside_model(asked: str | Sequence[str], structure: Structure) -> tuple[str, ...]:
    """The names of the sources that a draft model's drafts are filled from, or that come in their place; asked  names, or "auto".

    Raises OptionError for sources that it does not have, and where the structure takes no copies.
    """
    if asked == "auto":
        if structure.filled:
            return ("merge", "own", "context", "rejected")
        return ("own", "context") if structure.copied else ()
    if "text" in asked:
        raise OptionError("edges='text' is for drafter='text', which has no draft_model; leave out one of them")
    if asked and not structure.filled:
        raise OptionError(
            f"edges {_listed(asked)} fill the spare slots of structure='graph', and structure={structure} has none; write "
            "structure='graph', or leave out edges"
        )
    if not asked and structure.copies_ahead(priced=False):
        raise OptionError(f"structure={structure} reads copies ahead, and edges=() allow none; leave out one of them")
    return tuple(asked)


def edges_without_model(asked: str | Sequence[str], predicted: bool) -> tuple[str, ...]:
    """The names of the sources that make up whole drafts; asked  names, or "auto". predicted  whether there is such text.

    Raises OptionError for sources that take a draft model, or none at all.
    """
    if asked == "auto":
        return (*(("text",) if predicted else ()), "own", "context")
    drafted = [name for name in asked if name in DRAFTED_ROWS]
    if drafted:
        raise OptionError(
            f"edges {_listed(drafted)} share rows of a draft model; give draft_model=..., or write edges=('own', 'context')"
        )
    if predicted != ("text" in asked):
        raise OptionError("edges='text' and prediction='...' belong together; give both, or neither of them")
    if not asked:
        raise OptionError(
            "edges=() leave nothing to look up; write edges=('own', 'context'), or budget=0 to draft nothing"
        )
    return tuple(asked)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


@dataclass
class Sources:
    """The edge sources of one request.

    own  rows of its own text; rejected  of the last round's branches; predicted  text that the user expects; table  what all
    requests share. None is a source that is not used, or has nothing yet.
    learns_branches  the table learns from rejected nodes as well. Without a draft model that is worth a head of every row.
    """

    discounts: Discounts
    merge: bool = False
    keeps_rejected: bool = False
    own: TextRows | None = None
    rejected: DraftRows | None = None
    predicted: TextRows | None = None
    table: TokenTable | None = None
    learns_branches: bool = False

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        tokens: Sequence[int],
        prediction: Sequence[int] = (),
        table: TokenTable | None = None,
        has_model: bool = True,
    ) -> Sources:
        """The sources in `names`, for a request that begins with `tokens`."""
        sources = cls(Discounts(), "merge" in names, "rejected" in names)
        if "own" in names or "context" in names:
            sources.own = TextRows(sources.discounts, "context", "own" in names, "context" in names)
            sources.own.extend(tokens)
        if "text" in names:
            sources.predicted = TextRows(sources.discounts, "text")
            sources.predicted.extend(prediction)
        if "table" in names:
            sources.table, sources.learns_branches = table, not has_model
        return sources

    def for_draft(self, graph: DraftGraph, context: Sequence[int]) -> list[EdgeSource]:
        """What may be copied into `graph`, drafted behind `context`. Of equal matches the first source wins."""
        merge = DraftRows(graph, context, self.discounts) if self.merge else None
        table = None if self.table is None else TableRows(self.table, self.discounts)
        return [source for source in (merge, self.predicted, self.own, self.rejected, table) if source is not None]

    def ahead(
        self,
        graph: DraftGraph,
        nodes: Sequence[int],
        context: Sequence[int],
        count: int,
        reach: int,
        refuses: Refuses | None = None,
    ) -> list[Path]:
        """Paths of up to `count` copies below `nodes`, the likeliest, parents first; to depth `reach`."""
        copied = graph.subset(range(len(graph)))
        unroller = Unroller(copied, self.for_draft(graph, context), context, LEAST_AHEAD, refuses=refuses)
        unroller.grow(nodes, len(graph) + count, reach)
        return [tuple(copied.path_tokens(node)) for node in range(len(graph), len(copied))]

    def start(self) -> Edge | None:
        """The edge to the beginning of the predicted text."""
        return None if self.predicted is None else self.predicted.start()

    def observe(self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor) -> None:
        """The round is verified, and not yet committed: learn discounts, and keep what later rounds may copy."""
        graph, tree = draft.graph, draft.tree
        tokens = [*(tree.tokens[node] for node in verdict.path), verdict.token]
        if draft.unasked and self.table is None:
            self.pass_over(tokens)
            return
        learn_edges(self.discounts, graph, verdict, tokens)
        path = (ROOT, *verdict.path)
        nodes = range(ROOT, len(tree)) if self.table is not None and self.learns_branches else path
        sharp = GREEDY_SHARPNESS if request.params.temperature == 0 else 1.0
        heads = (
            dict(zip(nodes, shared_rows(scores, nodes, sharp), strict=True))
            if self.own is not None or self.table is not None
            else {}
        )
        if self.table is not None:
            for node in sorted(nodes, key=lambda node: node in path):  # what was accepted has the last word
                self.table.learn([*request.tokens[-TAIL:], *graph.path_tokens(node)], heads[node])
        if self.own is not None:
            self.own.extend(tokens, [heads[node] for node in path])
        if self.keeps_rejected:
            self.rejected = DraftRows(graph, request.tokens[-TAIL:], self.discounts, "rejected", set(verdict.path))

    def pass_over(self, tokens: Sequence[int]) -> None:
        """The text goes on by these tokens, in a round that copied nothing and whose rows nobody keeps."""
        self.rejected = None
        if self.own is not None:
            self.own.extend(tokens)


def kept(names: Sequence[str], request: Request) -> list[str]:
    """Of the sources in `names` those that a request keeps: one that never drafts keeps what all requests share."""
    return [name for name in dict.fromkeys(names) if request.drafts or name == "table"]


def shared_rows(scores: torch.Tensor, nodes: Sequence[int], sharp: float = 1.0) -> list[Row]:
    """The heads of the target's rows f[N + 1, V] behind some nodes (or ROOT), which later drafts may borrow.

    sharp  power that the rows are raised to.
    """
    chosen = scores[:1] if tuple(nodes) == (ROOT,) else scores[[node + 1 for node in nodes]]
    rows = torch.softmax(chosen if sharp == 1.0 else chosen * sharp, dim=1)
    probs, tokens = rows.topk(min(SHARED_ROW, rows.shape[1]), dim=1)
    return [Row(t, w) for t, w in zip(tokens.tolist(), probs.tolist(), strict=True)]


def learn_edges(discounts: Discounts, graph: DraftGraph, verdict: Verdict, tokens: Sequence[int]) -> None:
    """Compare what the edges on the accepted path promised with what the target chose there."""
    for node, token in zip((ROOT, *verdict.path), tokens, strict=True):
        edge = graph.edges.get(node)
        if edge is not None:
            proposed = {graph.tokens[child] for child, parent in enumerate(graph.parents) if parent == node}
            shared = {t: prob for t, prob in zip(edge.row.tokens, edge.row.probs, strict=True) if t in proposed}
            discounts.learn(
                edge.source, 0 if edge.followed else edge.match_length, sum(shared.values()), token in shared
            )
