"""What a drafter will be worth, measured on held-out answers: acceptance by position, predicted tokens per call.

A chain that is drawn from q and verified token by token keeps the text x₁ … x_j with probability Π min(p, q)(x_i), so that

    P(j tokens are kept) = E_{x ~ p} Π_{i ≤ j} min(1, q_i(x_i) / p_i(x_i)),

and a held-out answer is such an x. At temperature 0 both laws are points: the factors say whether the tokens agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from transformers import PreTrainedModel

from draftgraph.backends.features import TrainedNetwork, part_of_head
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.batches import Batch, grouped, make_batch
from draftgraph.lab.train.features.reading import LiveReading, Reading
from draftgraph.lab.train.features.unroll import entries_of, steps_of

DEPTH = 5
"""Positions that are measured."""
PREDICTED = 3
"""Depth of the chain that one figure stands for."""


@dataclass(frozen=True)
class Acceptance:
    """kept  by depth j, the probability that the first j drafted tokens are kept. rows  tokens that it was measured on."""

    kept: tuple[float, ...]
    rows: int

    @property
    def by_position(self) -> list[float]:
        """Acceptance at position j, given that those before it were accepted."""
        return [now / before if before else 0.0 for before, now in zip((1.0, *self.kept), self.kept, strict=False)]

    @property
    def tokens_per_call(self) -> list[float]:
        """Tokens per target call of chains of 1, 2, … tokens, drafted at every position."""
        return list(accumulate(self.kept, initial=1.0))[1:]

    @property
    def predicted(self) -> float:
        """Tokens per target call of a chain of `PREDICTED`."""
        return self.tokens_per_call[PREDICTED - 1]

    def to_dict(self) -> dict[str, Any]:
        rounded = {"by_position": self.by_position, "tokens_per_call": self.tokens_per_call}
        return {name: [round(value, 4) for value in values] for name, values in rounded.items()} | {"rows": self.rows}


@torch.no_grad()
def acceptance(
    net: TrainedNetwork,
    target: PreTrainedModel,
    tokens: torch.Tensor,
    answers: Sequence[Answer],
    rows: int,
    depth: int = DEPTH,
) -> dict[str, Acceptance]:
    """Acceptance on greedy and on sampled answers, where there are any.

    tokens  i64[K] of the head. rows  padded rows per pass.
    """
    reading = LiveReading(target, part_of_head(target.get_output_embeddings(), tokens), net.shape.taps)
    entries = entries_of(tokens, target.get_output_embeddings().weight.shape[0])
    return HeldOut(reading, answers, entries, rows).acceptance(net, depth)


@dataclass
class HeldOut:
    """Answers that are measured again and again, of which the target's own laws are asked once.

    entries  i64[V] of the head by token, -1 for none. rows  padded rows per pass.
    """

    reading: Reading
    answers: Sequence[Answer]
    entries: torch.Tensor
    rows: int
    chances: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def acceptance(self, net: TrainedNetwork, depth: int = DEPTH) -> dict[str, Acceptance]:
        """Acceptance on greedy and on sampled answers, where there are any."""
        measured = {}
        for name, warm in (("greedy", False), ("sampled", True)):
            groups = grouped([answer for answer in self.answers if (answer.temperature > 0) is warm], self.rows)
            if name not in self.chances:
                self.chances[name] = [self.reading.chances(group, self._batch(group)) for group in groups]
            kept, count = torch.zeros(depth, device=self.entries.device, dtype=torch.float64), 0
            for group, chances in zip(groups, self.chances[name], strict=True):
                kept_here, count_here = self._kept(net, group, chances, depth)
                kept, count = kept + kept_here, count + count_here
            if count:
                measured[name] = Acceptance(tuple((kept / count).tolist()), count)
        return measured

    def _batch(self, group: Sequence[Answer]) -> Batch:
        return make_batch(group, self.entries.device)

    def _kept(
        self, net: TrainedNetwork, group: Sequence[Answer], chances: torch.Tensor, depth: int
    ) -> tuple[torch.Tensor, int]:
        """Summed over roots that have `depth` tokens behind them: P(j tokens are kept), f64[depth]; and how many roots."""
        batch = self._batch(group)
        roots = batch.rows(depth - 1)
        if not len(roots):
            return torch.zeros(depth, device=self.entries.device, dtype=torch.float64), 0
        read = self.reading.read(group, batch)
        temperatures = batch.temperatures[roots // batch.tokens.shape[1]][:, None]
        chance = torch.ones(len(roots), device=self.entries.device)
        kept = []
        for step, output in enumerate(steps_of(net, read, batch.tokens, depth, wanted=batch.learnt)):
            following = self.entries[batch.tokens.flatten()[roots + step + 1]]
            q = net.logits(output.flatten(0, 1)[roots]).float()
            chance = chance * _factor(chances[roots + step], q, following, temperatures)
            kept.append(chance.double().sum())
        beyond = [torch.zeros_like(kept[0])] * (depth - len(kept))  # of which the drafter does not speak
        return torch.stack([*kept, *beyond]), len(chance)


def _factor(log_p: torch.Tensor, q: torch.Tensor, entry: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    """min(1, q(x) / p(x)) f[n]; log p(x) f[n], logits q f[n, K], `entry` is the number of x in q or -1."""
    if float(temperatures.max()) == 0:
        return (q.argmax(-1) == entry).float()
    log_q = (q / temperatures).log_softmax(-1).gather(1, entry.clamp(min=0)[:, None])[:, 0]
    return torch.where(entry >= 0, (log_q - log_p).clamp(max=0.0).exp(), 0.0)
