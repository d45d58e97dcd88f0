"""Drafting with a second causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from draftgraph.backends.base import CacheHandle, CausalLM, Likely
from draftgraph.backends.prefill import read_piece
from draftgraph.draft.base import Drafter
from draftgraph.draft.edges.sources import TAIL, Sources, kept
from draftgraph.draft.edges.table import TokenTable
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.lookup import Copies
from draftgraph.draft.passes import Ahead, DrafterPasses, Likeliest, Path, Shape, nothing_likely, readable
from draftgraph.draft.structures.base import Growth, Structure, nothing
from draftgraph.draft.structures.calibrate import Calibration
from draftgraph.draft.terms import Draft, Draw, Limits, Overlap
from draftgraph.draft.whole_sizes import cut, cut_to_pay, paying
from draftgraph.request.state import Request
from draftgraph.sampling.laws import TargetLaws
from draftgraph.sampling.rng import Role
from draftgraph.types import ROOT, Verdict
from draftgraph.verification.base import sample_rows

FIRST_ROWS = 8
"""Rows that a first draft reads, about."""
FEW, CLOSE = 8, 0.75
"""A draft of copies is made only if FEW levels of it promise nearly what the drafter's would give: what is thrown away takes time
too."""
DRAFT, ACCEPT, BONUS = Role.DRAFT, Role.ACCEPT, Role.BONUS
LIKELY_DRAWS = 2
"""Nodes of a level that draw in most rounds, where a level may have any number."""
SHARPNESS = 2.0
"""Under `agree`, a candidate's chance to be the target's own draw is estimated as (q / e)^SHARPNESS, normalised."""


@dataclass
class _State:
    """One request's drafting state: what the drafter has cached, and what was learnt from earlier rounds.

    model  that drafts for it.
    edges  names of the sources that it copies from. alone  whether the draft of this round has nothing to do with copies.
    """

    model: CausalLM
    text: CacheHandle
    sources: Sources
    edges: Sequence[str] = ()
    calibration: Calibration = field(default_factory=Calibration)
    reader: DrafterPasses | None = None
    overlap: float = 0.0
    rounds: int = 0
    alone: bool = False


class ModelDrafter(Drafter):
    """A drafter over a causal LM with the target's tokenizer (a differently padded vocabulary is tolerated).

    vocab_size  of the target. edges  names of the edge sources that fill spare slots, for structures that take copies.
    steady      the same model for requests with a seed whose text follows their drafts, in passes whose rows do not depend on the
                company; None: `model`.
    """

    structure = None
    heeds_prices = True
    confident = True
    trusted = True

    def __init__(
        self, model: CausalLM, vocab_size: int, edges: Sequence[str] = (), steady: CausalLM | None = None
    ) -> None:
        self.model: CausalLM = model
        self.steady: CausalLM = model if steady is None else steady
        self.vocab_size, self.edges = vocab_size, tuple(edges)
        self.table = TokenTable()
        self.identity = f"{'model' if self.steady is model else 'steady model'} {' '.join(self.edges)}"

    def fresh(self) -> ModelDrafter:
        return ModelDrafter(self.model, self.vocab_size, self.edges, self.steady)

    def copies(self, structure: Structure) -> bool:
        return bool(self.edges) and (structure.filled or structure.copied)

    def begin(self, request: Request) -> None:
        choice = request.choice
        params = request.params
        seeded = params.seed is not None and choice.rule.follows_drafts(params.temperature)
        model = self.steady if seeded else self.model
        text = model.open(len(request.tokens) + FIRST_ROWS)
        names = self.edges if self.copies(choice.structure) and "fixed" in choice.rule.accepts.laws else ()
        if names and request.prediction:
            names = (*names, "text")
        names = tuple(kept(names, request))
        request.drafting = _State(model, text, Sources.of(names, request.tokens, request.prediction, self.table), names)

    def cached(self, request: Request) -> CacheHandle | None:
        state: _State = request.drafting
        return state.text if state.model is self.model else None

    def prefill(self, request: Request, limits: Limits) -> bool:
        state: _State = request.drafting
        model = state.model
        window = model.context_window
        if window is not None and len(request.tokens) > window:
            model.close(state.text)  # for good: texts only grow
        if limits.budget == 0 or limits.reach == 0 or limits.depth == 0:
            return False  # no pass: the text may never be read
        model.expect(state.text, len(request.tokens))
        if len(request.tokens) - len(state.text) <= model.most_rows:
            return False
        unread = readable(request.tokens[len(state.text) :], model.vocab_size)
        with request.clock("drafter"):
            return read_piece(model, state.text, unread) is not None

    def propose(self, request: Request, limits: Limits) -> Draft:
        state: _State = request.drafting
        instead, rival = self._copied(request, limits)
        if instead is not None:
            return instead
        sampled = request.choice.sampled
        if sampled:
            _numbers_ahead(request, limits)
        reader = state.reader = self._reader(request, limits)
        copies = request.choice.structure.filled and not limits.narrow
        state.alone = not copies and reader.ahead is None and state.sources.table is None
        growth = Growth(
            limits,
            reader,
            _drawer(request) if sampled else None,
            state.calibration,
            nothing if reader.ahead is None else reader.has_read,
            partial(state.sources.for_draft, context=request.tokens[-TAIL:]) if state.edges else None,
            request.tokens[-TAIL:],
            request.warper.refuses,
        )
        graph = request.choice.structure.grow(growth)
        if request.choice.rule.reads_confidence:
            graph.confidence = reader.confidence(graph)
        return Draft(graph, reader.evaluations, reader.passes, rival=rival)

    def _copied(self, request: Request, limits: Limits) -> tuple[Draft | None, float]:
        """A draft of copies alone, where nothing else was asked for, or where it is expected to give more; else None.

        And the tokens that it promises. It is decided by the committed text and earlier rounds, before anything is
        drawn.
        """
        state: _State = request.drafting
        alone = limits if limits.depth == 0 else limits.instead
        if alone is None or not state.edges:
            return None if limits.depth else Draft(DraftGraph()), 1.0
        state.alone = False
        copies, reason, tokens = Copies(request, state.sources, alone), alone.reason, 1.0
        if limits.depth == 0:
            graph = cut(copies.grow(alone.budget), alone)
        else:
            _, tokens, rate = paying([alone.worth(score) for score in copies.promise(FEW)], alone.seconds)
            drafted = limits.rate(tokens)
            if rate <= CLOSE * drafted:
                return None, tokens
            graph, (_, expected, rate) = cut_to_pay(copies.grow(alone.budget), alone)
            if rate <= drafted:
                return None, tokens
            reason = f"{reason}: {expected:.2f} tokens per round expected, {rate:.0f} tokens/s; from the drafter {drafted:.0f}"
        if request.choice.rule.reads_confidence:
            graph.confidence = [0.0] * len(graph)
        return Draft(graph, reason=reason), tokens

    def verified(
        self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, laws: TargetLaws
    ) -> None:
        state: _State = request.drafting
        state.model.keep(state.text, [draft.graph.fed[node] for node in verdict.path if node in draft.graph.fed])
        self._calibrate(request, draft, verdict, laws)
        state.reader = None
        if state.alone:
            state.sources.pass_over([*(draft.tree.tokens[node] for node in verdict.path), verdict.token])
        elif state.edges:
            state.sources.observe(request, draft, verdict, scores)

    def _calibrate(self, request: Request, draft: Draft, verdict: Verdict, laws: TargetLaws) -> None:
        """Learn from the root, the one position that every round verifies without having selected it.

        Where all slots are FIXED, the target came to the nodes of the path by its own choices: their rows tell as well.
        """
        state: _State = request.drafting
        choice, calibration, reader = request.choice, state.calibration, state.reader
        if reader is None or reader.root is None:
            return
        if choice.sampled and choice.settled and not calibration.due:
            calibration.pass_over()
            return
        rows, number = reader.root
        law = rows[number]
        if not choice.settled and laws.choices is None and not choice.rule.position_noise:
            state.overlap += float(torch.minimum(law, laws.p[0]).sum())
            state.rounds += 1
        if choice.sampled:
            calibration.observe(law, laws.p[0])
            return
        graph, tokens = draft.graph, [*(draft.tree.tokens[node] for node in verdict.path), verdict.token]
        for node, token in zip((ROOT, *verdict.path), tokens, strict=True):
            if node in graph.promised:
                chosen = [float(other == token) for other in graph.rows[node].tokens]
                calibration.observe_fixed(graph.promised[node], chosen)
                calibration.observe_best(graph.promised[node][0], chosen[0])

    def overlap(self, request: Request) -> Overlap | None:
        state: _State = request.drafting
        return Overlap(state.overlap / state.rounds, state.rounds) if state.rounds else None

    def end(self, request: Request) -> None:
        if request.drafting is not None:
            request.drafting.model.close(request.drafting.text)

    def _reader(self, request: Request, limits: Limits) -> DrafterPasses:
        """The drafter for one round, which reads copies ahead where that pays."""
        state: _State = request.drafting
        choice = request.choice
        sampled = choice.sampled
        weighs = (
            choice.structure.narrows and not choice.rule.reads_confidence
        )  # others read rows as the drafter says them
        return DrafterPasses(
            state.model,
            request,
            state.text,
            self.vocab_size,
            shape_of(request, self.vocab_size, state.calibration.sharpness if weighs else 1.0),
            state.calibration.temperature if sampled else 1.0,
            self._ahead(request, limits) if state.edges else None,
            self._likely(request, limits),
        )

    def _likely(self, request: Request, limits: Limits) -> Likeliest:
        """How the tokens of a chain are chosen: the drafter's best ones, or draws from laws that no option cuts."""
        choice, warper = request.choice, request.warper
        if not (limits.narrow or choice.structure.one_path) or not (
            warper.scales if choice.sampled else warper.picks_best
        ):
            return nothing_likely
        read = min(limits.depth, limits.budget, limits.reach) - 1  # the last token is drafted, and not read
        if not choice.sampled:
            return lambda length: Likely(read - length) if length < read else None
        begin, uniform = len(request.tokens), request.noise.uniform
        quantiles = [uniform(begin, DRAFT, depth) for depth in range(1, read + 1)]
        exponent = 1.0 / (request.params.temperature * request.drafting.calibration.temperature)
        return lambda length: Likely(read - length, quantiles[length:], exponent) if length < read else None

    def _ahead(self, request: Request, limits: Limits) -> Ahead | None:
        sampled, sources = request.choice.sampled, request.drafting.sources
        # Without prices every pass is made anyway. Where passes are padded, a branch beside a chain costs more than it saves.
        priced = bool(limits.price_passes) and not sampled and not (limits.narrow and request.drafting.model.sizes)
        count = request.choice.structure.copies_ahead(priced)
        if not count:
            return None
        context, refuses = request.tokens[-TAIL:], request.warper.refuses
        reach = min(limits.depth, limits.reach) if sampled else limits.reach

        def ahead(graph: DraftGraph, nodes: Sequence[int]) -> list[Path]:
            paths: list[Path] = sources.ahead(graph, nodes, context, count, reach - 1, refuses)
            return paths

        return ahead


def shape_of(request: Request, vocab_size: int, sharpness: float = 1.0) -> Shape:
    """What becomes of a drafter's scores: laws to draw from, or how likely each FIXED candidate is to be the target's choice.

    sharpness  of rows at temperature 0 (`Calibration.sharpness`).
    """
    if request.params.temperature == 0 and not request.choice.sampled:
        return lambda scores, depths: torch.softmax(scores * sharpness, dim=1)
    if request.choice.sampled or not request.choice.rule.position_noise:
        return _law(request)

    def shared_noise(scores: torch.Tensor, depths: Sequence[int]) -> torch.Tensor:
        positions = [len(request.tokens) + depth for depth in depths]
        noise = torch.stack([request.noise.exponentials(position, vocab_size) for position in positions])
        keys = (request.warper.shape(scores) / noise.to(scores)) ** SHARPNESS
        return keys / keys.sum(dim=1, keepdim=True)

    return shared_noise


def _law(request: Request) -> Shape:
    return lambda scores, depths: request.warper.shape(scores)


def _numbers_ahead(request: Request, limits: Limits) -> None:
    """Work out the numbers that this round is likely to ask for."""
    length, depth = len(request.tokens), min(limits.depth, limits.reach)
    width = 1 if limits.narrow else request.choice.structure.nodes_per_level or LIKELY_DRAWS
    drawn = [(length, DRAFT, level, address) for level in range(1, depth + 1) for address in range(width)]
    request.noise.ahead([*drawn, (length, ACCEPT, 0, 0), (length, BONUS, 0, 0)])


def _drawer(request: Request) -> Draw:
    """Fresh noise per round and node (never per position: a later round would meet it again)."""
    length, noise = len(request.tokens), request.noise

    def draw(laws: torch.Tensor, depth: int, addresses: Sequence[int]) -> list[int]:
        return sample_rows(laws, [noise.uniform(length, DRAFT, depth, address) for address in addresses])

    return draw
