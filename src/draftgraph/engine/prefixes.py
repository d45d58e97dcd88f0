"""What requests begin with alike is read once: a new text takes over what a running or a finished one has cached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from draftgraph.backends.base import CacheHandle, CausalLM
from draftgraph.draft.base import Drafter
from draftgraph.request.state import Request

LEAST_TOKENS = 64
"""Shorter beginnings are read again: that is about as quick."""
MOST_KEPT = 32
"""Finished texts that stay cached."""
KEPT_SHARE = 0.25
"""The part of all cells that finished texts may take, where nobody else wants them."""


@dataclass(eq=False)
class Source:
    """A text that others may begin with.

    tokens  all of it. text  what the target has cached of it; drafted  what the drafter has, None if it shares nothing.
    """

    tokens: Sequence[int]
    text: CacheHandle
    drafted: CacheHandle | None

    @property
    def read(self) -> int:
        """Tokens that the target has cached."""
        return min(len(self.text), len(self.tokens))


class Prefixes:
    """The finished texts of one scheduler, and how a text begins with another.

    cells  tokens of finished texts that are cached.
    waits  whether a request may wait until an older one has read what both begin with.
    """

    def __init__(self, target: CausalLM, drafter: Drafter, cells_limit: int) -> None:
        self.target, self.drafter = target, drafter
        self.cells, self.waits = 0, True
        self._most_cells = int(KEPT_SHARE * cells_limit)
        self._kept: list[Source] = []  # the one that was used last is the last one

    def begin(self, request: Request, older: Iterable[Request]) -> bool:
        """Let a request that has read nothing begin with what others have cached.

        older  requests that run, or read.

        False: an older one is about to read more of what both begin with. Then ask again after the next step.
        """
        if self.drafter.taps or len(request.tokens) <= LEAST_TOKENS:
            return True
        best, found, coming = 0, None, 0
        for source in self._sources(older):
            alike = min(_alike(request.tokens, source.tokens), len(request.tokens) - 1)
            coming = max(coming, alike)
            if min(alike, source.read) > best:
                best, found = min(alike, source.read), source
        if self.waits and coming >= best + LEAST_TOKENS:
            return False
        if found is not None and best >= LEAST_TOKENS:
            self._share(request, found, best)
        return True

    def _sources(self, requests: Iterable[Request]) -> Iterator[Source]:
        yield from self._kept
        for request in requests:
            yield Source(request.tokens, request.text, self.drafter.cached(request))

    def _share(self, request: Request, source: Source, count: int) -> None:
        self.target.expect(request.text, len(request.tokens))
        request.tally.cached = self.target.share(request.text, source.text, count)
        self.waits = request.tally.cached > 0  # a model that cannot share is not waited for
        own, model = self.drafter.cached(request), self.drafter.model
        if model is not None and own is not None and source.drafted is not None:
            model.expect(own, len(request.tokens))
            model.share(own, source.drafted, min(count, len(source.drafted)))
        if source in self._kept:
            self._kept.remove(source)
            self._kept.append(source)

    def keep(self, request: Request) -> None:
        """Keep the text of a request that is about to end, if it is worth it."""
        count = min(len(request.text), len(request.tokens))
        if self.drafter.taps or not LEAST_TOKENS <= count <= self._most_cells:
            return
        tokens = request.tokens[:count]
        if any(_alike(tokens, source.tokens) == count for source in self._kept):
            return
        source = Source(tokens, self._copy(self.target, request.text, count), self._drafted(request, count))
        if source.read < LEAST_TOKENS:  # the model cannot share it
            self._close(source)
            return
        for other in list(self._kept):
            if _alike(tokens, other.tokens) == len(other.tokens):
                self.drop(other)
        self._kept.append(source)
        self.cells += count
        while len(self._kept) > MOST_KEPT or self.cells > self._most_cells:
            self.drop(self._kept[0])

    def _drafted(self, request: Request, count: int) -> CacheHandle | None:
        drafted, model = self.drafter.cached(request), self.drafter.model
        if drafted is None or model is None:
            return None
        return self._copy(model, drafted, min(count, len(drafted)))

    @staticmethod
    def _copy(model: CausalLM, text: CacheHandle, count: int) -> CacheHandle:
        copy = model.open(0)
        model.expect(copy, len(text))
        if count:
            model.share(copy, text, count)
        return copy

    def give_way(self) -> bool:
        """Let go of the text that was not used for longest. Whether there was one."""
        if not self._kept:
            return False
        self.drop(self._kept[0])
        return True

    def drop(self, source: Source) -> None:
        """Let go of a finished text."""
        self._kept.remove(source)
        self.cells -= len(source.tokens)
        self._close(source)

    def _close(self, source: Source) -> None:
        self.target.close(source.text)
        if source.drafted is not None and self.drafter.model is not None:
            self.drafter.model.close(source.drafted)

    def close(self) -> None:
        """Let go of all of them."""
        while self.give_way():
            pass


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two texts begin with alike; 0 if they are too few to be shared."""
    if one[:LEAST_TOKENS] != other[:LEAST_TOKENS]:
        return 0
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
