"""Tokens as clients read them in log-probabilities: their text, and their bytes where these are part of a character."""

from __future__ import annotations

import codecs
import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"
"""How some tokenizers write the space before a word, which their decoders leave out at the beginning of a text."""


class TokenTexts:
    """The texts of single tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """The token's bytes: of its text, or of the part of a character that it is."""
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def shown_bytes_of(self, token: int) -> bytes:
        """What a text holds of it: nothing of a special token."""
        return b"" if token in self._special else self.bytes_of(token)

    def text_of(self, token: int) -> str:
        """The token's text; "bytes:\\xe2" for part of a character, as OpenAI writes it."""
        data = self.bytes_of(token)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _read(self, token: int) -> bytes:
        text = str(self._tokenizer.decode([token], skip_special_tokens=False))
        name = str(self._tokenizer.convert_ids_to_tokens(token))
        if "\ufffd" not in text:
            left_out = name.startswith(_SPACE) and not text.startswith(" ")
            return (" " + text if left_out else text).encode("utf-8")
        single = _BYTE.fullmatch(name)
        if single is not None:
            return bytes([int(single[1], 16)])
        if all(letter in _LETTERS for letter in name):
            return bytes(_LETTERS[letter] for letter in name)
        return text.encode("utf-8")


class Offsets:
    """Counts the characters of a text as its tokens come; those that are not whole yet count later."""

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def before(self, data: bytes) -> int:
        """Characters before the token with these bytes, which is counted from now on."""
        count = self.count
        self.count += len(self._decoder.decode(data))
        return count


def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level tokenizers write bytes (GPT-2's table)."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in printed}
    others = (byte for byte in range(256) if byte not in printed)
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}


_LETTERS = _byte_letters()
