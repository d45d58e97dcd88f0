"""The state of one request while it runs. Only `commit` and the engine write to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from draftgraph.backends.base import CacheHandle
from draftgraph.request.clock import Clock
from draftgraph.request.record import RoundRecord
from draftgraph.request.stats import Tally
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise, Role
from draftgraph.sampling.warp import Warper
from draftgraph.verification.base import Rule, sample

if TYPE_CHECKING:
    from draftgraph.draft.structures.base import Structure

Plan = Callable[[int, Sequence[RoundRecord], int, str], Any]
"""plan(committed tokens, rounds so far, reach, why the drafter cannot draft or "") -> the limits of the next round
(`draft.terms.Limits`)."""


@dataclass(frozen=True)
class Strategy:
    """How a request is drafted and verified.

    sampled  whether there are SAMPLED slots whose laws the rule reads; otherwise every slot counts as FIXED.
    reason   why, in words.
    settled  whether it stays as it is, whatever drafter and target turn out to have in common.
    """

    rule: Rule
    structure: Structure
    sampled: bool
    reason: str
    settled: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for `json.dumps`."""
        slots = "sampled" if self.sampled else "fixed"
        return {"rule": self.rule.name, "structure": self.structure.name, "slots": slots, "reason": self.reason}


@dataclass
class Request:
    """choice  how the next round drafts and verifies.
    tokens  i64 ids of prompt and output; the first `prompt_length` are the prompt.
    limit     output tokens at most (the user's limit, or what the context window leaves).
    eos       ids that end the text.
    vocab_size  of the target: a law has so many entries.
    plan      decides how much is drafted, if nothing was asked for; None for a fixed budget.
    text      what the target has cached; drafting  whatever the drafter keeps.
    prediction  token ids that the output may repeat, for drafters that copy; () is none of its own.
    begun     the drafter was told that the request begins, and not yet that it is over.
    drafts    whether any round may draft. False: whatever only this request would copy from need not be kept.
    """

    params: SamplingParams
    choice: Strategy
    tokens: list[int]
    prompt_length: int
    limit: int
    eos: frozenset[int]
    noise: Noise
    warper: Warper
    detokenizer: Detokenizer
    vocab_size: int
    plan: Plan | None = None
    prediction: Sequence[int] = ()
    text: CacheHandle = field(default_factory=CacheHandle)
    drafting: Any = None
    begun: bool = False
    drafts: bool = True
    clock: Clock = field(default_factory=Clock)
    tally: Tally = field(default_factory=Tally)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    rounds: list[RoundRecord] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def device(self) -> torch.device:
        """The target's."""
        return self.warper.device

    def draw(self, law: torch.Tensor, node: int) -> int:
        """One fresh draw from `law` f[V] for a node of this round's draft. A node draws once: its noise is its own."""
        return sample(law, self.noise.uniform(len(self.tokens), Role.DRAFT, 0, node))

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def remaining(self) -> int:
        """Output tokens that may still be emitted."""
        return self.limit - (len(self.tokens) - self.prompt_length)
