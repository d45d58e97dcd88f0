"""Drafting one path on and on, whether or not the target has judged what is there.

PEARL (arXiv 2408.11850) drafts while the target verifies. So tokens outlive the round that drew them: they stay drafted, with the
laws that they were drawn from, as long as the text agrees with them. A verdict looks at tokens that it judges, at the target's
rows and at fresh noise, never at a token drafted further down. So given the text and all that has happened, those are still
draws from their laws.

The model's cache holds the path as nodes of one long round, which ends where the text leaves the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from draftgraph.backends.base import CacheHandle, CausalLM, Feed
from draftgraph.backends.prefill import read_piece
from draftgraph.draft.base import Drafter
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.model import FIRST_ROWS, shape_of
from draftgraph.draft.passes import Shape, aligned, readable
from draftgraph.draft.terms import Draft, Limits
from draftgraph.request.state import Request
from draftgraph.sampling.laws import TargetLaws
from draftgraph.sampling.rng import Role
from draftgraph.sampling.warp import Prefixes
from draftgraph.types import FIXED, ROOT, Verdict
from draftgraph.verification.base import sample_rows

LONGEST_ROUND = 64
"""Nodes of a round in the model's cache, after which those that the text has taken join it. Its masks grow with them."""


@dataclass(frozen=True)
class Drafted:
    """A token that is drafted and not judged yet.

    law    f[1, V], the very row that it was drawn from; None for a FIXED slot.
    score  estimated chance that the target comes here from the token before it.
    """

    token: int
    law: torch.Tensor | None
    score: float


@dataclass
class _State:
    """text  what the model has cached: tokens of the text, then nodes along the path. path  what is drafted behind the text."""

    text: CacheHandle
    path: list[Drafted] = field(default_factory=list)


class OnwardDrafter(Drafter):
    """A chain over a causal LM with the target's tokenizer, which goes on where it was.

    vocab_size  of the target.
    """

    structure = None
    trusted = True
    goes_on: ClassVar[bool] = True

    def __init__(self, model: CausalLM, vocab_size: int) -> None:
        self.model: CausalLM = model
        self.vocab_size = vocab_size
        self.identity = "onward"

    def begin(self, request: Request) -> None:
        request.drafting = _State(self.model.open(len(request.tokens) + FIRST_ROWS))

    def cached(self, request: Request) -> CacheHandle | None:
        state: _State = request.drafting
        return None if state.text.nodes else state.text

    def prefill(self, request: Request, limits: Limits) -> bool:
        text = request.drafting.text
        window = self.model.context_window
        if window is not None and len(request.tokens) > window:
            self.model.close(text)  # for good: texts only grow
        if text.nodes or limits.budget == 0 or limits.reach == 0:
            return False
        self.model.expect(text, len(request.tokens))
        unread = readable(request.tokens[len(text) :], self.model.vocab_size)
        with request.clock("drafter"):
            return read_piece(self.model, text, unread) is not None

    def pending(self, request: Request) -> Draft:
        return Draft(_graph(request.drafting.path))

    def propose(self, request: Request, limits: Limits) -> Draft:
        """The whole path: what is pending, and more tokens up to `limits.budget`, in `limits.depth` passes at most."""
        path: list[Drafted] = request.drafting.path
        length, begun = min(limits.budget, limits.reach), len(path)
        shape, evaluations = shape_of(request, self.vocab_size), 0
        while len(path) < length and len(path) - begun < limits.depth:
            row, computed = self._read(request, shape)
            evaluations += computed
            if request.choice.sampled:
                path.append(Drafted(drawn(request, row, len(path) - begun), row, float(row.max())))
            else:
                score, token = (each.item() for each in row[0].max(dim=0))
                path.append(Drafted(int(token), None, score))
        return Draft(_graph(path), evaluations, len(path) - begun)

    def verified(
        self, request: Request, draft: Draft, verdict: Verdict, scores: torch.Tensor, laws: TargetLaws
    ) -> None:
        """Keep what the text agrees with; what follows another token was drafted for another text."""
        state: _State = request.drafting
        tokens = [*(draft.tree.tokens[node] for node in verdict.path), verdict.token]
        agreed = _agreed(tokens, [each.token for each in state.path])
        if agreed < len(tokens):
            state.path = []
            self._join(state.text, len(request.tokens) + agreed)
            return
        del state.path[:agreed]
        if len(state.text.nodes) > LONGEST_ROUND:
            self._join(state.text, len(request.tokens) + agreed)

    def _join(self, text: CacheHandle, length: int) -> None:
        """End the round in the cache: nodes of the text's first `length` tokens join it."""
        self.model.keep(text, range(min(len(text.nodes), max(0, length - len(text)))))

    def end(self, request: Request) -> None:
        if request.drafting is not None:
            self.model.close(request.drafting.text)

    def _read(self, request: Request, shape: Shape) -> tuple[torch.Tensor, int]:
        """The row f[1, V] behind the path, and how many rows the model computed for it: one pass over what it has not read."""
        model, text = self.model, request.drafting.text
        drafted = [each.token for each in request.drafting.path]
        tokens = readable([*request.tokens[len(text) :], *drafted], model.vocab_size)
        nodes = len(text.nodes)
        committed = 0 if nodes else len(tokens) - len(drafted)
        unread = tokens[nodes + committed :]
        feed = Feed(text, tokens[:committed], unread, range(nodes - 1, nodes - 1 + len(unread)))
        with request.clock("drafter"):
            logits = model.forward([feed])[0].logits
        scores = request.warper.scores(
            aligned(logits[-1:], self.vocab_size), Prefixes(request.tokens, lambda row: drafted)
        )
        return shape(scores, [len(drafted)]), feed.num_logits


def drawn(request: Request, row: torch.Tensor, number: int) -> int:
    """The token number `number` that this round draws, from a row f[1, V]: fresh noise per round and number."""
    (token,) = sample_rows(row, [request.noise.uniform(len(request.tokens), Role.DRAFT, number)])
    return token


def _graph(path: Sequence[Drafted]) -> DraftGraph:
    """The path as a draft."""
    graph, node, score = DraftGraph(across=False), ROOT, 1.0
    for each in path:
        law = FIXED if each.law is None else graph.add_laws(each.law)
        score *= each.score
        node = graph.add(node, each.token, score, law)
    return graph


def _agreed(tokens: Sequence[int], drafted: Sequence[int]) -> int:
    """How many of the first tokens are the drafted ones."""
    pairs = zip(tokens, drafted, strict=False)
    return next((i for i, (token, other) in enumerate(pairs) if token != other), min(len(tokens), len(drafted)))
