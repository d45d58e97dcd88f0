"""Drafting with a second causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from draftgraph.backends.base import CacheHandle, CausalLM
from draftgraph.config import Config
from draftgraph.draft.base import Draft, Draw, Limits, Overlap, empty_draft
from draftgraph.draft.edges.sources import TAIL, Sources, allowed_edges
from draftgraph.draft.edges.table import TokenTable
from draftgraph.draft.graph import DraftGraph, Unroller
from draftgraph.draft.passes import DrafterPasses, Path, Shape
from draftgraph.draft.structures.best_first import WIDTH, add_edges, grow_best_first
from draftgraph.draft.structures.calibrate import Calibration
from draftgraph.draft.structures.gsd import grow_gsd
from draftgraph.draft.structures.levels import grow_levels
from draftgraph.draft.structures.shapes import grow_branching, grow_comb, paths
from draftgraph.request.state import Request
from draftgraph.sampling.rng import Role
from draftgraph.types import ROOT, Verdict
from draftgraph.verification.base import sample_rows

MIN_COPY_SCORE = 0.02
"""A copy whose estimated mass is below this is not worth a row of the target."""
AHEAD = 8
"""Copies read ahead per drafter pass; measured where all slots are FIXED, in docs/decisions.md."""
SHARPNESS = 2.0
"""Under `agree`, a candidate's chance to be the target's own draw is estimated as (q / e)^SHARPNESS, normalised."""


@dataclass
class _State:
    """One request's drafting state: what the drafter has cached, and what was learnt from earlier rounds."""

    text: CacheHandle
    sources: Sources
    calibration: Calibration = field(default_factory=Calibration)
    reader: DrafterPasses | None = None
    overlap: float = 0.0
    rounds: int = 0


class ModelDrafter:
    """A drafter over a causal LM with the target's tokenizer (a differently padded vocabulary is tolerated)."""

    def __init__(self, model: CausalLM, config: Config, vocab_size: int) -> None:
        self.model, self.config, self.vocab_size = model, config, vocab_size
        self.edges = allowed_edges(config, has_model=True)
        self.table = TokenTable()

    def begin(self, request: Request) -> None:
        text = self.model.open(len(request.tokens) + AHEAD)
        request.drafting = _State(text, Sources.of(self.edges, request.tokens, table=self.table))

    def propose(self, request: Request, limits: Limits) -> Draft:
        state: _State = request.drafting
        state.reader = None
        if limits.budget == 0 or limits.reach == 0 or (limits.depth == 0 and not self.edges):
            return empty_draft()
        graph = self._grow(request, limits)
        assert state.reader is not None
        return Draft(graph, graph.tree(), state.reader.evaluations, state.reader.passes)

    def observe(self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, p: torch.Tensor) -> None:
        state: _State = request.drafting
        self.model.keep(state.text, [draft.graph.fed[node] for node in verdict.path if node in draft.graph.fed])
        token = draft.tree.tokens[verdict.path[0]] if verdict.path else verdict.token
        self._calibrate(request, draft, token, p[0])
        if self.edges:
            state.sources.observe(request, draft.graph, draft.tree, verdict, scores)

    def _calibrate(self, request: Request, draft: Draft, token: int, p: torch.Tensor) -> None:
        """Learn from the root, the one position that every round verifies without having selected it."""
        state: _State = request.drafting
        law = None if state.reader is None else state.reader.root_law
        if law is None:
            return
        if request.params.temperature > 0 and not request.choice.rule.position_noise:
            state.overlap += float(torch.minimum(law, p).sum())
            state.rounds += 1
        if request.choice.sampled:
            state.calibration.observe(law, p)
        elif ROOT in draft.graph.rows:
            best = draft.graph.rows[ROOT].tokens
            state.calibration.observe_fixed(law[best].tolist(), [float(t == token) for t in best])

    def overlap(self, request: Request) -> Overlap | None:
        state: _State = request.drafting
        return Overlap(state.overlap / state.rounds, state.rounds) if state.rounds else None

    def end(self, request: Request) -> None:
        self.model.close(request.drafting.text)

    def _grow(self, request: Request, limits: Limits) -> DraftGraph:
        """The configured structure, with SAMPLED slots if the rule reads their laws, else with FIXED ones only."""
        state: _State = request.drafting
        structure, branching = self.config.resolved_structure, self.config.branching
        sampled = request.choice.sampled
        draw = _drawer(request) if sampled else None
        if structure == "gsd":
            reader = self._reader(request, limits, self._likelihood(request))
            return grow_gsd(reader, limits, self.config.gsd_match)[0]
        shape = _law(request) if sampled else self._likelihood(request)
        reader = self._reader(request, limits, shape, state.calibration.temperature if sampled else 1.0)
        if structure == "comb":
            return grow_comb(reader, draw, limits)[0]
        if structure == "paths":
            branching = paths(limits, branching)
        if structure == "chain" and sampled and branching is None:
            branching = (1,) * min(limits.depth, limits.budget)
        if branching is not None:
            return grow_branching(reader, draw, limits, branching, self.config.resolved_children)[0]
        if draw is None:
            width = 1 if structure == "chain" else WIDTH
            graph, _ = grow_best_first(reader, limits, state.calibration.expected, width, reader.has_read)
        else:
            graph, _ = grow_levels(reader, draw, limits, state.calibration)
        if self.edges and not (sampled and len(graph) >= limits.budget):
            graph = self._fill(request, graph, limits, sampled)
        return graph

    def _fill(self, request: Request, graph: DraftGraph, limits: Limits, sampled: bool) -> DraftGraph:
        """Spend spare verify slots on copies along edges, at nodes that the drafter was not asked about."""
        state: _State = request.drafting
        context = request.tokens[-TAIL:]
        sources = state.sources.for_draft(graph, context)
        if not sampled:
            return add_edges(graph, sources, context, limits)
        # Copies have only FIXED slots below them, so they leave every SAMPLED slot's odds as they were and may depend on
        # anything in the draft (docs/layer_rule.md, "FIXED subtrees"): any node that was not evaluated will do.
        leaves = graph.unevaluated(limits.reach)
        if len(graph) < limits.budget and leaves:
            unroller = Unroller(graph, sources, context, max(limits.floor, MIN_COPY_SCORE))
            unroller.grow(leaves, limits.budget, limits.reach)
        return graph

    def _reader(self, request: Request, limits: Limits, shape: Shape, temperature: float = 1.0) -> DrafterPasses:
        """The drafter for one round, which reads copies ahead where that pays."""
        state: _State = request.drafting
        sources, context = state.sources, request.tokens[-TAIL:]
        sampled, asked = request.choice.sampled, self.config.read_ahead
        pays = limits.price_passes and not sampled  # without prices every pass is made anyway
        count = (AHEAD if pays else 0) if asked == "auto" else int(asked)
        reach = min(limits.depth, limits.reach) if sampled else limits.reach

        def ahead(graph: DraftGraph, nodes: Sequence[int]) -> list[Path]:
            return sources.ahead(graph, nodes, context, count, reach - 1)

        state.reader = DrafterPasses(
            self.model,
            request,
            state.text,
            self.vocab_size,
            shape,
            temperature,
            ahead if count and self.edges else None,
        )
        return state.reader

    def _likelihood(self, request: Request) -> Shape:
        """Rows for FIXED candidates: how likely each token is to be the target's choice."""
        if request.params.temperature == 0:
            return lambda scores, depths: torch.softmax(scores, dim=1)
        if not request.choice.rule.position_noise:
            return _law(request)

        def shared_noise(scores: torch.Tensor, depths: Sequence[int]) -> torch.Tensor:
            positions = [len(request.tokens) + depth for depth in depths]
            noise = torch.stack([request.noise.exponentials(position, self.vocab_size) for position in positions])
            keys = (request.warper.shape(scores) / noise.to(scores)) ** SHARPNESS
            return keys / keys.sum(dim=1, keepdim=True)

        return shared_noise


def _law(request: Request) -> Shape:
    return lambda scores, depths: request.warper.shape(scores)


def _drawer(request: Request) -> Draw:
    """Fresh noise per round and node (never per position: a later round would meet it again)."""

    def draw(laws: torch.Tensor, depth: int, addresses: Sequence[int]) -> list[int]:
        length = len(request.tokens)
        return sample_rows(laws, [request.noise.uniform(length, Role.DRAFT, depth, address) for address in addresses])

    return draw
