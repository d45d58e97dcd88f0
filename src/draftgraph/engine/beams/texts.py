"""What one model has cached of the beams: a text for each of them, which share what they have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.backends.prefill import read_piece
from draftgraph.draft.passes import readable
from draftgraph.engine.beams.forest import Forest
from draftgraph.types import ROOT

FIRST_ROWS = 32
"""Rows that a first forest has, about."""


class BeamTexts:
    """The texts of the beams in one model.

    model   `CausalLM.forks`. length  tokens of the prompt. vocab_size  of the target: rows have so many entries.
    passes, rows  forward passes made, and rows they computed.
    """

    def __init__(self, model: CausalLM, length: int, vocab_size: int) -> None:
        self.model, self.vocab_size = model, vocab_size
        self.passes = self.rows = 0
        self._texts = [model.open(length + FIRST_ROWS)]
        self._numbers: dict[int, int] = {}

    def read(self, forest: Forest, places: Sequence[int]) -> torch.Tensor:
        """Logits f[len(places), V] behind beams and nodes of a round, in one pass; parents are read before, or with them.

        What a text has not read of its beam is read with it, and before it in pieces where it is long.
        """
        by_root: dict[int, list[int]] = {}
        for place in places:
            by_root.setdefault(forest.root(place), []).append(place)
        feeds, order = [], []
        for root, group in by_root.items():
            nodes = [place for place in group if place != root]
            committed = self._unread(root, forest.texts[root]) if len(nodes) < len(group) else []
            feeds.append(self._feed(forest, root, committed, nodes))
            order += [root, *nodes] if committed else nodes
        self.passes += 1
        self.rows += sum(feed.num_rows for feed in feeds)
        logits = torch.cat([scored.logits for scored in self.model.forward(feeds)])
        rows = {place: row for row, place in enumerate(order)}
        return self._align(logits[[rows[place] for place in places]])

    def _unread(self, root: int, tokens: Sequence[int]) -> list[int]:
        """What a pass reads of a beam; long texts are read up to there."""
        text = self._texts[root]
        self.model.expect(text, len(tokens))
        unread = readable(tokens[len(text) :], self.model.vocab_size)
        while read_piece(self.model, text, unread) is not None:
            self.passes += 1
            self.rows += self.model.most_rows
            unread = unread[self.model.most_rows :]
        return unread

    def _feed(self, forest: Forest, root: int, committed: Sequence[int], nodes: Sequence[int]) -> Feed:
        text = self._texts[root]
        for number, node in enumerate(nodes, len(text.nodes)):
            self._numbers[node] = number
        tokens = readable([forest.token(node) for node in nodes], self.model.vocab_size)
        return Feed(text, committed, tokens, [self._numbers.get(forest.parent(node), ROOT) for node in nodes])

    def _align(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits over the target's vocabulary; what only one of the models has is padding."""
        missing = self.vocab_size - logits.shape[1]
        if missing > 0:
            return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf)
        return logits[:, : self.vocab_size] if missing < 0 else logits

    def follow(self, forest: Forest, places: Sequence[int]) -> None:
        """End the round: text i goes on behind places[i]. Texts fork where beams part, and end where none goes on."""
        paths = [[self._numbers[node] for node in forest.path(place) if node in self._numbers] for place in places]
        heirs = {forest.root(place): i for i, place in enumerate(places)}  # the last beam of a text takes it over
        before, texts = self._texts, []
        for i, (place, path) in enumerate(zip(places, paths, strict=True)):
            root = forest.root(place)
            texts.append(before[root] if heirs[root] == i else self.model.fork(before[root], path))
            self._texts = [*before, *texts]  # whoever closes after an interrupt finds them all
        for root, i in heirs.items():
            self.model.keep(before[root], paths[i])
        for root in set(range(len(before))) - heirs.keys():
            self.model.close(before[root])
        self._texts, self._numbers = texts, {}

    def close(self) -> None:
        """Free everything; a second time, nothing."""
        for text in self._texts:
            self.model.close(text)
