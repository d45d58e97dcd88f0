"""draftgraph train: a drafter for a target, from the target's own answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import app
from draftgraph.data import SMOLLM2, smollm2_drafter
from draftgraph.errors import ModelError, OptionError
from draftgraph.lab.train.features.names import BLOCKS, EXIT, NAMES, SLOTS, SPECDIFF

LEARNT, SHAPE = "What is learnt", "Networks of papers"
TOKENS_PER_PROMPT = 128
"""Tokens of new answers for which a prompt is written, if nobody says."""


@app.command()
def train(
    target: Annotated[str, typer.Argument(help="Target: a folder, .gguf file, hub name or smollm2.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the drafter, which draft_model=FOLDER takes.")],
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompts",
            help="A .jsonl with prompt or turns, a .txt with a prompt a line, or a folder of text.",
            rich_help_panel=LEARNT,
        ),
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(
            "--answers",
            help="Answers that are there already: gzipped JSON lines with p, a and t.",
            rich_help_panel=LEARNT,
        ),
    ] = None,
    own_prompts: Annotated[
        int | None,
        typer.Option(
            "--own-prompts",
            min=1,
            help="Prompts that the target writes itself, beside those of --prompts. Without prompts and answers: one per "
            f"{TOKENS_PER_PROMPT} of --tokens.",
            rich_help_panel=LEARNT,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            help="A drafter for this target to go on from: its folder, or smollm2. Fewer answers are enough then.",
            rich_help_panel=LEARNT,
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="Tokens of new answers.", rich_help_panel=LEARNT)
    ] = 500_000,
    most: Annotated[
        int, typer.Option("--max-new-tokens", min=4, help="Tokens of one answer.", rich_help_panel=LEARNT)
    ] = 192,
    temperatures: Annotated[
        list[float] | None,
        typer.Option(
            "--temperature",
            min=0.0,
            help="Of new answers, in turn; give it several times. Without it: 0, 0.6, 0.8, 1.",
            rich_help_panel=LEARNT,
        ),
    ] = None,
    head: Annotated[
        int, typer.Option("--head", min=2, help="Tokens that the drafter can say.", rich_help_panel=LEARNT)
    ] = 4096,
    epochs: Annotated[float, typer.Option("--epochs", min=0.0, help="Times through the answers.")] = 6.0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Answers that are decoded at once.")] = 16,
    rows: Annotated[int, typer.Option("--rows", min=16, help="Rows of one update.")] = 1024,
    seed: Annotated[int, typer.Option("--seed", help="Of answers, weights and order.")] = 0,
    network: Annotated[
        str,
        typer.Option(
            "--network",
            help="own: the one that does best; eagle3: one that SGLang and vLLM run as well; of papers: "
            f"{', '.join(NAMES[2:])}.",
        ),
    ] = "own",
    exit_layer: Annotated[
        int | None,
        typer.Option(
            "--exit-layer", min=1, help="Layers of the target that --network exit runs.", rich_help_panel=SHAPE
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            "--slots", min=2, max=256, help="Tokens of a block of specdec or specdiff.", rich_help_panel=SHAPE
        ),
    ] = None,
    passes: Annotated[
        int | None,
        typer.Option("--passes", min=1, max=256, help="Passes that fill a block of specdiff.", rich_help_panel=SHAPE),
    ] = None,
    dtype: options.Dtype = "bfloat16",
    device: options.Device = None,
    threads: options.Threads = None,
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.Json = False,
) -> None:
    """Train a drafter that reads the target's hidden states, on the target's own answers.

    Run the same command again to go on after an interruption: what is done is kept beside OUT.
    """
    if backend not in ("auto", "torch") or weights is not None:
        named = f"--backend {backend}" if weights is None else f"--weights {weights}"
        raise OptionError(
            f"{named} is not possible here: training reads hidden states and embeddings of the stored weights, which torch "
            "gives; leave it out"
        )
    if network not in NAMES:
        raise OptionError(f"--network {network!r} is not possible; write one of {', '.join(NAMES)}")
    _refuse_unused(network, {"--exit-layer": exit_layer, "--slots": slots, "--passes": passes})
    if passes is not None and passes > (slots or SLOTS):
        raise OptionError(
            f"--passes {passes} fill {slots or SLOTS} slots, one each at least; write fewer passes or more --slots"
        )
    from draftgraph.cli.work.train import run
    from draftgraph.lab.train.features.project import Settings

    chosen = options.Chosen(
        (options.sources(target, None)[0], None), dtype, device, threads, trust_remote_code, backend, weights
    )
    if own_prompts is None and not prompts and not answers:
        own_prompts = -(-tokens // TOKENS_PER_PROMPT)
    settings = Settings(
        tokens if prompts or own_prompts else 0,
        most,
        batch,
        head,
        rows,
        epochs,
        seed,
        network,
        exit_layer,
        slots,
        passes,
        tuple(temperatures) if temperatures else None,
        own_prompts,
        _found(start),
    )
    run(chosen, out, prompts or [], answers or [], settings, as_json)


def _found(start: str | None) -> str | None:
    """The folder of a drafter to go on from. Raises ModelError where the one that ships is not there."""
    if start != SMOLLM2 or Path(start).exists():
        return start
    folder = smollm2_drafter()
    if folder is None:
        raise ModelError(f"--start {SMOLLM2}: this installation has no drafter for it; leave it out, or name a folder")
    return str(folder)


TAKERS = {"--exit-layer": (EXIT,), "--slots": BLOCKS, "--passes": (SPECDIFF,)}
"""Networks that an option is for."""


def _refuse_unused(network: str, given: Mapping[str, int | None]) -> None:
    """Raise OptionError for an option of another network."""
    for name, value in given.items():
        if value is not None and network not in TAKERS[name]:
            raise OptionError(
                f"{name} {value} is for --network {' or '.join(TAKERS[name])}, and {network} was asked for; leave it out"
            )
