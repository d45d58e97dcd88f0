"""One hierarchy of errors. A message says what was asked, what is possible and what to write instead."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

Done = TypeVar("Done")


class DraftgraphError(Exception):
    """Base of every error raised on purpose.

    `partial` holds what a request had produced when the error struck (None before the first round),
    so that nothing already generated is lost. For requests of one call, `partial` is that of the request that failed,
    `finished` holds the results of those before it, and `results` those of all, in order. The others go on to their end
    before the error is raised; an interrupt ends all of them, and the `finish_reason` of unfinished ones is None.
    """

    partial: Any = None
    finished: Sequence[Any] = ()
    results: Sequence[Any] = ()


class OptionError(DraftgraphError, ValueError):
    """An option has a value that is not possible, or a combination that is not sound."""


class PromptError(DraftgraphError, ValueError):
    """The prompt cannot be decoded: empty, outside the vocabulary, or beyond the context window."""


class PairError(DraftgraphError, ValueError):
    """The drafter cannot draft for this target; the message names the rule that fails."""


class ModelError(DraftgraphError):
    """The model cannot be used: missing or corrupt files, a cache that cannot roll back, ignored masks."""


class TableError(DraftgraphError):
    """A table of n-grams cannot be read, or is of another vocabulary."""


class QueueFullError(DraftgraphError, RuntimeError):
    """So many requests are waiting that another one is refused; it may be asked again later."""


class DraftError(DraftgraphError, ValueError):
    """A draft is malformed, or states a law that the rule cannot use."""


class LogitsError(DraftgraphError, ArithmeticError):
    """A model or a logits processor returned something that is not a distribution."""


class DrafterError(DraftgraphError, RuntimeError):
    """A drafter failed while proposing."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxarray = _SHORT.maxset = _SHORT.maxfrozenset = 12
"""Values in messages: 120 characters of a text, 12 items of a list."""


def brief(value: object) -> str:
    """A value as messages show it: on one line and short, whatever the user gave."""
    try:
        text = _SHORT.repr(value)
    except Exception:  # an int of too many digits, a class whose repr fails
        text = f"<{type(value).__name__}>"
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def unknown_name(kind: str, name: object, known: Iterable[str]) -> OptionError:
    """The error for a name that is not registered, with the nearest one that is."""
    names = sorted(known)
    near = difflib.get_close_matches(name if isinstance(name, str) else brief(name), names, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return OptionError(f"unknown {kind} {brief(name)}; possible: {', '.join(names)}.{hint}")


def require(held: bool, name: str, value: object, possible: str) -> None:
    """Refuse an option's value. Raises OptionError unless `held`."""
    if not held:
        raise OptionError(f"{name}={brief(value)} is not possible; write {possible}")


def attempt(act: Callable[..., Done], *given: Any) -> Done | Exception:
    """What `act(*given)` returns, or the error that it raises. Interrupts go on."""
    try:
        return act(*given)
    except Exception as error:
        return error


def first_line(error: BaseException) -> str:
    """The class and the first line of an error, for a message about it."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
