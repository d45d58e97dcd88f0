"""How a layer is drafted and chosen: by draws from the joint law over (beam, token), or by its best pairs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from draftgraph.engine.beams.beam import Beam
from draftgraph.engine.beams.forest import DraftedLayer
from draftgraph.sampling.beam_params import BeamParams
from draftgraph.sampling.warp import Prefixes, Warper
from draftgraph.verification.beams import NOWHERE, Chance, LayerTest, expected, keep, reached


@dataclass(frozen=True)
class Pair:
    """A beam that a layer chose. above  the beam that it continues, by its number. token  that it ends with."""

    above: int
    token: int
    beam: Beam


@dataclass
class Seen:
    """What was predicted of the tests of layers, and what was seen, layer by layer.

    predicted  the law of the number of drafted pairs that are kept, if the width was chosen by it. kept, tested  such pairs.
    """

    predicted: list[list[float]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    tested: list[int] = field(default_factory=list)


class Choice(ABC):
    """Chooses beams of a layer, by rows of a model behind the beams above.

    seen  what became of drafted pairs that were tested.
    """

    def __init__(self, params: BeamParams, warper: Warper) -> None:
        self.params, self.warper, self.seen = params, warper, Seen()

    @abstractmethod
    def rows(self, logits: torch.Tensor, prefixes: Prefixes) -> torch.Tensor:
        """What logits f[B, V] say of the tokens behind B beams."""

    @abstractmethod
    def draft(
        self, beams: Sequence[Beam], rows: torch.Tensor, depth: int, chance: Chance
    ) -> tuple[torch.Tensor, list[int], list[Pair]]:
        """The joint law of a layer, f64[B * V], what was drafted of it, as its entries, and the beams that these are."""

    @abstractmethod
    def pairs(
        self,
        beams: Sequence[Beam],
        rows: torch.Tensor,
        drafted: DraftedLayer | None,
        where: Sequence[int],
        depth: int,
        chance: Chance,
    ) -> list[Pair]:
        """The beams of a layer. The first `num_beams` may end; those that go on are the first `num_beams` that have not ended.

        drafted  what was drafted for it, if anything was. where  the places of the beams above. depth  of the layer.
        """


class Sampled(Choice):
    """Independent draws from the joint law: the weight of a beam, exp(score), times its row. See `verification.beams`.

    last  tokens of the longest output: its layer is always full.
    """

    def __init__(self, params: BeamParams, warper: Warper, last: int) -> None:
        super().__init__(params, warper)
        self.last = last

    def rows(self, logits: torch.Tensor, prefixes: Prefixes) -> torch.Tensor:
        return self.warper.probabilities(logits, prefixes).double()

    def draft(
        self, beams: Sequence[Beam], rows: torch.Tensor, depth: int, chance: Chance
    ) -> tuple[torch.Tensor, list[int], list[Pair]]:
        law = joint(beams, rows)
        count = drafted_beams(self.params)
        drawn = [chance.drafted(law, depth, slot) for slot in range(count)]
        return law, drawn, self._merged(beams, rows, drawn)

    def pairs(
        self,
        beams: Sequence[Beam],
        rows: torch.Tensor,
        drafted: DraftedLayer | None,
        where: Sequence[int],
        depth: int,
        chance: Chance,
    ) -> list[Pair]:
        law = joint(beams, rows)
        q, slots = (torch.zeros_like(law), []) if drafted is None else _aligned(drafted, where, rows.shape[1])
        test = LayerTest(law, q)
        width = self._width(test, len(slots), len(beams[0].tokens) + 1)
        kept, passed = keep(test, slots, width, chance, depth)
        if slots:
            self.seen.kept.append(sum(passed))
            self.seen.tested.append(len(passed))
        return self._merged(beams, rows, kept)

    def _width(self, test: LayerTest, drafted: int, length: int) -> int:
        """How many beams the layer keeps: by its joint laws alone. length  of its beams."""
        most = self.params.num_beams
        if self.params.width == "full" or not drafted or length == self.last:
            return most
        law = test.acceptances(drafted, most)
        self.seen.predicted.append(law)
        likely = reached(law, self.params.threshold) if self.params.width == "threshold" else expected(law)
        return max(self.params.least_beams, likely)

    @staticmethod
    def _merged(beams: Sequence[Beam], rows: torch.Tensor, drawn: Sequence[int]) -> list[Pair]:
        """Drawn entries as beams; one that was drawn again counts twice."""
        counts: dict[int, int] = {}
        for entry in drawn:
            counts[entry] = counts.get(entry, 0) + 1
        found = []
        for entry, count in counts.items():
            above, token = divmod(entry, rows.shape[1])
            score = beams[above].score + math.log(float(rows[above, token]))
            found.append(Pair(above, token, Beam((*beams[above].tokens, token), score, count)))
        return found


class Searched(Choice):
    """The best pairs by the sum of log-probabilities, in transformers' arithmetic: float32, processors after the softmax."""

    def __init__(self, params: BeamParams, warper: Warper, ends: int) -> None:
        super().__init__(params, warper)
        self._candidates = candidates(params.num_beams, ends)

    def rows(self, logits: torch.Tensor, prefixes: Prefixes) -> torch.Tensor:
        if self.params.num_beams == 1:  # in transformers that is greedy decoding, whose processors read logits
            return torch.log_softmax(self.warper.scores(logits, prefixes), dim=-1)
        return self.warper.scores(torch.log_softmax(logits.float(), dim=-1), prefixes)

    def draft(
        self, beams: Sequence[Beam], rows: torch.Tensor, depth: int, chance: Chance
    ) -> tuple[torch.Tensor, list[int], list[Pair]]:
        scores = self._scores(beams, rows)
        best = self._best(beams, rows, scores, drafted_beams(self.params))
        return scores, [pair.above * rows.shape[1] + pair.token for pair in best], best

    def pairs(
        self,
        beams: Sequence[Beam],
        rows: torch.Tensor,
        drafted: DraftedLayer | None,
        where: Sequence[int],
        depth: int,
        chance: Chance,
    ) -> list[Pair]:
        self.warper.refuse_impossible(rows.amax(dim=1))
        return self._best(beams, rows, self._scores(beams, rows), self._candidates)

    @staticmethod
    def _scores(beams: Sequence[Beam], rows: torch.Tensor) -> torch.Tensor:
        above = torch.tensor([beam.score for beam in beams], dtype=rows.dtype, device=rows.device)
        return (rows + above[:, None]).flatten()

    @staticmethod
    def _best(beams: Sequence[Beam], rows: torch.Tensor, scores: torch.Tensor, count: int) -> list[Pair]:
        best = scores.topk(min(count, len(scores)))
        found = []
        for entry, score in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            above, token = divmod(entry, rows.shape[1])
            found.append(Pair(above, token, Beam((*beams[above].tokens, token), score)))
        return found


def joint(beams: Sequence[Beam], rows: torch.Tensor) -> torch.Tensor:
    """f64[B * V], the joint law over (beam, token): every beam's weight times its law, f64[B, V]."""
    scores = torch.tensor([beam.score for beam in beams], dtype=torch.float64)
    weights = torch.exp(scores - scores.max()) * torch.tensor([beam.count for beam in beams], dtype=torch.float64)
    return ((weights / weights.sum()).to(rows.device)[:, None] * rows).flatten()


def _aligned(drafted: DraftedLayer, where: Sequence[int], vocab: int) -> tuple[torch.Tensor, list[int]]:
    """The drafter's law over the pairs of the beams at these places, and the drafted pairs among those."""
    number = {place: i for i, place in enumerate(where)}
    rows = drafted.law.view(-1, vocab)
    q = rows.new_zeros(len(where), vocab)
    for row, place in enumerate(drafted.places):
        if place in number:
            q[number[place]] = rows[row]
    above = [number.get(place) for place in drafted.places]
    found = []
    for entry in drafted.pairs:
        row, token = divmod(entry, vocab)
        alive = above[row]
        found.append(NOWHERE if alive is None else alive * vocab + token)
    return q.flatten(), found


def drafted_beams(params: BeamParams) -> int:
    """Pairs that are drafted per layer: half as many again as there are beams, unless a number was asked for."""
    return params.draft_beams or params.num_beams + params.num_beams // 2


def candidates(num_beams: int, ends: int) -> int:
    """Pairs of which `num_beams` go on for certain, where `ends` tokens end a beam; as many as transformers looks at."""
    return max(2, 1 + ends) * num_beams
