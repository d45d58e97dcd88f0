"""What is on stderr while someone waits: a spinner where a person looks, and nothing from the libraries underneath."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.text import Text

from draftgraph.view.console import make_console
from draftgraph.view.printable import on_one_line

TALKATIVE = ("transformers", "huggingface_hub", "torch")
"""Loggers of other libraries that print by themselves; those without a handler are silenced by one that does nothing."""
SILENT = logging.CRITICAL + 1


@contextmanager
def status(message: str, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner with a message; yields a function that changes the message. Silent if quiet, or not on a terminal."""
    console = make_console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda text: None
        return
    with console.status(Text(on_one_line(message))) as spinner:
        yield lambda text: spinner.update(Text(on_one_line(text)))


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without log lines and warnings of other libraries; errors still arrive as exceptions."""
    root, nothing = logging.getLogger(), logging.NullHandler()
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    root.addHandler(nothing)
    for logger in loggers:
        logger.setLevel(SILENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(nothing)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
