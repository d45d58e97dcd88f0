"""Judges for tiny models: a head with random weights, which forgives about half of all mismatches at a threshold of a half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from draftgraph.backends.judge_files import packed
from draftgraph.engine.assemble import make_backend
from draftgraph.lab.judge.states import states_of
from draftgraph.verification.published.judge import JudgeHead

PROBE = (1, 5, 2, 7, 3, 0)


def head_for(model: Any, seed: int = 0, gain: float = 1.0) -> JudgeHead:
    """A head for a target, with random weights."""
    config = model.config.get_text_config(decoder=True)
    tap, width = f"hidden:{config.num_hidden_layers}", config.hidden_size
    known = states_of(make_backend(model), tap, PROBE)
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(2 * width, generator=random, dtype=torch.float64) * gain / (2 * width) ** 0.5
    mean, scale = known.mean(dim=0).double().repeat(2), known.std(dim=0).double().repeat(2)
    return JudgeHead(tap, weight, 0.1, mean, scale, PROBE, known)


def save_head(folder: Path, head: JudgeHead, threshold: float = 0.5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in packed(head, threshold, {"seed": 0}).items():
        (folder / name).write_bytes(content)
    return folder
