"""The pairs of models that are measured, and the prompts they continue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from draftgraph.data import bundled_pair
from draftgraph.lab.bench.contenders import endless
from draftgraph.lab.bench.prompts import BUNDLED, spread

HUMANEVAL_TOKENS = 160
"""Longer HumanEval prompts are left out: the pair was trained on short windows, and prefill would hide decoding."""
STORY_TOKENS = 60

ABOUT = {
    "bundled": (
        "The bundled pair: Python source, target of 12 layers (10.2 M), drafter of 1 layer (1.3 M). The target was grown "
        "from its drafter, and the drafter was distilled from it afterwards, which raises agreement: figures on this pair "
        "flatter speculation. Tiny models also repeat themselves at temperature 0; read the sampled rows beside the greedy ones."
    ),
    "story": (
        "The story pair: stories260K (5 layers, width 64) and its 124k drafter, both from TinyStories. These models are so "
        "small that the cost of a call hides the cost of its rows: read its acceptance, not its milliseconds."
    ),
}


class MissingPairError(Exception):
    """A pair that is not on this machine; the message says what was looked for."""


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue; `source` says where the text comes from."""

    name: str
    source: str
    ids: list[int]


@dataclass(frozen=True)
class Pair:
    """A target and its drafter, loaded once; every contender runs on these very weights."""

    name: str
    about: str
    target: PreTrainedModel
    drafter: PreTrainedModel
    tokenizer: Any
    prompts: Sequence[Prompt]


def load_pair(name: str, data: Path, prompts: int, humaneval: int = 0) -> Pair:
    """A pair by name with `prompts` prompts of its kind, and up to `humaneval` from HumanEval for the bundled one.

    Raises MissingPairError if its files are not here.
    """
    if name == "bundled":
        target, drafter = bundled_pair()
        tokenizer = AutoTokenizer.from_pretrained(target)
        chosen = python_prompts(tokenizer)[:prompts] + humaneval_prompts(tokenizer, data)[:humaneval]
    else:
        target, drafter = story_folders(data)
        tokenizer = AutoTokenizer.from_pretrained(target)
        texts = stories(tokenizer, data)
        long = [(i, ids) for i, ids in enumerate(texts) if len(ids) >= STORY_TOKENS]
        chosen = [Prompt(f"story {i}", "stories_dev90", ids[:STORY_TOKENS]) for i, ids in spread(long, prompts)]
    return Pair(name, ABOUT[name], load_model(target), load_model(drafter), tokenizer, chosen)


def story_folders(data: Path) -> tuple[Path, Path]:
    """The folders of the story pair. Raises MissingPairError if they are not here."""
    folders = data / "models" / "stories260K", data / "models" / "stories260K-draft-124k"
    if not all((folder / "config.json").is_file() for folder in folders):
        raise MissingPairError("the story pair (stories260K and its 124k drafter) is not in the data folder")
    return folders


def code_folders(data: Path) -> tuple[Path, Path]:
    """The folders of the pair of Python source. Raises MissingPairError if they are not here."""
    folders = data / "models" / "code10m", data / "models" / "code10m-draft-1m"
    if not all((folder / "config.json").is_file() for folder in folders):
        raise MissingPairError("the code pair (code10m and its 1m drafter) is not in the data folder")
    return folders


def load_model(folder: Path) -> PreTrainedModel:
    """In float32, the only type in which greedy speculation reproduces plain greedy decoding token by token.

    What its configuration says about the end of a text is dropped: everybody generates the same number of tokens.
    """
    return endless(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def python_prompts(tokenizer: Any) -> list[Prompt]:
    """Beginnings of Python functions and classes, written for this benchmark."""
    return [Prompt(row["name"], "own", tokenizer(row["text"])["input_ids"]) for row in _read(BUNDLED)]


def humaneval_prompts(tokenizer: Any, data: Path) -> list[Prompt]:
    """The short ones among the HumanEval prompts, if they are here."""
    path = data / "prompts" / "humaneval_dev64.jsonl"
    if not path.is_file():
        return []
    rows = [Prompt(row["task_id"], "HumanEval", tokenizer(row["prompt"])["input_ids"]) for row in _read(path)]
    return [prompt for prompt in rows if len(prompt.ids) <= HUMANEVAL_TOKENS]


def stories(tokenizer: Any, data: Path) -> list[list[int]]:
    """Token ids of the held-out stories, start token included. Raises MissingPairError if they are not here."""
    path = data / "prompts" / "stories_dev90.jsonl"
    if not path.is_file():
        raise MissingPairError("the held-out stories (stories_dev90.jsonl) are not in the data folder")
    return [tokenizer(row["text"])["input_ids"] for row in _read(path)]


def python_texts(tokenizer: Any, data: Path) -> list[list[int]]:
    """Token ids of HumanEval prompts with their solutions. Raises MissingPairError if they are not here."""
    path = data / "prompts" / "humaneval_dev64.jsonl"
    if not path.is_file():
        raise MissingPairError("HumanEval (humaneval_dev64.jsonl) is not in the data folder")
    return [tokenizer(row["prompt"] + row["canonical_solution"])["input_ids"] for row in _read(path)]


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
