"""Stop strings: found in the text as it comes, and never shown.

Special tokens are no part of the text, but users name them as stops, alone or within longer strings. So stop strings that name
one are looked for in the text with special tokens, all others in the text without.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import compress


class StopStrings:
    """The end of a text, as far as it may still become a stop string.

    stops    the strings.
    special  names of special tokens; they are fed as well, as text that is not shown.
    """

    def __init__(self, stops: Sequence[str], special: Collection[str] = ()) -> None:
        self._naming = [stop for stop in stops if any(name in stop for name in special)]
        self._stops = tuple(stops)
        self._held = ""
        self._is_shown: list[bool] = []
        self.found = False

    def feed(self, text: str, is_shown: bool = True) -> str:
        """The text that is certain to be shown, now that `text` follows. Cuts at the earliest stop string."""
        if not self._stops:
            return text if is_shown else ""
        self._held += text
        self._is_shown += [is_shown] * len(text)
        shown = self._shown()
        ends = [at for stop in self._stops if (at := shown.find(stop)) >= 0]
        ends += [sum(self._is_shown[:at]) for stop in self._naming if (at := self._held.find(stop)) >= 0]
        if ends:
            self.found, self._held, self._is_shown = True, "", []
            return shown[: min(ends)]
        return self._release(shown)

    def rest(self) -> str:
        """What was held back, once nothing can follow."""
        shown, self._held, self._is_shown = self._shown(), "", []
        return shown

    def _shown(self) -> str:
        return "".join(compress(self._held, self._is_shown))

    def _release(self, shown: str) -> str:
        """Keep what may begin a stop string, in either text, and give away the rest."""
        begin = len(self._held) - max((_overlap(self._held, stop) for stop in self._naming), default=0)
        kept = max(sum(self._is_shown[begin:]), *(_overlap(shown, stop) for stop in self._stops))
        while sum(self._is_shown[begin:]) < kept:
            begin -= 1
        self._held, self._is_shown = self._held[begin:], self._is_shown[begin:]
        return shown[: len(shown) - kept]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
