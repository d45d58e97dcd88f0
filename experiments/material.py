"""The pairs of models that experiments run on, and the texts that they read."""

from __future__ import annotations

import json
from pathlib import Path

from draftgraph.lab.bench.prompts import BUNDLED, read_prompts
from draftgraph.lab.pair import Pair

PAIRS = {
    "story-124k": ("stories260K", "stories260K-draft-124k"),
    "story-29k": ("stories260K", "stories260K-draft-29k"),
    "code": ("code10m", "code10m-draft-1m"),
}
"""Folders of target and drafter."""
ABOUT = {
    "story-124k": "stories260K with its 124k drafter, held-out stories",
    "story-29k": "stories260K with its 29k drafter, held-out stories",
    "code": "a 10.2 M model of Python source with its 1.3 M drafter (the target was grown from the drafter), HumanEval solutions",
}


def load_pair(name: str, data: Path) -> Pair:
    """Ends the program if the pair is not in the data folder."""
    return Pair.load(*(_there(data / "models" / folder / "config.json").parent for folder in PAIRS[name]))


def held_out(name: str, pair: Pair, data: Path) -> list[list[int]]:
    """Token ids of texts that the pair was not trained on: stories, or HumanEval prompts with their solutions."""
    if name != "code":
        return pair.encode(read_prompts(_there(data / "prompts" / "stories_dev90.jsonl")).texts)
    lines = _there(data / "prompts" / "humaneval_dev64.jsonl").read_text(encoding="utf-8").splitlines()
    return pair.encode([row["prompt"] + row["canonical_solution"] for row in map(json.loads, lines)])


def beginnings(pair: Pair) -> list[list[int]]:
    """Token ids of beginnings of Python functions and classes, written for `draftgraph bench`."""
    return pair.encode([entry.turns[0] for entry in read_prompts(BUNDLED).entries])


def _there(path: Path) -> Path:
    if not path.is_file():
        raise SystemExit(f"nothing to measure: there is no {path}; write --data FOLDER, or leave out what needs it")
    return path
