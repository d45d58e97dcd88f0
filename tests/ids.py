"""Names for the values that tests are given."""

from __future__ import annotations

import re


def told(value: object) -> str:
    """A value in words that are the same in every process: an object's address is no part of them."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
