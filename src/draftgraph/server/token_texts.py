"""Tokens as clients read them in log-probabilities: their text, and their bytes where these are part of a character."""

from __future__ import annotations

import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """The texts of single tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """The token's bytes: of its text, or of the part of a character that it is."""
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def text_of(self, token: int) -> str:
        """The token's text; "bytes:\\\\xe2" for part of a character, as OpenAI writes it."""
        data = self.bytes_of(token)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _read(self, token: int) -> bytes:
        text = str(self._tokenizer.decode([token], skip_special_tokens=False))
        if "\ufffd" not in text:
            return text.encode("utf-8")
        name = str(self._tokenizer.convert_ids_to_tokens(token))
        single = _BYTE.fullmatch(name)
        if single is not None:
            return bytes([int(single[1], 16)])
        if all(letter in _LETTERS for letter in name):
            return bytes(_LETTERS[letter] for letter in name)
        return text.encode("utf-8")


def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level tokenizers write bytes (GPT-2's table)."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in printed}
    others = (byte for byte in range(256) if byte not in printed)
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}


_LETTERS = _byte_letters()
