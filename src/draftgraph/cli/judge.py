"""draftgraph judge: which of a drafter's mismatches matter, and a head that tells them apart, for the lossy rule "judge"."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import app
from draftgraph.errors import OptionError

judge = typer.Typer(help="Learn which mismatches of a drafter matter, for --rule judge (not lossless).")
app.add_typer(judge, name="judge")


@judge.command()
def mine(
    target: Annotated[str, typer.Argument(help="Target: a folder or hub name.")],
    drafter: Annotated[str, typer.Argument(help="Draft model with the target's tokenizer.")],
    prompts: Annotated[
        Path, typer.Option("--prompts", help="A .jsonl with prompt and answer, or a .txt with a prompt a line.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the findings, which `draftgraph judge fit` takes.")],
    check: Annotated[
        str,
        typer.Option("--check", help="last-number (as GSM8K), or module:function, check(reference, answer) -> bool."),
    ] = "last-number",
    most: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens of one answer.")] = 256,
    batch: Annotated[int, typer.Option("--batch", min=1, max=256, help="Questions that are asked at once.")] = 16,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.Json = False,
) -> None:
    """Find which of a drafter's tokens make the target's answers wrong.

    Run the same command again to go on after an interruption: what is found is kept in OUT.
    """
    if backend not in ("auto", "torch") or weights is not None:
        named = f"--backend {backend}" if weights is None else f"--weights {weights}"
        raise OptionError(f"{named} is not possible here: mining reads hidden states, which torch gives; leave it out")
    from draftgraph.cli.work.judge import run_mine

    chosen = options.Chosen((target, drafter), dtype, device, threads, trust_remote_code, "torch")
    run_mine(chosen, prompts, out, check, most, batch, as_json)


@judge.command()
def fit(
    mined: Annotated[Path, typer.Argument(help="Folder of `draftgraph judge mine`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the judge, which judge=FOLDER takes.")],
    seed: Annotated[int, typer.Option("--seed", help="Of which questions are held out.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Fit the head that says which mismatches matter, and say how well it does on held-out questions."""
    from draftgraph.cli.work.judge import run_fit

    run_fit(mined, out, seed, as_json)
