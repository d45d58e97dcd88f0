"""What is asked: of every way, behind every prompt, so many texts with seeds of their own, in an order that favours nobody."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

DRAFTED, PLAIN = 0, 1
"""The two ways: as the server speculates, and without."""
SEEDS = 1 << 31
"""Seeds are below this: some servers read them as 32 bits."""


@dataclass(frozen=True)
class Way:
    """A server to ask, and what is added to the body of every request.

    url, model  where, and what is asked for. body  its own fields.
    """

    url: str
    model: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One request. way  DRAFTED or PLAIN. number  counts the texts of this way and prompt."""

    way: int
    prompt: int
    number: int


@dataclass(frozen=True)
class Plan:
    """An audit before it runs.

    ways         one, or the drafted and the plain one.
    prompts      texts; a chat gets each as a user's message.
    samples      texts per way and prompt. tokens  of each at most. greedy_tokens  of the texts at temperature 0; 0 asks none.
    temperature  of the sampled texts; 0 samples none.
    body         fields of every request. seed  repeats the plan: seeds of requests, their order, and all resampling.
    """

    ways: tuple[Way, ...]
    prompts: tuple[str, ...]
    samples: int = 300
    tokens: int = 4
    greedy_tokens: int = 32
    temperature: float = 1.0
    body: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def tasks(self) -> list[Task]:
        """All requests for sampled texts, mixed: whatever changes with time changes for both ways."""
        if self.temperature == 0:
            return []
        tasks = [
            Task(way, prompt, number)
            for number in range(self.samples)
            for prompt in range(len(self.prompts))
            for way in range(len(self.ways))
        ]
        random.Random(self.seed).shuffle(tasks)
        return tasks

    def seed_of(self, task: Task) -> int:
        """Of its own for every request: two ways with one seed may give one text, and would not be two samples."""
        address = f"{self.seed}/{task.way}/{task.prompt}/{task.number}".encode()
        return int.from_bytes(hashlib.blake2b(address, digest_size=8).digest()) % SEEDS

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for `json.dumps`."""
        plan: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plan


def several(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def merged(*bodies: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of several objects; later ones win, and null takes a field away."""
    fields = {name: value for body in bodies for name, value in body.items()}
    return {name: value for name, value in fields.items() if value is not None}
