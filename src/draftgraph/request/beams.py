"""What a request for beams gives back. Frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class BeamStats:
    """What a request for beams did.

    num_beams, num_layers  of every layer at most, and layers that were chosen: tokens of the longest beam.
    num_target_calls         passes of the target after the prompt's pieces; target_calls_per_layer  is below 1 where drafts help.
    layers_per_target_call   their mean, as `mean_acceptance_length` of other requests.
    num_draft_nodes          nodes that the target read beside the beams' last tokens.
    num_target_rows, num_drafter_rows, num_drafter_passes  rows that the models computed, and passes of the drafter.
    drafted_pairs_kept, drafted_pairs_tested  pairs (beam, token) of the drafter, in `beam_sample`.
    kept_by_layer            the kept ones of every layer that was drafted.
    predicted_by_layer       the law of that number, predicted before the tests, where the width was chosen by it.
    lossless                 whether the beams have the law, or are the beams, that they have without drafts. False where widths
                             were predicted: layers are independent draws, of fewer beams.
    numerics                 as in `Stats`. backend  what ran the target.
    """

    num_beams: int
    num_layers: int
    num_target_calls: int
    target_calls_per_layer: float
    layers_per_target_call: float
    num_draft_nodes: int
    num_target_rows: int
    num_drafter_rows: int
    num_drafter_passes: int
    drafted_pairs_kept: int
    drafted_pairs_tested: int
    kept_by_layer: tuple[int, ...]
    predicted_by_layer: tuple[tuple[float, ...], ...]
    lossless: bool
    numerics: str
    backend: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class FinishedBeam:
    """One beam that a request returns.

    token_ids      generated ids, the prompt excluded, an end-of-sequence token included.
    score          sum of the log-probabilities of these tokens / length ** length_penalty.
    finish_reason  "stop" (end-of-sequence token) or "length" (limit or context window).
    """

    text: str
    token_ids: list[int]
    score: float
    finish_reason: str


@dataclass(frozen=True)
class BeamResult:
    """The finished beams of a request, the best first. text, token_ids, score, finish_reason  are those of the best one.

    prompt_ids  token ids of the prompt.
    pad         id that fills shorter rows of `sequences`.
    seed        the seed the request ran with, so that it can be run again.
    """

    beams: Sequence[FinishedBeam]
    stats: BeamStats
    seed: int
    prompt_ids: Sequence[int]
    pad: int

    @property
    def text(self) -> str:
        return self.beams[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.beams[0].token_ids

    @property
    def score(self) -> float:
        return self.beams[0].score

    @property
    def finish_reason(self) -> str:
        return self.beams[0].finish_reason

    @property
    def sequences(self) -> torch.Tensor:
        """i64[beams, length] prompt and output of every beam, as transformers' `generate` returns them."""
        longest = max(len(beam.token_ids) for beam in self.beams)
        return torch.tensor(
            [[*self.prompt_ids, *beam.token_ids, *[self.pad] * (longest - len(beam.token_ids))] for beam in self.beams]
        )

    @property
    def sequences_scores(self) -> torch.Tensor:
        """f32[beams]."""
        return torch.tensor([beam.score for beam in self.beams])

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for `json.dumps`."""
        beams = [{**asdict(beam), "token_ids": list(beam.token_ids)} for beam in self.beams]
        best = {name: beams[0][name] for name in ("text", "token_ids", "finish_reason", "score")}
        return {**best, "beams": beams, "stats": self.stats.to_dict(), "seed": self.seed}
