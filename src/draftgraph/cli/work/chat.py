"""What `draftgraph chat` does: reads a line, lets a speaker answer, tells how fast that was."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import typer

from draftgraph.engine.chat import has_template
from draftgraph.engine.engine import Engine
from draftgraph.errors import DraftgraphError, OptionError
from draftgraph.view.printable import printable
from draftgraph.view.status import status

Messages = Sequence[Mapping[str, str]]
HINT = "Ctrl-C stops an answer. /clear begins anew. /quit or Ctrl-D ends the conversation."


@dataclass
class Told:
    """What is told of an answer.

    per_round  tokens that a round of the target gave. first  seconds to the first piece.
    plain      seconds of a token without drafts, as they were measured once; None: nobody knows.
    """

    tokens: int = 0
    per_round: float | None = None
    first: float = 0.0
    plain: float | None = None

    def said(self, seconds: float) -> str:
        if not self.tokens:
            return f"{seconds:.1f} s"
        speed = f"{self.tokens} tokens, {self.tokens / max(seconds, 1e-9):.1f} per second"
        if self.per_round is not None:
            speed = f"{speed}, {self.per_round:.2f} per round of the target"
        if self.plain is None:
            return speed
        return f"{speed}; about {self.tokens / (self.first + self.plain * (self.tokens - 1)):.1f} per second without drafts"


class Speaker(Protocol):
    """Whoever answers. told  what there is to tell of the last answer."""

    told: Told

    def answer(self, messages: Messages) -> Generator[str, None, None]:
        """The answer to a conversation, piece by piece. Closing it early ends the request."""
        ...


class LocalSpeaker:
    """An engine in this process. asked  options of every answer."""

    def __init__(self, engine: Engine, title: str, asked: Mapping[str, Any]) -> None:
        if not has_template(engine.tokenizer):
            raise OptionError(
                f"{title} has no chat template, so it was not trained to chat; write --model with a chat model, or "
                "draftgraph generate to continue a text"
            )
        self._engine, self.told = engine, Told()
        self._options = {name: value for name, value in asked.items() if name != "max_tokens"}
        self._options["max_new_tokens"] = asked["max_tokens"]
        self._plain: float | None = None
        if engine.config.budget == "auto":
            with status("timing this pair on this machine, once", False):
                engine.warm_up()
            self._plain = engine.costs.plain

    def answer(self, messages: Messages) -> Generator[str, None, None]:
        self.told, begun = Told(plain=self._plain), time.perf_counter()
        stream = self._engine.stream(self._engine.chat_prompt(messages), None, **self._options)
        with closing(stream):
            for event in stream:
                self.told.first = self.told.first or time.perf_counter() - begun
                self.told.tokens += len(event.token_ids)
                self.told.per_round = stream.result().stats.mean_acceptance_length
                yield event.text


def converse(speaker: Speaker, system: str | None) -> None:
    """Questions from standard input until it ends. An answer that fails is told, and the conversation goes on."""
    person = sys.stdin.isatty()
    before = [{"role": "system", "content": system}] if system is not None else []
    messages = list(before)
    if person:
        typer.secho(HINT, dim=True)
    while (asked := _asked(person)) is not None:
        if asked == "/quit":
            return
        if asked == "/clear":
            messages = list(before)
        elif asked:
            messages.append({"role": "user", "content": asked})
            try:
                messages.append({"role": "assistant", "content": _spoken(speaker, messages)})
            except DraftgraphError as error:
                messages.pop()
                typer.secho(printable(f"error: {error}"), err=True)


def _asked(person: bool) -> str | None:
    """The next question; None at the end, "" where there was none."""
    if person:
        typer.echo("> ", nl=False)
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        typer.echo()
        typer.secho(HINT, dim=True)
        return ""
    return line.strip() if line else None


def _spoken(speaker: Speaker, messages: Messages) -> str:
    """An answer, printed as it comes; what there is of it, if Ctrl-C stops it."""
    pieces: list[str] = []
    begun = time.perf_counter()
    stopped = ""
    try:
        with closing(speaker.answer(messages)) as answer:
            for piece in answer:
                pieces.append(piece)
                typer.echo(printable(piece), nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:
        stopped = "stopped; "
    typer.echo()
    typer.secho(f"({stopped}{speaker.told.said(time.perf_counter() - begun)})", dim=True, err=True)
    return "".join(pieces)
