"""The field: everybody who is measured at one temperature, and those who should be and cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from draftgraph.backends.choice import Loading
from draftgraph.engine.config import Config
from draftgraph.engine.old_options import OLD_OPTIONS, structure_of
from draftgraph.errors import OptionError, unknown_name
from draftgraph.lab.bench.contenders import AGAIN, PLAIN, Ours, Task, Transformers, endless
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers import Absent
from draftgraph.lab.bench.peers.base import Peer
from draftgraph.lab.turns import Contender

OURS_PLAIN, OURS = "draftgraph plain", "draftgraph"
LOOKUP_TOKENS = 10
"""Tokens that transformers' prompt lookup drafts, as in its documentation."""
_LOADING = {"backend", "weights", "draft_weights"}
"""What a configuration may say beside the options of `Config`."""
CONSTANT = {"num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.0}
NOTES = {
    PLAIN: "model.generate; everybody's time is divided by its own",
    AGAIN: "the same once more in every turn: how far its ratio strays from 1 is how far to trust the others",
    "transformers assisted (as shipped)": "assistant_model: up to 20 tokens, fewer where the drafter is less than 0.4 sure",
    OURS_PLAIN: "budget=0: the loop of draftgraph without drafts",
    OURS: "the defaults of Engine.from_pretrained, the backend included",
}


@dataclass(frozen=True)
class Spec:
    """A configuration of draftgraph as the user wrote it, and as options of `Config`."""

    text: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{OURS} {self.text}"


def parse_spec(text: str) -> Spec:
    """`option=value,option=value`; parameters of a structure stand beside it, and a branching is written 3x2x1.

    Raises OptionError for what is no option, or a value that is not possible.
    """
    options: dict[str, Any] = {}
    known = {field.name for field in fields(Config)} - {"prediction"} | OLD_OPTIONS.keys() | _LOADING
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise OptionError(f"--ours {text!r} is not possible; write --ours structure=chain,budget=4,rule=block")
        if name not in known:
            raise unknown_name("option", name, known)
        options[name] = _value(name, value)
    parameters = {name: options.pop(name) for name in OLD_OPTIONS if name in options}
    if parameters:  # a command line has no objects
        said = structure_of(options.get("structure", "auto"), options.get("rule", "auto"), **parameters)
        options["structure"] = said
    Config(**{name: value for name, value in options.items() if name not in _LOADING})
    Loading(**{name: value for name, value in options.items() if name in _LOADING})
    return Spec(text, options)


def _value(name: str, value: str) -> Any:
    if name == "branching":
        parts = value.split("x")
        if not all(part.isdecimal() for part in parts):
            raise OptionError(f"branching={value!r} is not possible here; write branching=3x2x1")
        return tuple(int(part) for part in parts)
    flags = {"true": True, "false": False}
    return int(value) if value.isdecimal() else flags.get(value.lower(), value)


def line_up(
    models: Models, task: Task, specs: Sequence[Spec], peers: Sequence[Peer], drafted: Sequence[int]
) -> tuple[list[Contender], list[Absent]]:
    """Everybody at one temperature, and who cannot take part.

    drafted  numbers of tokens for transformers' assisted generation with a constant schedule.
    Raises OptionError for a spec whose rule does not verify its drafts here.
    """
    target = endless(models.target)
    contenders: list[Contender] = [Transformers(PLAIN, target, task), Transformers(AGAIN, target, task)]
    absent: list[Absent] = []
    if models.drafter is not None:
        contenders.append(Transformers("transformers assisted (as shipped)", target, task, endless(models.drafter)))
        for count in drafted:
            assistant = endless(models.drafter, num_assistant_tokens=count, **CONSTANT)
            contenders.append(Transformers(f"transformers assisted (constant {count})", target, task, assistant))
    else:
        why = "no drafter was given" if models.drafter_source is None else "it takes no trained drafter"
        absent.append(Absent("transformers assisted", why))
    contenders.append(
        Transformers(
            f"transformers prompt lookup ({LOOKUP_TOKENS})", target, task, prompt_lookup_num_tokens=LOOKUP_TOKENS
        )
    )
    contenders += [Ours(OURS_PLAIN, models, task, budget=0), Ours(OURS, models, task)]
    contenders += [Ours(spec.name, models, task, **spec.options) for spec in specs]
    for peer in peers:
        contenders += peer.contenders(task)
    return contenders, absent
