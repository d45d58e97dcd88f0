"""Trains the bundled pair: a one-layer drafter and a twelve-layer target grown from it.

A ten-million-parameter model trained from scratch for an hour on one core stays worse than a one-layer model, and a
pair whose target is worse than its drafter shows nothing. So the layers are appended to the trained drafter in a way
that leaves its function unchanged, and the grown model is trained on: the target starts where the drafter ended. The
drafter is then distilled from the finished target.

    python -m draftgraph.lab.train.pair --out DIR --minutes 50

Every stage writes checkpoints; the same command run again goes on from the last one. They are kept beside DIR, not in
it, because what is in DIR can be shipped: for a DIR named `pair` in `.pair-checkpoints`.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from transformers import LlamaForCausalLM

from draftgraph.lab.train.corpus import prepare_text
from draftgraph.lab.train.errors import PairTrainingError
from draftgraph.lab.train.export import export_pair
from draftgraph.lab.train.grow import grow, model_config
from draftgraph.lab.train.loop import Run, StageRun
from draftgraph.lab.train.losses import distillation_loss, forward_of, next_token_loss
from draftgraph.lab.train.progress import progress_bar, reporter
from draftgraph.lab.train.recipe import Shape, Stage, distil_stage, standard_stages


def main(
    out: Annotated[Path, typer.Option(help="Folder for the two models.")],
    minutes: Annotated[float, typer.Option(min=0.1, help="Wall-clock minutes for all stages together.")] = 50.0,
    threads: Annotated[int, typer.Option(min=1, help="Threads for the arithmetic.")] = 1,
    source: Annotated[Path | None, typer.Option(help="Folder of Python files [standard library].")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile (a third faster; needs C++).")] = False,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder to go on from [beside --out].")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and of the order of the text.")] = 0,
) -> None:
    """Train the bundled pair; run again with the same --out to go on after an interruption."""
    torch.set_num_threads(threads)
    console = Console()
    shape = Shape()
    checkpoints = checkpoints or beside(out)
    for folder in (out, checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        text = prepare_text(source or Path(sysconfig.get_path("stdlib")), checkpoints, shape.vocab)
        run = Run(checkpoints, minutes, text.train, compiled, seed)
        console.print(f"{text.train.numel():,} tokens to train on, {text.held_out.numel():,} held out")
        with progress_bar(console) as bar:
            target, drafters = train_pair(run, shape, standard_stages(shape), distil_stage(shape), reporter(bar))
        for report in export_pair(target, drafters, text, out):
            console.print(asdict(report))
    except PairTrainingError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error


def beside(out: Path) -> Path:
    """Where the checkpoints are if no folder is named: hidden, and one for every `out`."""
    out = out.resolve()
    return out.with_name(f".{out.name}-checkpoints")


def train_pair(
    run: Run,
    shape: Shape,
    stages: list[Stage],
    distil: Stage,
    report: Callable[[StageRun, float], None],
) -> tuple[LlamaForCausalLM, list[LlamaForCausalLM]]:
    """The target, and the drafter before and after it was distilled from that target."""
    torch.manual_seed(run.seed)
    model = LlamaForCausalLM(model_config(shape, stages[0].layers))
    trained = []
    for stage in stages:
        model = StageRun(run, stage, grow(model, shape, stage.layers), next_token_loss).train(report)
        trained.append(model)
    target, drafter = trained[-1].eval(), trained[0]
    objective = distillation_loss(forward_of(target, run.compiled))
    distilled = StageRun(run, distil, deepcopy(drafter), objective).train(report)
    return target, [drafter.eval(), distilled.eval()]


if __name__ == "__main__":
    typer.run(main)
