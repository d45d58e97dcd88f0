"""A pair, a text and stages so small that a whole training takes a second."""

from __future__ import annotations

from dataclasses import replace

from transformers import LlamaForCausalLM

from draftgraph.lab.train.loop import Run
from draftgraph.lab.train.pair import train_pair
from draftgraph.lab.train.recipe import Shape, Stage, distil_stage, standard_stages

TINY = Shape(vocab=320, hidden=32, intermediate=48, heads=2, drafter_layers=1, middle_layers=2, target_layers=3)
SOURCE = "def read_file(path: str) -> bytes:\n    with open(path, 'rb') as file:\n\treturn file.read()  # ¬ é 語\n"


def trained(run: Run) -> tuple[LlamaForCausalLM, list[LlamaForCausalLM]]:
    """The target and the two drafters of a run through all stages."""
    stages = [_short(stage) for stage in standard_stages(TINY)]
    return train_pair(run, TINY, stages, _short(distil_stage(TINY)), lambda stage, loss: None)


def _short(stage: Stage) -> Stage:
    return replace(stage, tokens_per_step=32, context=16, long_context=32)
