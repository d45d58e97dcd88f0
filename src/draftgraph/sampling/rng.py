"""Randomness that is addressed, never streamed.

Every number is a pure function of an address, so that results do not depend on the order of calls, on the other requests
of a batch, or on chunking. There are two kinds of address, and mixing them up is a bias:

* the `agree` rule reads noise that belongs to an **absolute output position** and is shared by drafter and target;
* every rule that uses q reads **fresh noise per round and node** (`Noise.uniform`): keyed by position instead, the next
  round would meet noise that this round has already looked at.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch


class Role(IntEnum):
    """What a number is used for; part of its address."""

    DRAFT = 0
    ACCEPT = 1
    BONUS = 2
    POSITION = 3


Address = tuple[int, Role, int, int]
"""Committed length, role, depth, node."""
_PACKERS = [struct.Struct(f"<{count}Q").pack for count in range(7)]
"""By how many numbers they pack."""


def _digest(*address: int) -> bytes:
    """16 bytes that stand for an address; two addresses never share the bytes that are hashed."""
    try:
        packed = _PACKERS[len(address)](*address)
    except struct.error:
        # A number is negative or has more than 64 bits: all are spelt out. This form has no zero byte, the other one always has.
        packed = ",".join(f"{number:x}" for number in address).encode()
    return hashlib.blake2b(packed, digest_size=16).digest()


def fresh_seed() -> int:
    """A 63-bit seed from the operating system, for requests that do not name one."""
    return secrets.randbits(63)


@dataclass
class Noise:
    """All randomness of one request.

    seed    the request's seed; any integer. No two of them are the same.
    sample  which of several samples with one seed (0 for the first), so that they differ.
    """

    seed: int
    sample: int = 0
    _positions: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _ahead: dict[Address, float] = field(default_factory=dict, repr=False)

    def uniform(self, length: int, role: Role, depth: int = 0, node: int = 0) -> float:
        """A uniform number in [0, 1) for the round that starts at committed length `length`.

        Every round commits at least one token, so no address is met twice.
        """
        known = self._ahead.get((length, role, depth, node))
        return self._uniform((length, role, depth, node)) if known is None else known

    def _uniform(self, address: Address) -> float:
        word = int.from_bytes(_digest(self.seed, self.sample, *address)[:8], "little")
        return float((word >> 11) * 2.0**-53)

    def ahead(self, addresses: Iterable[Address]) -> None:
        """Work out the numbers that a round is likely to ask for, and forget those of the last one.

        One after the other they take a fifth of what they take between passes of a model, which empty the processor's caches.
        """
        self._ahead = {address: self._uniform(address) for address in addresses}

    def exponentials(self, position: int, size: int) -> torch.Tensor:
        """f64[size] of Exp(1) noise that belongs to an absolute position; the first entries do not depend on `size`.

        The token argmax(p / e) is a draw from p (the Gumbel-max trick in its exponential form).
        """
        noise = self._positions.get(position)
        if noise is None or len(noise) < size:
            key = int.from_bytes(_digest(self.seed, self.sample, position, Role.POSITION), "little")
            noise = np.random.Generator(np.random.Philox(key=key)).standard_exponential(size)
            self._positions[position] = noise
        return torch.from_numpy(noise[:size])

    def forget_before(self, position: int) -> None:
        """Drop the noise of positions that have been emitted."""
        for old in [p for p in self._positions if p < position]:
            del self._positions[old]
