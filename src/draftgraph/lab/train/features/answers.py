"""Answers of the target: what a drafter is trained on, how it is kept, and what is held out.

A file of answers is gzipped JSON lines: `p` prompt token ids, `a` answer token ids, `t` the temperature.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.whole_files import write_bytes

Ids = npt.NDArray[np.int32]
HELD_OUT_PERCENT = 3
SUFFIX = ".jsonl.gz"


@dataclass(frozen=True)
class Answer:
    """ids          i32[n] prompt and answer.
    prompt       tokens of the prompt.
    temperature  at which the target drew the answer; 0 is greedy.
    """

    ids: Ids
    prompt: int
    temperature: float

    @property
    def num_answered(self) -> int:
        return len(self.ids) - self.prompt


def read_answers(files: Iterable[Path]) -> list[Answer]:
    """The answers of files. Raises TrainingError for a file that cannot be read."""
    answers: list[Answer] = []
    for file in files:
        try:
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                for line in lines:
                    entry = json.loads(line)
                    ids = np.array([*entry["p"], *entry["a"]], dtype=np.int32)
                    answers.append(Answer(ids, len(entry["p"]), float(entry["t"])))
        except (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise TrainingError(
                f"{file} holds no answers ({type(error).__name__}: {error}); lines are JSON with p, a and t, gzipped"
            ) from error
    return answers


def write_answers(file: Path, answers: Sequence[Answer]) -> None:
    """Write a file of answers, whole or not at all. Raises TrainingError where the disk does not allow it."""
    lines = [
        json.dumps({"p": a.ids[: a.prompt].tolist(), "a": a.ids[a.prompt :].tolist(), "t": a.temperature}, separators=(",", ":"))
        for a in answers
    ]  # fmt: skip
    write_bytes(file, gzip.compress("".join(f"{line}\n" for line in lines).encode(), 6))


@dataclass(frozen=True)
class Split:
    """Answers by what they are for: other prompts of known kinds are one question, unknown kinds another."""

    train: list[Answer]
    new_prompts: list[Answer]
    new_kinds: list[Answer]


def split(answers: Iterable[Answer], kinds: Sequence[Sequence[int]] = (), percent: int = HELD_OUT_PERCENT) -> Split:
    """Hold out answers by a hash of their prompts, and those whose prompts begin as one of `kinds` does (token ids)."""
    parts = Split([], [], [])
    prefixes = [np.array(kind, dtype=np.int32) for kind in kinds]
    for answer in answers:
        prompt = answer.ids[: answer.prompt]
        if any(np.array_equal(prompt[: len(prefix)], prefix) for prefix in prefixes):
            parts.new_kinds.append(answer)
        elif int.from_bytes(hashlib.sha256(prompt.tobytes()).digest()[:8], "big") % 100 < percent:
            parts.new_prompts.append(answer)
        else:
            parts.train.append(answer)
    return parts


def frequent_tokens(answers: Iterable[Answer], vocab_size: int, count: int) -> tuple[list[int], dict[str, float]]:
    """The `count` most frequent tokens of answers, most frequent first, and the share of answer tokens that they cover.

    The shares are of greedy and of sampled answers, where there are any.
    """
    counts = {greedy: np.zeros(vocab_size, dtype=np.int64) for greedy in (True, False)}
    for answer in answers:
        counts[answer.temperature == 0] += np.bincount(answer.ids[answer.prompt :], minlength=vocab_size)[:vocab_size]
    both = counts[True] + counts[False]
    chosen = np.argsort(-both, kind="stable")[:count]
    names = {True: "greedy", False: "sampled"}
    covered = {names[greedy]: float(c[chosen].sum() / c.sum()) for greedy, c in counts.items() if c.sum()}
    return [int(token) for token in chosen], covered


def read_prompts(file: Path) -> list[list[int]]:
    """Prompt token ids from gzipped JSON lines with `p`. Raises TrainingError for a file that cannot be read."""
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            return [[int(token) for token in json.loads(line)["p"]] for line in lines]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{file} holds no prompts ({type(error).__name__}: {error})") from error
