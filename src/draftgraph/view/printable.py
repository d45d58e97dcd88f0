"""Text of unknown origin, made harmless for a terminal. Everything that is printed for a person passes through here."""

from __future__ import annotations

import re

_DRIVING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline: escape sequences, links, backspaces
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks and overrides of the writing direction
    "\u2028\u2029\u206a-\u206f\ufeff\ufff9-\ufffb"  # other line ends, deprecated and invisible formatting
    "\ud800-\udfff\U000e0000-\U000e007f]"  # halves of pairs, and tags that nobody sees
)


def printable(text: str) -> str:
    """Text that cannot drive a terminal or turn its own order around; what could is written as an escape.

    Tabs and newlines stay, and so do the joiners that scripts and emoji need.
    """
    return _DRIVING.sub(lambda match: _escaped(match.group()), text)


def on_one_line(text: str) -> str:
    """The same for names, messages and tokens: nothing stays that has no shape of its own, newlines and tabs included."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return repr(character)[1:-1]
