"""What a mining run has found so far: a line of JSON for every finding, so that a killed run goes on where it was.

q        number of the question.
answer   token ids: the target's own answer, or the one with the drafter's token in it, if that is right as well.
right    whether the target's own answer is right; if not, nothing is asked of the question.
at       place of a mismatch in the answer. token  the drafter's. important  whether the answer is wrong with it.
partial  token ids of an answer that is under way.
done     all mismatches of the question are known, and their hidden states are kept.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from draftgraph.lab.train.errors import TrainingError


@dataclass
class Mismatch:
    """place  in the answer. token  the drafter's. important  whether the answer is wrong with it."""

    place: int
    token: int
    important: bool


@dataclass
class Progress:
    """What is known of one question. own  the target's own answer."""

    own: list[int] | None = None
    answer: list[int] = field(default_factory=list)
    right: bool = False
    mismatches: list[Mismatch] = field(default_factory=list)
    partial: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def border(self) -> int:
        """Places before it are settled."""
        return self.mismatches[-1].place + 1 if self.mismatches else 0

    def enter(self, said: dict[str, Any]) -> None:
        """Take a line of the journal in."""
        if "partial" in said:
            self.partial = [int(token) for token in said["partial"]]
            return
        self.partial = []
        if "answer" in said:
            self.answer = [int(token) for token in said["answer"]]
        if "at" in said:
            self.mismatches.append(Mismatch(int(said["at"]), int(said["token"]), bool(said["important"])))
        if "right" in said:
            self.own, self.right = self.answer, bool(said["right"])
        self.done = bool(said.get("done", False))


class Journal:
    """The findings of all runs. It is written line by line; a line that a kill has cut is dropped when it is read."""

    def __init__(self, file: Path, questions: int) -> None:
        self.file = file
        self.found = [Progress() for _ in range(questions)]
        whole = self._read()
        file.parent.mkdir(parents=True, exist_ok=True)
        self._out = file.open("r+b" if file.exists() else "w+b")
        self._out.truncate(whole)
        self._out.seek(whole)

    def _read(self) -> int:
        """Take all lines in. Returns the bytes of those that are whole. Raises TrainingError for a line that is none."""
        if not self.file.exists():
            return 0
        content = self.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                said = json.loads(line)
                self.found[said["q"]].enter(said)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise TrainingError(
                    f"{self.file}, line {number}, is broken ({type(error).__name__}: {error}); delete the folder to begin anew"
                ) from error
        return whole

    def add(self, question: int, **said: Any) -> None:
        """Note a finding; once this returns, a kill cannot lose it."""
        self.found[question].enter(said)
        line = json.dumps({"q": question, **said}, separators=(",", ":"))
        try:
            self._out.write(f"{line}\n".encode())
            self._out.flush()
            os.fsync(self._out.fileno())
        except OSError as error:
            raise TrainingError(
                f"cannot write {self.file}: {error.strerror}; make room, then run the same command"
            ) from error

    def close(self) -> None:
        self._out.close()
