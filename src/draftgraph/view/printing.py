"""Three ways to print a request while it runs: plain text, one JSON object, or the rounds as pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.text import Text

from draftgraph.request.record import decisions
from draftgraph.request.text import Detokenizer
from draftgraph.view import terminal
from draftgraph.view.console import make_console
from draftgraph.view.printable import printable

if TYPE_CHECKING:
    from draftgraph.request.result import Event, Result


class Printer(Protocol):
    """Told of the beginning, of every round and of the end (which comes even if an error ended the request)."""

    def begin(self) -> None: ...

    def event(self, event: Event) -> None: ...

    def end(self, result: Result) -> None: ...


def make_printer(tokenizer: Any | None, prompt: str, before: Sequence[int], as_json: bool, show: bool) -> Printer:
    """before  token ids of the prompt."""
    console = make_console()
    if as_json:
        return JsonPrinter(console)
    return ShowPrinter(console, tokenizer, prompt, before) if show else TextPrinter(console)


class TextPrinter:
    """The text as it comes: byte for byte into a pipe, harmless on a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.written = 0

    def begin(self) -> None:
        pass

    def event(self, event: Event) -> None:
        self._write(event.text)

    def end(self, result: Result) -> None:
        """Write what an interrupted request still held back, too."""
        self._write(result.text[self.written :] + "\n")

    def _write(self, text: str) -> None:
        self.written += len(text)
        self.console.file.write(printable(text) if self.console.is_terminal else text)
        self.console.file.flush()


class JsonPrinter:
    """Nothing until the end, then one object."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def begin(self) -> None:
        pass

    def event(self, event: Event) -> None:
        pass

    def end(self, result: Result) -> None:
        self.console.file.write(json.dumps(as_dict(result)) + "\n")


class ShowPrinter:
    """Every round's draft graph as it is verified, then the coloured text and the summary."""

    def __init__(self, console: Console, tokenizer: Any | None, prompt: str, before: Sequence[int]) -> None:
        self.console, self.tokenizer, self.prompt, self.before = console, tokenizer, prompt, before
        self.rounds = 0

    def begin(self) -> None:
        self.console.print(terminal.legend(), "", sep="\n")

    def event(self, event: Event) -> None:
        if event.round is not None:
            self.rounds += 1
            self.console.print(terminal.round_tree(event.round, self.rounds, self._decode))

    def end(self, result: Result) -> None:
        prompt = Text(printable(self.prompt), "dim")
        text = terminal.transcript(result.rounds, pieces(self.tokenizer, self.before, result.token_ids))
        summary = terminal.summary(result.stats, result.choice.reason, result.rounds, result.finish_reason, result.seed)
        self.console.print("", Text.assemble(prompt, text), "", summary, sep="\n")

    def _decode(self, token: int) -> str:
        return str(token if self.tokenizer is None else self.tokenizer.decode([token]))


def as_dict(result: Result) -> dict[str, Any]:
    """A result as `--json` prints it."""
    values: dict[str, Any] = {
        "text": result.text,
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        "stats": result.stats.to_dict(),
        "seed": result.seed,
        "choice": result.choice.to_dict(),
        "budget": {
            "rounds": decisions(result.rounds),
            "reasons": [reason for reason, _ in groupby(record.reason for record in result.rounds)],
        },
    }
    return values if result.logprobs is None else values | {"logprobs": result.logprobs}


def pieces(tokenizer: Any | None, before: Sequence[int], tokens: Sequence[int]) -> list[str]:
    """The text that every token adds to those `before`; an unfinished character belongs to the token that completes it."""
    detokenizer = Detokenizer(tokenizer, before, ())
    added = [detokenizer.push([token]) for token in tokens]
    return [*added[:-1], added[-1] + detokenizer.finish()] if added else []
