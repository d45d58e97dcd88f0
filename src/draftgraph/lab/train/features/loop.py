"""Training a feature drafter: stages of updates, measured on held-out answers, with checkpoints to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from draftgraph.backends.features import TrainedNetwork, parameters_of, part_of_head
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.batches import endless, make_batch
from draftgraph.lab.train.features.measure import Acceptance, HeldOut
from draftgraph.lab.train.features.objective import loss
from draftgraph.lab.train.features.reading import LiveReading, Reading
from draftgraph.lab.train.features.recipe import Recipe, Span, Stage
from draftgraph.lab.train.features.unroll import entries_of
from draftgraph.lab.train.whole_files import read_state, write_state

CHECKPOINT_SECONDS = 45.0
BEFORE = "before"
"""What stands for a stage where weights are measured that are there before the first one."""
MEASURED_ROWS = 4096
"""Padded rows per pass while the drafter is measured: their laws are over the whole vocabulary."""


@dataclass
class Position:
    """How far training has come.

    stage    number of the stage that is trained; updates, seconds  in it.
    batches  that were taken in all stages.
    best     score of the best weights of the stage; waited  measurements since.
    measured  how many parts of the whole training had passed at the last measurement.
    spent    seconds in the stages before this one.
    """

    stage: int = 0
    updates: int = 0
    seconds: float = 0.0
    batches: int = 0
    best: float = 0.0
    waited: int = 0
    measured: int = 0
    spent: float = 0.0


@dataclass
class Training:
    """What is trained, on what, and how far it has come.

    tokens    i64[K] of the head, on the target's device.
    report    told after every update: training, loss.
    history   one entry per measurement.
    reading   how the target is read; None: anew for every update.
    trained_before  whether the weights are worth measuring, and keeping, as they are before the first update.
    """

    net: TrainedNetwork
    target: PreTrainedModel
    tokens: torch.Tensor
    train: Sequence[Answer]
    held_out: Sequence[Answer]
    recipe: Recipe
    span: Span
    checkpoint: Path
    report: Callable[[Training, torch.Tensor], None] = lambda training, loss: None
    position: Position = field(default_factory=Position)
    history: list[dict[str, Any]] = field(default_factory=list)
    reading: Reading | None = None
    trained_before: bool = False

    def __post_init__(self) -> None:
        whole = self.target.get_output_embeddings()
        self.entries = entries_of(self.tokens, whole.weight.shape[0])
        self.read = self.reading or LiveReading(self.target, part_of_head(whole, self.tokens), self.net.shape.taps)
        self.measured = HeldOut(self.read, self.held_out, self.entries, MEASURED_ROWS)
        self.trained = dict(parameters_of(self.net))
        decayed = [weight for weight in self.trained.values() if weight.ndim >= 2]
        others = [weight for weight in self.trained.values() if weight.ndim < 2]
        groups = [{"params": decayed, "weight_decay": self.recipe.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=self.recipe.peak, betas=(0.9, 0.95), fused=self.tokens.device.type == "cuda"
        )
        self.best = self._copied()
        self._load()

    @property
    def stage(self) -> Stage:
        return self.recipe.stages[self.position.stage]

    @property
    def stage_progress(self) -> float:
        return self.span.progress(self.stage.share, self.position.seconds, self.position.updates)

    @property
    def progress(self) -> float:
        """Of all stages, 0 to 1."""
        before = sum(stage.share for stage in self.recipe.stages[: self.position.stage])
        return before + self.stage.share * min(1.0, self.stage_progress)

    def run(self) -> None:
        """Train what is left of the stages; the net has the best weights of the last one then."""
        if self.position.stage < len(self.recipe.stages):
            self.read.fill()
        if self.trained_before and not self.history:
            self.history.append(self._measurement(BEFORE))
            self.position.best = self.history[-1]["score"]  # weights that learn nothing better stay as they were
        while self.position.stage < len(self.recipe.stages):
            self._run_stage()
            self._set(self.best)
            self.position.stage += 1
            self.position.spent += self.position.seconds
            self.position.updates, self.position.seconds = 0, 0.0
            self.position.best, self.position.waited = 0.0, 0
            self.save()

    @property
    def _narrow(self) -> torch.autocast:
        """Products in bf16. Left after every use: until then it keeps the weights as they were at the first."""
        return torch.autocast(self.tokens.device.type, dtype=torch.bfloat16)

    def _run_stage(self) -> None:
        groups = endless(self.train, self.recipe.rows, self.recipe.seed, self.position.batches)
        saved = time.monotonic()
        began = saved - self.position.seconds
        while self.stage_progress < 1.0 and self.position.waited < self.recipe.patience:
            self.report(self, self._update(groups))
            now = time.monotonic()
            self.position.seconds = now - began
            parts = int(self.progress * self.recipe.measured)
            if parts > self.position.measured or self.stage_progress >= 1.0:
                self.position.measured = parts
                self._measure()
            if now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()

    def _update(self, groups: Iterator[list[Answer]]) -> torch.Tensor:
        """One update. Returns the loss, which nobody has waited for."""
        self.net.train()
        updates = self.position.updates if self.position.stage == 0 else self.recipe.warmup
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.progress, updates)
        answers = next(groups)
        batch = make_batch(answers, self.tokens.device)
        with self._narrow:
            read = self.read.read(answers, batch)
            value = loss(self.net, read, batch, self.stage.steps, self.recipe.objective, self.entries)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trained.values(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.position.updates += 1
        self.position.batches += 1
        return value.detach()

    def _measure(self) -> None:
        """Measure on held-out answers, and keep the weights if they are the best of the stage."""
        self.history.append(self._measurement(self.stage.name))
        score = self.history[-1]["score"]
        if score > self.position.best:
            self.position.best, self.position.waited, self.best = score, 0, self._copied()
        else:
            self.position.waited += 1

    def _measurement(self, name: str) -> dict[str, Any]:
        """What the weights do on held-out answers."""
        self.net.eval()
        with self._narrow:
            found = self.measured.acceptance(self.net, max(3, self.stage.steps))
        reached = {"updates": self.position.updates, "batches": self.position.batches, "score": self._score(found)}
        return {"stage": name} | reached | {name: each.to_dict() for name, each in found.items()}

    def _score(self, found: dict[str, Acceptance]) -> float:
        """Mean tokens per call of a chain as long as the stage trains."""
        each = [one.tokens_per_call[self.stage.steps - 1] for one in found.values()]
        return sum(each) / max(1, len(each))

    def _copied(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self.trained.items()}

    @torch.no_grad()
    def _set(self, weights: dict[str, torch.Tensor]) -> None:
        for name, weight in self.trained.items():
            weight.copy_(weights[name])

    def save(self) -> None:
        """Write the checkpoint, whole or not at all. Raises TrainingError."""
        write_state(
            self.checkpoint,
            {
                "net": self._copied(),
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
                "position": asdict(self.position),
                "history": self.history,
                "tokens": self.tokens,
            },
        )

    def _load(self) -> None:
        state = read_state(self.checkpoint, self.tokens.device)
        if state is not None:
            self._set(state["net"])
            self.best, self.history = state["best"], state["history"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.position = Position(**state["position"])
