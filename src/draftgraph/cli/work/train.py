"""draftgraph train at work: the target, its prompts and answers, the training, and what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from transformers import PreTrainedModel

from draftgraph.backends.eos import eos_ids
from draftgraph.backends.load import load_model, load_tokenizer, read_config
from draftgraph.cli.options import Chosen
from draftgraph.cli.program import tell
from draftgraph.cli.work.engines import place
from draftgraph.engine.assemble import make_backend
from draftgraph.errors import OptionError
from draftgraph.lab.train.features.answers import Answer, read_answers
from draftgraph.lab.train.features.loop import BEFORE
from draftgraph.lab.train.features.own_prompts import Writing, bos_id, mixed, writing_of
from draftgraph.lab.train.features.project import WORTH, Project, Settings
from draftgraph.lab.train.features.prompts import prompts_from
from draftgraph.lab.train.worth import weigh
from draftgraph.view.status import silent_loading, status


def run(
    chosen: Chosen, out: Path, prompts: Sequence[Path], answers: Sequence[Path], settings: Settings, as_json: bool
) -> None:
    """Train, and print what the drafter will be worth. Raises OptionError, ModelError, TrainingError."""
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file, and a drafter is a folder; write the name of one, which may be new")
    place(chosen)
    source = str(chosen.pair[0])
    with silent_loading():
        read_config(source, chosen.trusted)  # or it says that there is no such model
    with status(f"loading {source}", as_json), silent_loading():
        target = load_model(source, chosen.dtype, chosen.device, chosen.trusted).requires_grad_(False)
        tokenizer = load_tokenizer(source, chosen.trusted)
    make_backend(target)  # refuses what the engine could not run
    loading = {"dtype": chosen.dtype, "device": chosen.device, "trust_remote_code": chosen.trusted}
    asked = _asked(target, tokenizer, source, loading, settings, prompts)
    project = Project(out, settings, (lambda line: None) if as_json else tell)
    project.refuse_unfit(target)
    learnt = read_answers(answers)
    given = prompts_from(prompts, tokenizer, settings.seed) if prompts and not project.has_prompts else []
    project.begin()
    if settings.tokens:
        learnt += _said(project, asked, given)
    card = project.train(target, learnt)
    del target, asked  # engines load it as their users do
    own_type = {"device": chosen.device, "trust_remote_code": chosen.trusted}
    with status("measuring what it is worth", as_json) as say, silent_loading():
        verdicts = weigh(source, out, project.held_out(learnt), own_type, say)
    card["verdicts"] = [each.to_dict() for each in verdicts]
    project.keep_card(card)
    if as_json:
        typer.echo(json.dumps({key: value for key, value in card.items() if key != "history"}))
    else:
        _tell(out, card)


@dataclass(frozen=True)
class Asked:
    """A target that answers.

    writing          how it writes prompts; None: it writes none.
    ends             ids that end an answer.
    source, loading  where an engine loads it from, and how.
    """

    target: PreTrainedModel
    tokenizer: Any | None
    writing: Writing | None
    ends: list[int]
    source: str
    loading: dict[str, Any]


def _asked(
    target: PreTrainedModel,
    tokenizer: Any | None,
    source: str,
    loading: dict[str, Any],
    settings: Settings,
    files: Sequence[Path],
) -> Asked:
    """The target as one that answers. Raises OptionError if it can neither read the prompts of files nor write what was asked."""
    if files and tokenizer is None:
        raise OptionError(f"{source} has no tokenizer, which prompts need; give answers with --answers")
    ends = sorted(eos_ids(target, tokenizer))
    writing = writing_of(tokenizer, ends, bos_id(target, tokenizer)) if settings.own_prompts else None
    return Asked(target, tokenizer, writing, ends, source, loading)


def _said(project: Project, asked: Asked, given: list[list[int]]) -> list[Answer]:
    """What the target says to prompts that were given, and to its own. Raises TrainingError."""

    def made() -> list[list[int]]:
        if asked.writing is None:
            return given
        written = project.own_prompts(asked.target, asked.writing, asked.source, asked.loading)
        return mixed(given, written, project.settings.seed)

    return project.answers(asked.target, project.prompts(made), asked.ends, asked.source, asked.loading)


def _tell(out: Path, card: dict[str, Any]) -> None:
    """The figures that decide, and what to write."""
    before: dict[str, Any] = next((entry for entry in card["history"] if entry["stage"] == BEFORE), {})
    told = [(f"{name}, before", before[name]) for name in card["held_out"] if name in before]
    for name, found in [*told, *card["held_out"].items()]:
        positions = " ".join(f"{rate:.2f}" for rate in found["by_position"])
        chains = " ".join(f"{rate:.2f}" for rate in found["tokens_per_call"])
        typer.echo(
            f"held out, {name}: accepted at position 1, 2, … {positions}; tokens per call of chains of 1, 2, … {chains}"
        )
    if card.get("confidence") is not None:
        typer.echo(
            f"rule 'confidence', which is not lossless: the threshold that is right most often is "
            f"{card['confidence']['threshold']:.2f}"
        )
    for each in card["verdicts"]:
        typer.echo(each["told"])
    if card["worth_it"]:
        typer.echo(f"use it with draft_model={str(out)!r}")
    else:
        typer.echo(f"it predicts fewer than {WORTH} tokens per call: leave it out, or train on more answers")
