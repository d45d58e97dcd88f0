"""economize: with the pair's drafter, or with prompt lookup, a constant number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from draftgraph.lab.bench.contenders import Task
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers.base import Kind
from draftgraph.lab.turns import Answer, Contender


class Economize:
    """It wraps a model of its own copy, and loads the drafter itself.

    Above temperature 0 its verifier "rejection" is lossless; greedy drafts are compared with the target's argmax.
    """

    def __init__(self, models: Models, paths: Sequence[Path], threads: int, drafted: int) -> None:
        import economize
        from economize.techniques.draft_model import DraftModelConfig
        from economize.techniques.lookup import LookupConfig

        source = models.drafter_source
        technique = LookupConfig() if source is None else DraftModelConfig(model=source, dtype=models.dtype_name)
        base = AutoModelForCausalLM.from_pretrained(models.source, dtype=models.dtype).to(models.target.device).eval()
        self.model = economize.apply(base, technique)
        self.name = "lookup" if source is None else "assisted"
        self.drafted = drafted

    def contenders(self, task: Task) -> list[Contender]:
        plain = _Model("economize plain", self.model, task, 1)
        return [plain, _Model(f"economize {self.name} (constant {self.drafted})", self.model, task, self.drafted + 1)]


class _Model:
    def __init__(self, name: str, model: Any, task: Task, cycle: int) -> None:
        from economize import DecodeConfig

        self.name, self.model, self.task = name, model, task
        sampled = {"verifier": "rejection"} if task.temperature > 0 else {}
        self.config = DecodeConfig(cycle_length=cycle, **sampled)

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        from economize.decoding import TopPSampler

        device = next(self.model.parameters()).device
        ids = torch.tensor(list(prompt), device=device)
        selector = TopPSampler(self.task.temperature, 1.0, seed) if self.task.temperature > 0 else None
        result = self.model.decode(ids, self.task.tokens, decoding=self.config, selector=selector)
        calls = result.cost_summary()["exact_calls"]
        return Answer(result.tokens.tolist(), calls, sum(drafted for drafted, _ in result.acceptance))


KIND = Kind(
    module="economize",
    install="pip install economize",
    convert=None,
    note="economize on the weights of the target's folder, a constant number of drafted tokens, its lossless verifiers",
    load=Economize,
)
