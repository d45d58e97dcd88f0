"""draftgraph prove --target: the proof by Monte Carlo, on models of the user's own. Its options and its body."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.errors import OptionError
from draftgraph.lab.audit.audit import Audit, audit
from draftgraph.lab.audit.report import progress_bar
from draftgraph.view.status import silent_loading, status

BUNDLED_PROMPT = "def "
PANEL = "By Monte Carlo, on a real pair"

Target = Annotated[
    str | None, typer.Option(help="A folder or hub name; the bundled pair without.", rich_help_panel=PANEL)
]
Drafter = Annotated[str | None, typer.Option(help="Drafter; texts are looked up without.", rich_help_panel=PANEL)]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", help="May be repeated.", rich_help_panel=PANEL)]
Structure = Annotated[str, typer.Option(help="As in generate.", rich_help_panel=PANEL)]
Budget = Annotated[str, typer.Option(help="Nodes verified per round; 0 is plain.", rich_help_panel=PANEL)]
Temperature = Annotated[float, typer.Option(help="Above 0.", rich_help_panel=PANEL)]
TopP = Annotated[float, typer.Option(help="Keep this much probability.", rich_help_panel=PANEL)]
Samples = Annotated[int, typer.Option(help="Texts per prompt.", rich_help_panel=PANEL)]
Tokens = Annotated[int, typer.Option(help="New tokens per text.", rich_help_panel=PANEL)]
Seed = Annotated[int | None, typer.Option(help="Repeats an audit.", rich_help_panel=PANEL)]

_OPTIONS = {"target", "drafter", "prompts", "structure", "budget", "temperature", "top_p", "samples", "tokens", "seed"}
_EXACT = {"vocab", "depth", "verbose"}


def is_asked(context: typer.Context) -> bool:
    """Whether an option of this mode was written.

    Raises OptionError if one of the exact prover's was written as well.
    """
    sources = {name: context.get_parameter_source(name) for name in (*_OPTIONS, *_EXACT)}
    written = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if written & _OPTIONS and written & _EXACT:
        raise OptionError(
            f"--{min(written & _EXACT)} is for the exact prover of small models, which reads no pair; leave it out, or leave out "
            "--target and what belongs to it"
        )
    return bool(written & _OPTIONS)


def run_audit(
    target: str | None,
    drafter: str | None,
    config: dg.Config,
    params: dg.SamplingParams,
    prompts: Sequence[str],
    samples: int,
    quiet: bool,
) -> Audit:
    """Audit a pair of folders or hub names, or the bundled one without a target.

    Raises OptionError for a drafter without its target, or a target without a prompt.
    """
    if target is None and drafter is not None:
        raise OptionError("--drafter needs the target that it drafts for; write --target as well")
    if target is not None and not prompts:
        raise OptionError('a prompt is needed; write --prompt "text as your users write it" (may be repeated)')
    pair: tuple[str | Path, str | Path | None] = bundled_pair() if target is None else (target, drafter)
    with status(f"loading {'the bundled pair' if target is None else target}", quiet), silent_loading():
        engine = dg.Engine.from_pretrained(pair[0], draft_model=pair[1], config=config)
    with progress_bar("auditing", quiet) as told:
        return audit(engine, list(prompts) or [BUNDLED_PROMPT], params, n=samples, progress=told)
