"""Text from token ids, piece by piece: whole characters only, and nothing that may still become a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str: ...


CONTEXT = 6
"""Tokens decoded again before new ones, so that spaces and byte sequences come out as in the whole text."""
UNFINISHED = 3
"""Bytes that an unfinished character can have, hence tokens held back for it; more of them are rubbish."""


class Detokenizer:
    """Incremental text of one request.

    Decodes a short window twice per call (with and without the new tokens) and emits the difference, up to the last
    whole character. The window begins where a character began: some decoders show a run of bytes that begins inside a
    character as rubbish throughout.
    """

    def __init__(self, tokenizer: Tokenizer | None, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self._ids = self._whole_end(prompt)
        self._starts = [0]  # where the window may begin: shown up to there, the oldest first
        self._read = len(self._ids)
        self._held = ""
        self.stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is now certain, after `tokens` were emitted. Sets `stopped` when a stop string is complete."""
        if self.tokenizer is None:
            return ""
        self._ids.extend(tokens)
        for end in range(len(self._ids), self._read, -1):
            after = self._decode(self._starts[0], end)
            if not after.endswith("\ufffd") or len(self._ids) - end == UNFINISHED:
                break
        else:
            return ""
        before = self._decode(self._starts[0], self._read)
        self._read = end
        self._starts.append(end)
        while len(self._starts) > 1 and self._starts[1] <= end - CONTEXT:
            del self._starts[0]
        return self._until_stop(after[len(before) :])

    def _whole_end(self, prompt: Sequence[int]) -> list[int]:
        """The end of the prompt, from the beginning of a character on."""
        if self.tokenizer is None:
            return []
        ends = [list(prompt[-length:]) for length in range(CONTEXT, CONTEXT - UNFINISHED - 1, -1)]
        decoded = (self.tokenizer.decode(end, skip_special_tokens=True) for end in ends)
        return next((end for end, text in zip(ends, decoded, strict=True) if not text.startswith("\ufffd")), ends[0])

    def finish(self) -> str:
        """What was held back, once nothing can follow."""
        if self.tokenizer is None or self.stopped:
            return ""
        before, after = (self._decode(self._starts[0], end) for end in (self._read, len(self._ids)))
        self._read = len(self._ids)
        held, self._held = self._held, ""
        return held + after[len(before) :]

    def _decode(self, start: int, end: int) -> str:
        assert self.tokenizer is not None
        return self.tokenizer.decode(self._ids[start:end], skip_special_tokens=True)

    def _until_stop(self, new: str) -> str:
        """Cut at the earliest stop string; hold back a tail that may be the beginning of one."""
        if not self.stop:
            return new
        text = self._held + new
        found = [position for stop in self.stop if (position := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max(_overlap(text, stop) for stop in self.stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
