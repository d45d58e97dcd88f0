"""From entries of prompt files to token ids: the same for everybody, whatever a contender would make of a text.

A conversation is laid out by the tokenizer's chat template, if there is one: every turn of the user becomes a prompt, behind the
target's own greedy answers to the earlier ones (written before anything is timed). Without a template its first turn is continued
as a text, and later ones are left out. Beginnings are continued as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from draftgraph.engine.engine import Engine
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.prompts import Entry, PromptFile, limited
from draftgraph.lab.texts import laid_out
from draftgraph.sampling.params import SamplingParams


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue. task  what its speed is averaged over. turn  of the conversation, from 1."""

    name: str
    task: str
    turn: int
    ids: list[int]


@dataclass
class Encoded:
    """skipped  names of what was left out, with reasons. later_turns  left out for want of a chat template.

    templated  conversations that were laid out by one.
    """

    prompts: list[Prompt] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    later_turns: int = 0
    templated: int = 0

    @property
    def how(self) -> str:
        """What was made of conversations, as a sentence; empty if there were none."""
        if self.templated:
            return (
                f"{self.templated} conversations were laid out by the tokenizer's chat template, every turn behind the target's "
                "own greedy answers to the earlier ones."
            )
        if self.later_turns:
            return (
                "The tokenizer has no chat template: the first turn of a conversation was continued as a text, "
                f"{self.later_turns} later turns were left out."
            )
        return ""


def encode(
    files: Sequence[PromptFile],
    models: Models,
    tokens: int,
    limit: int | None,
    tell: Callable[[str], None] = lambda name: None,
) -> Encoded:
    """The prompts of files: of those that with `tokens` new ones fit the models' window, at most `limit` per file and task.

    tell  hears which conversation's answers are being written. Raises OptionError if the chat template fails.
    """
    done = Encoded()
    answer = _answerer(models, tokens) if getattr(models.tokenizer, "chat_template", None) else None
    for file in files:
        fitting = [entry for entry in file.entries if _fits(done, entry.name, _first(entry, models), models, tokens)]
        for entry in limited(fitting, limit):
            done.prompts.append(Prompt(entry.name, entry.task, 1, _first(entry, models)))
            if not entry.chat:
                continue
            if answer is None:
                done.later_turns += len(entry.turns) - 1
                continue
            tell(entry.name)
            done.templated += 1
            for turn, ids in _later(entry, models.tokenizer, answer):
                name = f"{entry.name}, turn {turn}"
                if not _fits(done, name, ids, models, tokens):
                    break  # the turns after it are longer still
                done.prompts.append(Prompt(name, entry.task, turn, ids))
    return done


def _fits(done: Encoded, name: str, ids: Sequence[int], models: Models, tokens: int) -> bool:
    if not ids:
        done.skipped.append((name, "no tokens"))
    elif models.window is not None and len(ids) + tokens > models.window:
        done.skipped.append((name, f"{len(ids)} + {tokens} tokens exceed the context window of {models.window}"))
    else:
        return True
    return False


def _first(entry: Entry, models: Models) -> list[int]:
    """Token ids of a beginning, or of the first turn of a conversation."""
    tokenizer = models.tokenizer
    if entry.chat and getattr(tokenizer, "chat_template", None):
        return laid_out([{"role": "user", "content": entry.turns[0]}], tokenizer)
    return list(tokenizer(entry.turns[0])["input_ids"])


def _later(entry: Entry, tokenizer: Any, answer: Callable[[list[int]], str]) -> Iterator[tuple[int, list[int]]]:
    """Number and token ids of every turn after the first; an answer is only written if the turn behind it is asked for."""
    messages = [{"role": "user", "content": entry.turns[0]}]
    for number, turn in enumerate(entry.turns[1:], 2):
        messages.append({"role": "assistant", "content": answer(laid_out(messages, tokenizer))})
        messages.append({"role": "user", "content": turn})
        yield number, laid_out(messages, tokenizer)


def _answerer(models: Models, tokens: int) -> Callable[[list[int]], str]:
    """The target's own greedy answer, which may end where the target ends it."""
    engine = Engine.from_pretrained(models.target, tokenizer=models.tokenizer, budget=0)
    params = SamplingParams(max_new_tokens=tokens)
    return lambda ids: engine.generate(ids, params).text
