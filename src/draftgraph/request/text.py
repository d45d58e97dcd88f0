"""Text from token ids, piece by piece: whole characters only, and nothing that may still become a stop string."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

from draftgraph.request.stops import StopStrings


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str: ...


CONTEXT = 6
"""Tokens decoded again before new ones at least, so that spaces and byte sequences come out as in the whole text."""
LONGEST_CONTEXT = 24
"""Beyond so many the window moves, which takes a second decode."""
TRANSFORMERS_OWN = ("transformers.tokenization_utils_base", "transformers.tokenization_utils_tokenizers")
"""Modules of the class that fast tokenizers inherit from."""
UNFINISHED = 3
"""Bytes that an unfinished character can have, hence tokens held back for it; more of them are rubbish."""


class Detokenizer:
    """Incremental text of one request.

    Decodes a short window with the new tokens and emits what is new, up to the last whole character. What the window held
    before is known until it moves. It begins where a character began: some decoders show a run of bytes that begins inside a
    character as rubbish throughout. A special token that a stop string names ends an unfinished character.
    """

    def __init__(self, tokenizer: Tokenizer | None, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self._shown = decoding(tokenizer)
        self._ids = self._whole_end(prompt)
        self._starts = [0]  # where the window may begin: shown up to there, the oldest first
        self._read = len(self._ids)
        self._known: str | None = None
        self._named = special_names(tokenizer, stop)
        self._stops = StopStrings(stop, self._named.values())
        self._deferred: list[Sequence[int]] | None = None
        self._watches = bool(stop)

    def defer(self) -> None:
        """Nobody reads the text before its end: decode it there, all at once. Not where stop strings are looked for."""
        if not self._watches:
            self._deferred = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._stops.found

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is now certain, after `tokens` were emitted; up to a stop string, if one is complete."""
        if self.tokenizer is None:
            return ""
        if self._deferred is not None:
            self._deferred.append(list(tokens))
            return ""
        text = ""
        for run in self._runs(tokens):
            if self.stopped:
                break
            name = self._named.get(run[0])
            if name is None:
                self._ids.extend(run)
                text += self._stops.feed(self._whole_characters())
            else:
                text += self._stops.feed(self._unfinished()) + self._stops.feed(name, is_shown=False)
                self._ids.extend(run)
                self._known = None  # of the token's own name nothing is shown
                self._advance(len(self._ids))
        return text

    def finish(self) -> str:
        """What was held back, once nothing can follow."""
        if self.tokenizer is None or self.stopped:
            return ""
        deferred, self._deferred = self._deferred or [], None
        text = "".join(self.push(tokens) for tokens in self._together(deferred))
        return text + self._stops.rest() + self._unfinished()

    def _together(self, rounds: list[Sequence[int]]) -> list[Sequence[int]]:
        """All tokens at once; round by round where not all are whole characters, of which a stream shows what it knows."""
        tokens = list(chain.from_iterable(rounds))
        return rounds if "\ufffd" in self._shown(tokens) else [tokens]

    def _runs(self, tokens: Sequence[int]) -> list[Sequence[int]]:
        """Tokens in order, those that stop strings name by themselves."""
        if self._named.keys().isdisjoint(tokens):
            return [tokens] if tokens else []
        return [[token] for token in tokens]

    def _whole_characters(self) -> str:
        """The text of new tokens, up to the last character that is whole."""
        for end in range(len(self._ids), self._read, -1):
            after = self._decode(self._starts[0], end)
            if not after.endswith("\ufffd") or len(self._ids) - end == UNFINISHED:
                break
        else:
            return ""
        before = self._decode(self._starts[0], self._read) if self._known is None else self._known
        self._known = after
        self._advance(end)
        return after[len(before) :]

    def _advance(self, end: int) -> None:
        self._read = end
        self._starts.append(end)
        if end - self._starts[0] > LONGEST_CONTEXT:
            self._known = None
            while len(self._starts) > 1 and self._starts[1] <= end - CONTEXT:
                del self._starts[0]

    def _unfinished(self) -> str:
        """The text of tokens that end within a character; what comes after them is decoded apart."""
        if self._read == len(self._ids):
            return ""
        before, after = (self._decode(self._starts[0], end) for end in (self._read, len(self._ids)))
        self._read = len(self._ids)
        self._starts, self._known = [self._read], None
        return after[len(before) :]

    def _whole_end(self, prompt: Sequence[int]) -> list[int]:
        """The end of the prompt, from the beginning of a character on."""
        if self.tokenizer is None:
            return []
        ends = [list(prompt[-length:]) for length in range(CONTEXT, CONTEXT - UNFINISHED - 1, -1)]
        decoded = map(self._shown, ends)
        return next((end for end, text in zip(ends, decoded, strict=True) if not text.startswith("\ufffd")), ends[0])

    def _decode(self, start: int, end: int) -> str:
        return self._shown(self._ids[start:end])


def decoding(tokenizer: Any | None) -> Callable[[Sequence[int]], str]:
    """decode(ids) -> their text without special tokens, as `tokenizer.decode` gives it.

    Transformers' own `decode` looks at the class of every id before it hands them on, which takes longer than the decoding. So
    a tokenizer that adds nothing to it is asked directly.
    """
    if tokenizer is None:
        return lambda ids: ""
    adds_nothing = (
        all(_is_transformers_own(tokenizer, name) for name in ("decode", "_decode", "backend_tokenizer"))
        and not tokenizer.clean_up_tokenization_spaces
    )
    decode = tokenizer.backend_tokenizer.decode if adds_nothing else tokenizer.decode
    return partial(decode, skip_special_tokens=True)


def _is_transformers_own(tokenizer: Any, name: str) -> bool:
    """Whether a method or property of a tokenizer is that of the class which fast tokenizers of transformers inherit from."""
    found = inspect.getattr_static(tokenizer, name, None)
    found = found.fget if isinstance(found, property) else found
    return getattr(found, "__module__", "") in TRANSFORMERS_OWN


def whole_text(tokenizer: Tokenizer | None, tokens: Sequence[int], prompt_length: int, stop: Sequence[str]) -> str:
    """The text of all tokens behind the prompt, as if nothing followed them."""
    detokenizer = Detokenizer(tokenizer, tokens[:prompt_length], stop)
    return detokenizer.push(tokens[prompt_length:]) + detokenizer.finish()


def special_names(tokenizer: Any | None, stops: Sequence[str]) -> dict[int, str]:
    """Ids of special tokens that are not shown, each with that name of it which a stop string contains."""
    if tokenizer is None or not stops:
        return {}
    added = {token: str(entry) for token, entry in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    names: dict[int, str] = {}
    for token in {*added, *getattr(tokenizer, "all_special_ids", ())}:
        written = added.get(token, "")
        if written.isascii() and written and not any(written in stop for stop in stops):
            continue  # it is shown as it is written: there may be thousands of these
        shown = tokenizer.decode([token], skip_special_tokens=False)
        named = [name for name in (shown, written) if name and any(name in stop for stop in stops)]
        if named and tokenizer.decode([token], skip_special_tokens=True) != shown:
            names[token] = named[0]
    return names
