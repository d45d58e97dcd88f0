"""One rule of what can run, as a result: what was found, and what to do. The engine raises it, `pair-check` lists it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from draftgraph.errors import DraftgraphError, ModelError

Outcome = Literal["pass", "warning", "fail", "not checked"]


@dataclass(frozen=True)
class Check:
    """What a compatibility rule says.

    rule     its name, in a few words.
    outcome  "fail" stops the engine; "warning" does not; "not checked" is a rule whose own conditions failed.
    found    what was found. advice  what to do about it, empty if nothing needs to be done.
    error    the error that `enforce` raises.
    """

    rule: str
    outcome: Outcome
    found: str
    advice: str = ""
    error: type[DraftgraphError] = field(default=ModelError, repr=False)

    @property
    def failed(self) -> bool:
        return self.outcome == "fail"

    def enforce(self) -> None:
        """Raise `error` if the rule failed."""
        if self.failed:
            raise self.error(f"{self.found}; {self.advice}" if self.advice else self.found)

    def to_dict(self) -> dict[str, str]:
        return {"rule": self.rule, "outcome": self.outcome, "found": self.found, "advice": self.advice}
