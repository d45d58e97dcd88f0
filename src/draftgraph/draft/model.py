"""Drafting with a second causal language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from draftgraph.choice import Overlap
from draftgraph.config import Config
from draftgraph.draft.base import Draft, Draw, Evaluate, Limits, empty_draft
from draftgraph.draft.best_first import WIDTH, add_edges, grow_best_first
from draftgraph.draft.calibrate import Calibration, sharpen
from draftgraph.draft.graph import DraftGraph, Unroller
from draftgraph.draft.gsd import grow_gsd
from draftgraph.draft.levels import grow_levels
from draftgraph.draft.shapes import grow_branching, grow_comb, paths
from draftgraph.draft.sources import TAIL, Sources, allowed_edges
from draftgraph.draft.table import TokenTable
from draftgraph.request import Request
from draftgraph.rng import Role
from draftgraph.target.base import CachedText, CausalLM, Rows
from draftgraph.types import ROOT, Verdict
from draftgraph.verify.base import sample_rows
from draftgraph.warp import Prefixes

Shape = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""shape(scores f[n, V], depths of the n nodes) -> rows f[n, V] that growth reads."""
MIN_COPY_SCORE = 0.02
"""A copy whose estimated mass is below this is not worth a row of the target."""
SHARPNESS = 2.0
"""Under `agree`, a candidate's chance to be the target's own draw is estimated as (q / e)^SHARPNESS, normalised."""


@dataclass
class _State:
    """One request's drafting state: what the drafter has cached, and what was learnt from earlier rounds."""

    text: CachedText
    sources: Sources
    calibration: Calibration = field(default_factory=Calibration)
    root_law: torch.Tensor | None = None
    evaluations: int = 0
    overlap: float = 0.0
    rounds: int = 0


class ModelDrafter:
    """A drafter over a causal LM with the target's tokenizer (a differently padded vocabulary is tolerated)."""

    def __init__(self, model: CausalLM, config: Config, vocab_size: int) -> None:
        self.model, self.config, self.vocab_size = model, config, vocab_size
        self.edges = allowed_edges(config, has_model=True)
        self.table = TokenTable()

    def begin(self, request: Request) -> None:
        text = self.model.open(len(request.tokens) + request.limit + 64)
        request.drafting = _State(text, Sources.of(self.edges, request.tokens, table=self.table))

    def propose(self, request: Request, limits: Limits) -> Draft:
        state: _State = request.drafting
        state.evaluations = 0
        state.root_law = None
        if limits.budget == 0 or limits.reach == 0 or (limits.depth == 0 and not self.edges):
            return empty_draft()
        graph, passes = self._grow(request, limits)
        return Draft(graph, graph.tree(), state.evaluations, passes)

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
        if state.root_law is None:
            return
        if request.params.temperature > 0 and not request.choice.rule.position_noise:
            state.overlap += float(torch.minimum(state.root_law, p).sum())
            state.rounds += 1
        if request.choice.sampled:
            state.calibration.observe(state.root_law, p)
        elif ROOT in draft.graph.rows:
            best = draft.graph.rows[ROOT].tokens
            state.calibration.observe_fixed(state.root_law[best].tolist(), [float(t == token) for t in best])

    def overlap(self, request: Request) -> Overlap | None:
        state: _State = request.drafting
        return Overlap(state.overlap / state.rounds, state.rounds) if state.rounds else None

    def end(self, request: Request) -> None:
        self.model.close(request.drafting.text)

    def _grow(self, request: Request, limits: Limits) -> tuple[DraftGraph, int]:
        """The configured structure, with SAMPLED slots if the rule reads their laws, else with FIXED ones only."""
        state: _State = request.drafting
        structure, branching = self.config.resolved_structure, self.config.branching
        sampled = request.choice.sampled
        draw = _drawer(request) if sampled else None
        if structure == "gsd":
            return grow_gsd(self._evaluator(request, self._likelihood(request)), limits, self.config.gsd_match)
        evaluate = self._evaluator(request, _law(request) if sampled else self._likelihood(request), sampled)
        if structure == "comb":
            return grow_comb(evaluate, draw, limits)
        if structure == "paths":
            branching = paths(limits, branching)
        if structure == "chain" and sampled and branching is None:
            branching = (1,) * min(limits.depth, limits.budget)
        if branching is not None:
            return grow_branching(evaluate, draw, limits, branching, self.config.resolved_children)
        if draw is None:
            width = 1 if structure == "chain" else WIDTH
            graph, passes = grow_best_first(evaluate, limits, state.calibration.expected, width)
        else:
            graph, passes = grow_levels(evaluate, draw, limits, state.calibration)
        if self.edges and not (sampled and len(graph) >= limits.budget):
            graph = self._fill(request, graph, limits, sampled)
        return graph, passes

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

    def _evaluator(self, request: Request, shape: Shape, sampled: bool = False) -> Evaluate:
        """One drafter pass over some nodes; `shape` turns their scores into the rows that growth reads."""
        state: _State = request.drafting

        def evaluate(graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
            drafted = [node for node in nodes if node != ROOT]
            rows = Rows(
                state.text,
                self._known(request.tokens[len(state.text) :]) if len(drafted) < len(nodes) else (),
                self._known([graph.tokens[node] for node in drafted]),
                [graph.fed.get(graph.parents[node], ROOT) for node in drafted],
            )
            graph.fed.update((node, len(state.text.nodes) + i) for i, node in enumerate(drafted))
            state.evaluations += len(nodes)
            request.clock.lap("drafting")
            logits = self.model.forward([rows])[0]
            request.clock.lap("drafter")
            prefixes = Prefixes(request.tokens, lambda row: graph.path_tokens(nodes[row]))
            laws = shape(request.warper.scores(self._align(logits), prefixes), [graph.depth(node) for node in nodes])
            if ROOT in nodes:
                state.root_law = laws[list(nodes).index(ROOT)]
            if not sampled:
                return laws
            temperature = state.calibration.temperature
            return laws if temperature == 1.0 else sharpen(laws, 1.0 / temperature)

        return evaluate

    def _known(self, tokens: Sequence[int]) -> list[int]:
        """Tokens as the drafter can read them; what only the target has is padding, and any token stands for it."""
        return [token if token < self.model.vocab_size else 0 for token in tokens]

    def _align(self, logits: torch.Tensor) -> torch.Tensor:
        """The drafter's logits over the target's vocabulary; what only one of them has is padding."""
        missing = self.vocab_size - logits.shape[1]
        if missing > 0:
            return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf)
        return logits[:, : self.vocab_size]

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
