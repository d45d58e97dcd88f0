"""One stage of training: optimizers, learning rates, steps until the time is up, and checkpoints to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from draftgraph.lab.train.losses import Forward, Objective, forward_of
from draftgraph.lab.train.recipe import Stage
from draftgraph.lab.train.windows import Windows

CHECKPOINT_SECONDS = 90.0


@dataclass(frozen=True)
class Run:
    """What every stage needs besides its own numbers."""

    checkpoints: Path
    minutes: float
    train: Tensor
    compiled: bool
    seed: int
    max_steps: int | None = None


def rate_factor(progress: float, warmup: float, cooldown: float) -> float:
    """The trapezoid: up over `warmup`, flat, down to zero over `cooldown`; all are fractions of the stage."""
    rise = min(1.0, (progress + 1e-3) / warmup)
    fall = min(1.0, (1.0 - progress) / cooldown) if cooldown else 1.0
    return max(0.0, min(rise, fall))


def make_optimizers(model: LlamaForCausalLM, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, where it needs far fewer tokens than AdamW; AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices,
            lr=stage.muon_rate,
            weight_decay=0.05,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(rest, lr=stage.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@dataclass
class Position:
    """How far a stage has come; stored in its checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    finished: bool = False


class StageRun:
    """One stage being trained: the model, its optimizers and how far it has come."""

    def __init__(self, run: Run, stage: Stage, model: LlamaForCausalLM, objective: Objective) -> None:
        self.run, self.stage, self.model, self.objective = run, stage, model, objective
        self.optimizers = make_optimizers(model, stage)
        self.position = Position()
        self.seconds = run.minutes * 60.0 * stage.share
        self._load()

    @property
    def path(self) -> Path:
        return self.run.checkpoints / f"{self.stage.name}.pt"

    def _load(self) -> None:
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.position = Position(**state["position"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def save(self) -> None:
        """Written beside the old checkpoint and then moved over it, so that a crash leaves one of the two whole."""
        fresh = self.path.with_suffix(".new")
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "position": asdict(self.position),
        }
        torch.save(state, fresh)
        fresh.replace(self.path)

    @property
    def progress(self) -> float:
        """0 to 1: by steps when they are limited, else by time."""
        if self.run.max_steps is not None:
            return self.position.step / self.run.max_steps
        return self.position.seconds / self.seconds

    def train(self, report: Callable[[StageRun, float], None]) -> LlamaForCausalLM:
        """Trains until the stage's time is used up, with a checkpoint now and then."""
        forward = forward_of(self.model, self.run.compiled)
        # The seed moves with the step, so that a run that goes on after a crash does not see the same windows again.
        batches = Windows(self.run.train, self.run.seed + self.position.step)
        saved = time.monotonic()
        started = saved - self.position.seconds
        while not self.position.finished:
            loss = self._step(forward, batches)
            self.position.seconds = time.monotonic() - started
            self.position.finished = self.progress >= 1.0
            report(self, loss)
            if self.position.finished or time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
        return self.model

    def _step(self, forward: Forward, batches: Windows) -> float:
        progress = self.progress
        factor = rate_factor(progress, self.stage.warmup, self.stage.cooldown)
        for optimizer, rate in zip(self.optimizers, (self.stage.muon_rate, self.stage.adam_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        length = self.stage.long_context if progress >= self.stage.long_from else self.stage.context
        batch = batches.take(max(1, self.stage.tokens_per_step // length), length)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.objective(forward, batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.position.step += 1
        self.position.tokens += batch.numel()
        return loss.item()
