"""Batches of answers of similar length, in an order that a seed gives, so that a run can go on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from draftgraph.lab.train.features.answers import Answer


@dataclass(frozen=True)
class Batch:
    """tokens   i64[b, T], padded on the right with the token 0.
    learnt   bool[b, T] on the CPU: rows whose law is learnt, those that a drafter is asked for: after an answer's first token,
             up to its last but one.
    temperatures  f32[b].
    """

    tokens: torch.Tensor
    learnt: torch.Tensor
    temperatures: torch.Tensor

    def rows(self, last: int) -> torch.Tensor:
        """i64[n] numbers b · T + t of rows t that are learnt, as are those up to t + last."""
        behind = self.learnt[:, last:]
        both = torch.nn.functional.pad(self.learnt[:, : behind.shape[1]] & behind, (0, last))
        return moved(both.flatten().nonzero()[:, 0], self.tokens.device)


def make_batch(answers: Sequence[Answer], device: torch.device, multiple: int = 16) -> Batch:
    """The answers as one batch; T is a multiple of `multiple`."""
    longest = max(len(answer.ids) for answer in answers)
    length = -(-longest // multiple) * multiple
    tokens = np.zeros((len(answers), length), dtype=np.int64)
    learnt = np.zeros((len(answers), length), dtype=bool)
    for row, answer in enumerate(answers):
        tokens[row, : len(answer.ids)] = answer.ids
        learnt[row, answer.prompt : len(answer.ids) - 1] = True
    temperatures = torch.tensor([answer.temperature for answer in answers])
    return Batch(moved(torch.from_numpy(tokens), device), torch.from_numpy(learnt), moved(temperatures, device))


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device, without waiting for what the device does."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def grouped(answers: Sequence[Answer], rows: int) -> list[list[Answer]]:
    """Groups of answers of similar length, of at most `rows` padded rows each (one answer at least)."""
    groups: list[list[Answer]] = []
    for answer in sorted(answers, key=lambda each: len(each.ids), reverse=True):
        if groups and (len(groups[-1]) + 1) * len(groups[-1][0].ids) <= rows:
            groups[-1].append(answer)
        else:
            groups.append([answer])
    return groups


def endless(answers: Sequence[Answer], rows: int, seed: int, start: int = 0) -> Iterator[list[Answer]]:
    """Groups of answers without end: every epoch in its own order. start  groups that an earlier run has seen."""
    number = 0
    epoch = 0
    while True:
        random = np.random.default_rng((seed, epoch))
        shuffled = [answers[i] for i in random.permutation(len(answers))]
        groups = grouped(shuffled, rows)  # a stable sort: answers of one length meet others in every epoch
        for i in random.permutation(len(groups)):
            if number >= start:
                yield groups[i]
            number += 1
        epoch += 1
