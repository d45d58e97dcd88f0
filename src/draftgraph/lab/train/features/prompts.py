"""Prompts for a target: from files of prompts, or made from a folder of text."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from draftgraph.files import BrokenFileError, read_text
from draftgraph.lab.texts import laid_out
from draftgraph.lab.train.errors import TrainingError

TASKS = (
    "Summarize: {}",
    "What is this text about?\n\n{}",
    "Continue this text.\n\n{}",
    "Rewrite the following text in simple words.\n\n{}",
    "Make this text shorter:\n\n{}",
    "Ask three questions about this text and answer them.\n\n{}",
)
"""What is asked of the passages of a folder."""
PASSAGE, SHORTEST = 900, 200
"""Characters of a passage, at most and at least."""
LONGEST = 1024
"""Tokens of a prompt, at most; longer ones are left out."""


def prompts_from(sources: Sequence[Path], tokenizer: Any, seed: int) -> list[list[int]]:
    """Token ids of the prompts that files and folders hold, as chats where the tokenizer has a template, shuffled.

    A .jsonl file has objects with `prompt` or `turns`, a .txt file a prompt a line; every text file below a folder is cut into
    passages, and something is asked of each.

    Raises TrainingError for what cannot be read, and where nothing is left.
    """
    order = random.Random(seed)
    texts = dict.fromkeys(text for source in sources for text in _texts(source, order))
    encoded = [_encoded(text, tokenizer) for text in texts]
    kept = [ids for ids in encoded if 0 < len(ids) <= LONGEST]
    if not kept:
        raise TrainingError(
            f"there are no prompts of at most {LONGEST} tokens in {', '.join(map(str, sources)) or 'nothing'}; give files or "
            "folders with --prompts"
        )
    order.shuffle(kept)
    return kept


def _encoded(text: str, tokenizer: Any) -> list[int]:
    if getattr(tokenizer, "chat_template", None):
        return laid_out([{"role": "user", "content": text}], tokenizer)
    return list(tokenizer(text)["input_ids"])


def _texts(source: Path, order: random.Random) -> Iterator[str]:
    try:
        if source.is_dir():
            for file in sorted(path for path in source.rglob("*") if path.suffix in (".txt", ".md", ".rst", ".py")):
                for passage in _passages(read_text(file)):
                    yield order.choice(TASKS).format(passage)
            return
        lines = [line for line in read_text(source).splitlines() if line.strip()]
        yield from map(_prompt_of, lines) if source.suffix == ".jsonl" else lines
    except OSError as error:
        raise TrainingError(f"cannot read {source}: {error.strerror}") from error
    except (BrokenFileError, ValueError, KeyError, TypeError, IndexError) as error:
        raise TrainingError(
            f"{source} holds no prompts ({type(error).__name__}: {error}); a .jsonl file has objects with 'prompt' or 'turns', "
            "any other file a prompt a line"
        ) from error


def _prompt_of(line: str) -> str:
    entry = json.loads(line)
    return str(entry["prompt"] if "prompt" in entry else entry["turns"][0])


def _passages(text: str) -> Iterator[str]:
    """Paragraphs that are joined up to PASSAGE characters."""
    passage = ""
    for paragraph in text.split("\n\n"):
        if passage and len(passage) + len(paragraph) > PASSAGE:
            if len(passage) >= SHORTEST:
                yield passage
            passage = ""
        passage = f"{passage}\n\n{paragraph}".strip()[:PASSAGE]
    if len(passage) >= SHORTEST:
        yield passage
