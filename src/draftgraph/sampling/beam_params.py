"""How one request for beams is sampled or searched. Frozen and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from draftgraph.errors import OptionError, require
from draftgraph.sampling.params import SamplingParams
from draftgraph.values import as_flag, as_integer, as_number

WIDTHS = ("full", "threshold", "mean")
MOST_BEAMS = 1024

_COUNTS = {
    "num_beams": (1, f"an integer from 1 to {MOST_BEAMS}"),
    "num_return_sequences": (1, "an integer >= 1, at most num_beams"),
    "draft_beams": (1, f"an integer from 1 to {MOST_BEAMS}, or None"),
    "least_beams": (1, "an integer >= 1, at most num_beams"),
    "num_speculative_tokens": (0, "an integer >= 0 (0 drafts nothing), or None"),
}
"""Options that count something: the least one, and what to write."""
_OPEN = ("draft_beams", "num_speculative_tokens")
"""Options that may be left to the engine: None."""


@dataclass(frozen=True)
class BeamParams(SamplingParams):
    """`SamplingParams`, and what beams need beside them. Names and meanings are those of transformers where it has them.

    num_beams             beams of every layer.
    num_return_sequences  finished beams that are returned, the best first.
    length_penalty        a finished beam's score is the sum of its log-probabilities / length ** length_penalty. None is the
                          model's own (its generation_config), or 1.0.
    early_stopping        True ends with num_beams finished beams. False ends once no running beam can do better at its present
                          length, "never" once none can at any length. None is the model's own, or False.
    num_speculative_tokens  layers that are drafted per target call; 0 drafts nothing. None is the engine's, or what suits.
    draft_beams           pairs (beam, token) that are drafted per layer. None: what suits num_beams.
    width                 of layers that were drafted, in `beam_sample`. "full": num_beams, always. "threshold": as many beams as
                          drafted pairs are kept with probability `threshold` at least; "mean": as many as are kept on average,
                          rounded down. Both look at the joint laws of the layer, before its pairs are tested.
    least_beams           beams of such a layer at least.
    temperature           is 1 unless it is named, and positive in `beam_sample`.

    Raises OptionError for a value that is not possible.
    """

    temperature: float = 1.0
    num_beams: int = 4
    num_return_sequences: int = 1
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    num_speculative_tokens: int | None = None
    draft_beams: int | None = None
    width: str = "full"
    threshold: float = 0.7
    least_beams: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (least, possible) in _COUNTS.items():
            self._count(name, least, possible)
        for name in ("num_beams", "draft_beams"):
            require((getattr(self, name) or 1) <= MOST_BEAMS, name, getattr(self, name), _COUNTS[name][1])
        for name in ("num_return_sequences", "least_beams"):
            if getattr(self, name) > self.num_beams:
                raise OptionError(
                    f"{name}={getattr(self, name)} is more than num_beams={self.num_beams}; write {self.num_beams} or less"
                )
        if self.length_penalty is not None:
            self._read("length_penalty", as_number, lambda x: abs(x) <= 1000, "a number from -1000 to 1000, or None")
        self._read("threshold", as_number, lambda x: 0 < x <= 1, "a number in (0, 1]")
        require(self.width in WIDTHS, "width", self.width, "'full', 'threshold' or 'mean'")
        self._set("early_stopping", _stopping(self.early_stopping))
        self._refuse_fewer()

    def _count(self, name: str, least: int, possible: str) -> None:
        given = getattr(self, name)
        if given is None and name in _OPEN:
            return
        count = as_integer(given)
        require(count is not None and count >= least, name, given, possible)
        self._set(name, count)

    def _refuse_fewer(self) -> None:
        """A layer of few beams may be the last one, and its beams are then all that there are."""
        if self.width == "full" or self.num_return_sequences <= self.least_beams:
            return
        raise OptionError(
            f"num_return_sequences={self.num_return_sequences} needs layers of so many beams, and width={self.width!r} may keep "
            f"{self.least_beams}; write least_beams={self.num_return_sequences}, or width='full'"
        )


def _stopping(given: Any) -> bool | str | None:
    if given is None or (isinstance(given, str) and given == "never"):
        return given
    flag = as_flag(given)
    require(flag is not None, "early_stopping", given, "True, False, 'never', or None")
    return flag
