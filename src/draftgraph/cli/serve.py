"""draftgraph serve: a server that speaks OpenAI's API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import app

SERVING, LIMITS = "How to serve", "Limits"


@app.command()
def serve(
    target: Annotated[
        str | None, typer.Argument(help="Target: a folder, .gguf file or hub name; the bundled pair without.")
    ] = None,
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
    budget: options.Budget = "auto",
    num_speculative_tokens: Annotated[
        int | None, typer.Option(help="Depth of the draft.", rich_help_panel=options.DRAFTING)
    ] = None,
    drafter: options.DrafterKind = None,
    table: options.Table = None,
    table_shared: options.TableShared = False,
    bitwise: options.Bitwise = "auto",
    judge: options.Judge = None,
    threshold: options.Threshold = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.", rich_help_panel=SERVING)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", rich_help_panel=SERVING)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="DRAFTGRAPH_API_KEY",
            show_envvar=True,
            help="What clients must send. The variable is safer: arguments are seen by all users of this machine.",
            rich_help_panel=SERVING,
        ),
    ] = None,
    served_model_name: Annotated[
        str | None,
        typer.Option(help="The name that clients ask for; the model's own without.", rich_help_panel=SERVING),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(help="A file with a chat template, for a model that has none.", rich_help_panel=SERVING),
    ] = None,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Write prompts and answers into the log.", rich_help_panel=SERVING)
    ] = False,
    metrics_prefix: Annotated[
        str, typer.Option(help="vllm makes dashboards for vLLM work.", rich_help_panel=SERVING)
    ] = "draftgraph",
    max_requests: Annotated[
        int, typer.Option(help="Requests at a time, running and waiting.", rich_help_panel=LIMITS)
    ] = 256,
    max_batch: Annotated[int, typer.Option(help="Answers that are decoded together.", rich_help_panel=LIMITS)] = 32,
    memory_mib: Annotated[
        int | None,
        typer.Option(help="What all answers may cache; half of the free memory without.", rich_help_panel=LIMITS),
    ] = None,
    max_body_mib: Annotated[int, typer.Option(help="Size of a request in MiB.", rich_help_panel=LIMITS)] = 8,
    request_timeout: Annotated[float, typer.Option(help="Seconds per request.", rich_help_panel=LIMITS)] = 600.0,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that running requests get after SIGTERM.", rich_help_panel=LIMITS)
    ] = 30.0,
) -> None:
    """Serve a model behind OpenAI's API: chat, completions, metrics. Ctrl-C ends it.

    Clients take http://HOST:PORT/v1 as their base URL. See docs/server.md.
    """
    chosen = options.Chosen(
        options.sources(target, None, model, draft_model),
        dtype,
        device,
        threads,
        trust_remote_code,
        backend,
        weights,
        draft_weights,
    )
    from draftgraph.cli.work.serve import Serving, serve_engine

    serving = Serving(
        host=host,
        port=port,
        api_key=api_key,
        name=served_model_name,
        chat_template=chat_template,
        log_prompts=log_prompts,
        metrics_prefix=metrics_prefix,
        max_requests=max_requests,
        max_batch=max_batch,
        memory_mib=memory_mib,
        max_body_mib=max_body_mib,
        request_timeout=request_timeout,
        drain_timeout=drain_timeout,
    )
    drafting = options.Drafting(rule, structure, budget, None, bitwise, judge, threshold)
    more = {"num_speculative_tokens": num_speculative_tokens, "drafter": drafter}
    serve_engine(chosen, drafting, more | {"table": table, "table_shared": table_shared}, serving)
