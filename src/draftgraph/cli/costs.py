"""draftgraph costs: what passes and rounds cost on this machine, the table by which the automatic budget decides."""

from __future__ import annotations

from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import app


@app.command()
def costs(
    target: options.Target = None,
    drafter: options.Drafter = None,
    model: options.Model = None,
    draft_model: options.DraftModel = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    backend: options.Backend = "auto",
    weights: options.Weights = None,
    draft_weights: options.DraftWeights = None,
    trust_remote_code: options.TrustRemoteCode = False,
    rule: options.RuleName = "auto",
    structure: options.Structure = "auto",
    bitwise: options.Bitwise = "auto",
    refresh: Annotated[bool, typer.Option("--refresh", help="Time the models again, whatever is kept.")] = False,
    as_json: options.Json = False,
) -> None:
    """Print what passes and rounds cost here, and time them first if that was not done yet; a few seconds.

    The first request with the automatic budget reads the same table, and need not wait then.
    """
    pair = options.sources(target, drafter, model, draft_model)
    chosen = options.Chosen(pair, dtype, device, threads, trust_remote_code, backend, weights, draft_weights)
    from draftgraph.cli.work.costs import run

    run(chosen, options.Drafting(rule, structure, bitwise=bitwise), refresh, as_json)
