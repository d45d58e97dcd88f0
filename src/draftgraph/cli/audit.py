"""draftgraph audit: is a server lossless?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from draftgraph.cli import options
from draftgraph.cli.program import INTERRUPTED, app, tell
from draftgraph.errors import DraftgraphError

WAYS, ASKING = "With drafts, and without", "How to ask"
CODES = {"holds": 0, "biased": 1, "untested": 2}


@app.command("audit")
def audit_command(
    url: Annotated[str | None, typer.Argument(help="The server, e.g. http://127.0.0.1:8000/v1.")] = None,
    off: Annotated[
        str | None,
        typer.Option(help="JSON: fields that switch drafts off, e.g. '{\"budget\": 0}'.", rich_help_panel=WAYS),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A server of the same model that does not draft.", rich_help_panel=WAYS)
    ] = None,
    on: Annotated[str | None, typer.Option(help="JSON: fields that switch drafts on.", rich_help_panel=WAYS)] = None,
    body: Annotated[str | None, typer.Option(help="JSON: fields of every request.", rich_help_panel=ASKING)] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Its name; the first that the server lists without.", rich_help_panel=ASKING),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="DRAFTGRAPH_API_KEY", show_envvar=True, help="Its key.", rich_help_panel=ASKING)
    ] = None,
    against_api_key: Annotated[
        str | None,
        typer.Option(
            envvar="DRAFTGRAPH_AGAINST_API_KEY", show_envvar=True, help="The key of --against.", rich_help_panel=ASKING
        ),
    ] = None,
    endpoint: Annotated[str, typer.Option(help="auto, completions or chat.", rich_help_panel=ASKING)] = "auto",
    logprobs: Annotated[
        str,
        typer.Option(
            help="auto; tokens: they show tokens, and are no yardstick; never: texts alone.", rich_help_panel=ASKING
        ),
    ] = "auto",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time.", rich_help_panel=ASKING)] = 8,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds per request.", rich_help_panel=ASKING)] = 120.0,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="May be repeated.", rich_help_panel=options.TEXTS)
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Texts per prompt and way.", rich_help_panel=options.TEXTS)] = 400,
    tokens: Annotated[
        int, typer.Option(min=1, max=64, help="Tokens per sampled text.", rich_help_panel=options.TEXTS)
    ] = 4,
    greedy_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens per greedy text; 0 leaves it out.", rich_help_panel=options.TEXTS)
    ] = 48,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 compares greedy texts alone.", rich_help_panel=options.SAMPLING)
    ] = 1.0,
    alpha: Annotated[float, typer.Option(help="How often an honest server may be called biased.")] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="Repeats an audit.")] = 0,
    keep: Annotated[
        Path | None, typer.Option(help="Keep answers in this file; an audit that was stopped goes on from it.")
    ] = None,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Plant mistakes into the answers; without a URL into made-up ones.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Audit a server that speaks OpenAI's API: are its answers with drafts distributed as without?

    Exit code 0 if no difference was found, 1 if one was, 2 if it could not be tested. See docs/audit.md.
    """
    from draftgraph.cli.work.audit import Written, run_audit, run_self_check

    try:
        written = Written(
            url=url, off=off, against=against, on=on, body=body, model=model, keys=(api_key, against_api_key),
            endpoint=endpoint, logprobs=logprobs, concurrency=concurrency, timeout=timeout, prompts=tuple(prompts or ()),
            samples=samples, tokens=tokens, greedy_tokens=greedy_tokens, temperature=temperature, alpha=alpha, seed=seed,
            keep=keep, self_check=self_check,
        )  # fmt: skip
        if url is None:
            raise typer.Exit(0 if run_self_check(written, as_json) else 1)
        verdict, interrupted = run_audit(written, as_json)
    except DraftgraphError as error:
        tell(f"error: {error}")
        raise typer.Exit(CODES["untested"]) from None
    raise typer.Exit(INTERRUPTED if interrupted else CODES[verdict])
