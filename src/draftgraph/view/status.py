"""What is on stderr while someone waits: a spinner where a person looks, and nothing from the libraries underneath."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from transformers.utils import logging


@contextmanager
def status(message: str, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner with a message; yields a function that changes the message. Silent if quiet, or not on a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda text: None
        return
    with console.status(message) as spinner:
        yield spinner.update


@contextmanager
def silent_loading() -> Iterator[None]:
    """Without transformers' progress bars, log lines and warnings; errors still arrive as exceptions."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
