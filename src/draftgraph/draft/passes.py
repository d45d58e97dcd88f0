"""The drafter's passes of one round: every prefix is read once, and what copies predict is read ahead.

A draft of copies needs no drafter, but its rows are somebody else's. So it is not drafted but read: while the drafter reads the
nodes that growth asks for, it reads in the same pass what edge sources expect behind them. Where growth then gets there, the
drafter's own rows are at hand, and a pass is saved. Which rows growth sees does not change, only when they were computed; so
reading ahead cannot bias anything, SAMPLED slots included. (A subtree shared with the last round is unrolled only where it is
reached: deferred unrolling.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from draftgraph.backends.base import CacheHandle, CausalLM, Feed, Likely
from draftgraph.draft.graph import DRAFTED, DraftGraph
from draftgraph.draft.joined import drafter_pass
from draftgraph.draft.structures.calibrate import sharpen
from draftgraph.request.state import Request
from draftgraph.sampling.warp import Prefixes
from draftgraph.types import ROOT

Path = tuple[int, ...]
"""The drafted tokens from the root down to a node; () is the root."""
Shape = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""shape(scores f[n, V], depths of the n nodes) -> rows f[n, V] that growth reads."""
Ahead = Callable[[DraftGraph, Sequence[int]], list[Path]]
"""ahead(graph, nodes about to be read) -> paths below them that may be asked for later, parents first."""
Likeliest = Callable[[int], Likely | None]
"""likely(length of a path) -> how the tokens that are read behind it are likely to be chosen; None: nobody can say."""


def nothing_likely(length: int) -> None:
    """The `Likeliest` of drafts that may be anything."""


class DrafterPasses:
    """The `Evaluate` of a draft model for one round of one request.

    shape  turns the drafter's scores into rows; temperature  of the draft: rows are raised to 1 / temperature.
    passes, evaluations  forward passes made, and rows they computed, those ahead included. A row that a pass has read on its
                         own counts as a pass where it is asked for.
    likely  by the length of a path, how the tokens that are read behind it are likely to be chosen.
    root  rows f[n, V] before the draft temperature, and the number of the one behind the committed text; None before it is read.
    """

    def __init__(
        self,
        model: CausalLM,
        request: Request,
        text: CacheHandle,
        vocab_size: int,
        shape: Shape,
        temperature: float = 1.0,
        ahead: Ahead | None = None,
        likely: Likeliest = nothing_likely,
    ) -> None:
        self.model, self.request, self.text, self.vocab_size = model, request, text, vocab_size
        self.shape, self.temperature, self.ahead, self.likely = shape, temperature, ahead, likely
        self.passes = self.evaluations = 0
        self._heeds_prefixes = request.warper.heeds_prefixes
        self.root: tuple[torch.Tensor, int] | None = None
        self._rows: dict[Path, tuple[torch.Tensor, int]] = {}
        self._unasked: set[Path] = set()
        self._fed: dict[Path, int] = {(): ROOT}

    def __call__(self, graph: DraftGraph, nodes: Sequence[int]) -> torch.Tensor:
        """Rows f[len(nodes), V] behind `nodes`, with a pass if one of them has not been read."""
        if len(nodes) == 1:
            return self._row(graph, nodes[0])
        paths = [tuple(graph.path_tokens(node)) for node in nodes]
        unread = [node for node, path in zip(nodes, paths, strict=True) if path not in self._rows]
        if unread:
            further = self.ahead(graph, unread) if self.ahead is not None else []
            missing = [path for path in paths if path not in self._rows]
            self._read(list(dict.fromkeys([*missing, *further])))
        graph.fed.update((node, self._fed[path]) for node, path in zip(nodes, paths, strict=True) if node != ROOT)
        blocks = [self._rows[path] for path in paths]
        whole = blocks[0][0]
        if len(whole) == len(blocks) and all(block is whole and row == i for i, (block, row) in enumerate(blocks)):
            return whole  # as it was read
        return torch.stack([block[row] for block, row in blocks])

    def _row(self, graph: DraftGraph, node: int) -> torch.Tensor:
        """The row f[1, V] behind a node."""
        path = tuple(graph.path_tokens(node))
        if path not in self._rows:
            paths = [path]
            if self.ahead is not None:
                paths += [other for other in dict.fromkeys(self.ahead(graph, [node])) if other != path]
            self._read(paths)
        elif path in self._unasked:
            self._unasked.remove(path)
            self.passes += 1
        if node != ROOT:
            graph.fed[node] = self._fed[path]
        block, row = self._rows[path]
        return block if block.shape[0] == 1 else block[row : row + 1]

    def has_read(self, graph: DraftGraph, node: int) -> bool:
        """Whether the row behind a node is at hand, so that asking for it costs no pass."""
        return tuple(graph.path_tokens(node)) in self._rows

    def confidence(self, graph: DraftGraph) -> list[float]:
        """By how much every node's token leads the row that it was drafted from; 0 for copies, and for runners-up."""
        found = [0.0] * len(graph)
        for node, token in enumerate(graph.tokens):
            path = tuple(graph.path_tokens(graph.parents[node]))
            if graph.origins[node] == DRAFTED and path in self._rows:
                block, row = self._rows[path]
                (first, second), (best, _) = (values.tolist() for values in block[row].topk(2))
                found[node] = first - second if token == best else 0.0
        return found

    def _read(self, paths: Sequence[Path]) -> None:
        """One drafter pass."""
        fed, first, vocab = self._fed, len(self.text.nodes), self.model.vocab_size
        committed: Sequence[int] = ()
        tokens: list[int] = []
        parents: list[int] = []
        for path in paths:
            if path:
                fed[path] = first + len(tokens)
                tokens.append(path[-1])
                parents.append(fed[path[:-1]])
            else:
                committed = self.request.tokens[len(self.text) :]
        if vocab < self.vocab_size:
            committed, tokens = readable(committed, vocab), readable(tokens, vocab)
        feed = Feed(self.text, committed, tokens, parents, self.likely(len(paths[-1])))
        scored = drafter_pass(self.model, self.request.clock, feed)
        paths, logits = [*paths, *self._read_on(paths[-1], first + len(tokens), scored.likely)], scored.logits
        self.passes += 1
        self.evaluations += len(paths)
        if vocab != self.vocab_size:
            logits = aligned(logits, self.vocab_size)
        laws = self.shape(self.request.warper.scores(logits, self._prefixes(paths)), [len(path) for path in paths])
        if () in paths:
            self.root = laws, paths.index(())
        if self.temperature != 1.0:
            laws = sharpen(laws, 1.0 / self.temperature)
        for row, path in enumerate(paths):
            self._rows[path] = laws, row

    def _read_on(self, path: Path, first: int, tokens: Sequence[int]) -> list[Path]:
        """Paths that the model has read by itself behind the last one. first  number of the first of these nodes."""
        found = [(*path, *tokens[: count + 1]) for count in range(len(tokens))]
        self._fed.update(zip(found, range(first, first + len(found)), strict=True))
        self._unasked.update(found)
        return found

    def _prefixes(self, paths: Sequence[Path]) -> Prefixes | None:
        """What stands before rows; None where their scores do not depend on it."""
        if not self._heeds_prefixes:
            return None
        return Prefixes(self.request.tokens, lambda row: list(paths[row]), partial(_above, paths))


def aligned(logits: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """The drafter's logits over the target's vocabulary; what only one of them has is padding."""
    missing = vocab_size - logits.shape[1]
    if missing > 0:
        return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf)
    return logits[:, :vocab_size] if missing < 0 else logits


def _above(paths: Sequence[Path], row: int) -> int:
    """The row of the path that a path continues, -1 if it is not among them."""
    parent = paths[row][:-1]
    return paths.index(parent) if paths[row] and parent in paths else -1


def readable(tokens: Sequence[int], vocab_size: int) -> list[int]:
    """Tokens as the drafter can read them; what only the target has is padding, and any token stands for it."""
    return [token if token < vocab_size else 0 for token in tokens]
