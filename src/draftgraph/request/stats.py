"""Every number that is reported, defined once. Names and definitions follow vLLM's per-request schema where it has one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PARTS = ("drafter", "target", "drafting", "warping", "rule", "commit")
"""Parts of a round's wall time: the two models' forwards, and what draftgraph adds around them."""


@dataclass(frozen=True)
class Stats:
    """What a request did. Counted after truncation by a stop or by the length limit.

    mean_acceptance_length   1 + accepted / rounds: tokens per target call ("block efficiency", τ).
    draft_acceptance_rate    accepted / drafted tokens. For a tree, drafted counts all its nodes.
    acceptance_histogram     entry j: rounds in which exactly j drafted tokens were accepted.
    num_rounds               target calls. num_draft_tokens: drafted nodes; num_verified_nodes: nodes the target scored.
    num_accepted_tokens      drafted tokens that were emitted.
    num_drafter_evaluations  rows that the drafter computed; num_drafter_passes: forward passes it took.
    num_merged_nodes         nodes that came by an edge instead of a drafter evaluation.
    accepted_by_source       accepted tokens by origin: "drafter", or the edge source that they were copied from.
    rejected_by_source       drafted tokens that were not emitted, likewise.
    num_cached_prompt_tokens  tokens of the prompt that were not read again, since another request had begun with them.
    accepted_by_match_length the same per length of match: entry j of an origin counts copies whose last j tokens agreed with the
                             place that they were copied from; what the drafter proposed itself is entry 0.
    seconds                  wall seconds per part of the rounds, see PARTS; of a pass that requests share, this one's share.
    lossless                 whether the rule gives the output exactly the target's law.
    numerics                 how exactly the target's rows are computed: "exact", or "near ties may differ with the width of a
                             pass", where rounding (bfloat16, float16) lets a wide pass prefer another of two nearly equal tokens.
                             "not said" in traces of older versions.
    backend                  what ran the target.
    """

    rule: str
    structure: str
    lossless: bool
    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    num_rounds: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_drafter_evaluations: int
    num_drafter_passes: int
    num_merged_nodes: int
    num_verified_nodes: int
    num_prompt_tokens: int
    num_output_tokens: int
    accepted_by_source: dict[str, int]
    accepted_by_match_length: dict[str, list[int]]
    seconds: dict[str, float]
    rejected_by_source: dict[str, int] = field(default_factory=dict)
    num_cached_prompt_tokens: int = 0
    numerics: str = "not said"
    backend: str = "torch"

    def __getitem__(self, name: str) -> Any:
        """Fields by their JSON names."""
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Tally:
    """Running counts of one request; the commit writes them, and whoever shares a prefix writes `cached`."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    evaluations: int = 0
    passes: int = 0
    merged: int = 0
    cached: int = 0
    by_source: Counter[str] = field(default_factory=Counter)
    histogram: Counter[int] = field(default_factory=Counter)
    by_match: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def add_seconds(self, parts: Mapping[str, float]) -> None:
        for part, seconds in parts.items():
            self.seconds[part] += seconds

    def stats(
        self, *, rule: str, structure: str, lossless: bool, numerics: str, prompt: int, output: int, backend: str
    ) -> Stats:
        longest = max(self.histogram, default=0)
        accepted = {source: sum(counts) for source, counts in self._by_match_length().items()}
        return Stats(
            rule=rule,
            structure=structure,
            lossless=lossless,
            numerics=numerics,
            mean_acceptance_length=1.0 + self.accepted / self.rounds if self.rounds else 1.0,
            draft_acceptance_rate=self.accepted / self.drafted if self.drafted else 0.0,
            acceptance_histogram=[self.histogram[j] for j in range(longest + 1)],
            num_rounds=self.rounds,
            num_draft_tokens=self.drafted,
            num_accepted_tokens=self.accepted,
            num_drafter_evaluations=self.evaluations,
            num_drafter_passes=self.passes,
            num_merged_nodes=self.merged,
            num_verified_nodes=self.drafted,
            num_prompt_tokens=prompt,
            num_output_tokens=output,
            accepted_by_source=accepted,
            rejected_by_source={source: n - accepted.get(source, 0) for source, n in self.by_source.items()},
            num_cached_prompt_tokens=self.cached,
            accepted_by_match_length=self._by_match_length(),
            seconds=dict(self.seconds),
            backend=backend,
        )

    def _by_match_length(self) -> dict[str, list[int]]:
        longest = {source: max(n for s, n in self.by_match if s == source) for source, _ in self.by_match}
        return {source: [self.by_match[source, n] for n in range(most + 1)] for source, most in longest.items()}
