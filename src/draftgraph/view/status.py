"""What is on stderr while someone waits: a spinner where a person looks, and nothing from the libraries underneath."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.text import Text

from draftgraph.view.console import make_console
from draftgraph.view.printable import on_one_line

TALKATIVE = ("transformers", "huggingface_hub", "torch")
"""Loggers of other libraries that print by themselves; those without a handler are silenced by one that does nothing."""
SILENT = logging.CRITICAL + 1
NOTES = ("draftgraph.timing", "draftgraph.converting")
"""The loggers that say when someone waits for a measurement or a conversion; a spinner says it in their place."""


@contextmanager
def status(message: str, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner with a message; yields a function that changes the message. Silent if quiet, or not on a terminal.

    Where nobody looks and it is not quiet, measurements and conversions, which take their time, are log lines.
    """
    console = make_console(stderr=True)
    if not quiet and not console.is_terminal:
        yield lambda text: None
        return
    if quiet:
        with _at_level(NOTES, SILENT):
            yield lambda text: None
        return
    with console.status(Text(on_one_line(message))) as spinner:

        def say(text: str) -> None:
            spinner.update(Text(on_one_line(text)))

        with _heard(NOTES, say):
            yield say


@contextmanager
def _at_level(names: Sequence[str], level: int) -> Iterator[None]:
    """Set the level of loggers for a while."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)


class _Teller(logging.Handler):
    """Hands log lines to a function."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.getMessage())


@contextmanager
def _heard(names: Sequence[str], say: Callable[[str], None]) -> Iterator[None]:
    """What loggers say goes to a function for a while, and nowhere else."""
    loggers, teller = [logging.getLogger(name) for name in names], _Teller(say)
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(teller)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.removeHandler(teller)
            logger.propagate = old


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without log lines and warnings of other libraries; errors still arrive as exceptions."""
    root, nothing = logging.getLogger(), logging.NullHandler()
    root.addHandler(nothing)
    try:
        with _at_level(TALKATIVE, SILENT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(nothing)


@contextmanager
def silent_loading() -> Iterator[None]:
    """The same, and without progress bars. Imports transformers."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        with quiet_libraries():
            yield
    finally:
        if shown:
            bars.enable_progress_bar()
