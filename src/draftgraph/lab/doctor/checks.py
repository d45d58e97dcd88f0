"""Whether a pair can run here: every rule that the engine enforces, and what it tolerates but a user should know.

The rules themselves are in `target`, one function each; the engine raises the first that fails, this lists them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PretrainedConfig, PreTrainedModel

from draftgraph.backends.base import CausalLM
from draftgraph.backends.check import Check
from draftgraph.backends.choice import Loading, load_backend
from draftgraph.backends.eos import eos_ids
from draftgraph.backends.load import load_model, read_config, read_tokenizer, same_tokens
from draftgraph.backends.probe import honours_masks
from draftgraph.backends.support import decoder_only, support
from draftgraph.backends.trained import Trained
from draftgraph.engine.assemble import make_backend
from draftgraph.errors import DraftgraphError
from draftgraph.lab.doctor.trained_checks import checks_beside, trained_of, with_taps
from draftgraph.lab.pair import WINDOW, Pair

SMALL_ENOUGH = 4.0
"""A drafter should have so many times fewer parameters than the target. A rule of thumb: `doctor` measures."""
Source = str | Path
_T = TypeVar("_T")


@dataclass
class Side:
    """One model of the pair: what could be read of it, and its checks so far.

    made_of  what engines are made of: the loaded model, or its folder where another backend than torch runs it.
    backend  which is then held here, so that engines share it.
    trained  the drafter, if it is a trained one, which reads the target's hidden states.
    """

    name: str
    source: Source
    config: PretrainedConfig | None = None
    model: PreTrainedModel | None = None
    tokenizer: Any | None = None
    checks: list[Check] = field(default_factory=list)
    made_of: Any | None = None
    backend: CausalLM | None = None
    trained: Trained | None = None

    @property
    def vocab(self) -> Any | None:
        """The part of the configuration that has the vocab_size."""
        text = None if self.config is None else self.config.get_text_config(decoder=True)
        return text if hasattr(text, "vocab_size") else None

    @property
    def window(self) -> int | None:
        return getattr(self.vocab, "max_position_embeddings", None)

    @property
    def runs(self) -> bool:
        return self.model is not None and not any(check.failed for check in self.checks)


@dataclass(frozen=True)
class Checkup:
    """The checks of a target alone (drafter None) or of a pair; `ok` if the engine can run it.

    options  how engines load what they are made of.
    """

    target: Side
    drafter: Side | None
    pair_checks: Sequence[Check]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def groups(self) -> list[tuple[str, Sequence[Check]]]:
        sides = [(side.name, side.checks) for side in (self.target, self.drafter) if side is not None]
        return [*sides, ("pair" if self.drafter is not None else "machine", self.pair_checks)]

    @property
    def ok(self) -> bool:
        return not any(check.failed for _, checks in self.groups for check in checks)

    @property
    def on_cpu(self) -> bool:
        return self.target.model is not None and self.target.model.device.type == "cpu"

    def pair(self) -> Pair:
        """The loaded pair; only if it is `ok` and has a drafter."""
        assert self.target.model is not None
        assert self.drafter is not None
        windows = [side.window for side in (self.target, self.drafter) if side.window]
        vocab = make_backend(self.target.model).vocab_size
        return Pair(
            self.target.model,
            self.drafter.model,
            self.target.tokenizer,
            vocab,
            min([WINDOW, *windows]),
            (self.target.made_of, self.drafter.made_of, self.options),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "target": str(self.target.source),
            "drafter": None if self.drafter is None else str(self.drafter.source),
            "ok": self.ok,
            "checks": [{"of": name} | check.to_dict() for name, checks in self.groups for check in checks],
        }


def check_up(
    target: Source,
    drafter: Source | None = None,
    dtype: str | None = None,
    device: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
    trusted: bool = False,
    backend: str = "auto",
    weights: str | None = None,
) -> Checkup:
    """Load the models and check every rule, without generating.

    tell  hears what is being done. trusted  whether code that comes with the models may run. backend  what runs them.
    weights  what they are quantised to. A failed rule is not raised.
    """
    loading = Loading(dtype, device, trusted, backend, weights=weights)
    sides = [Side("target", target)] + ([] if drafter is None else [Side("drafter", drafter)])
    ours, theirs = sides[0], sides[1] if drafter is not None else None
    if theirs is not None:
        theirs.trained, theirs.checks = trained_of(theirs.source)
    for side in sides:
        tell(f"checking the {side.name}")
        if side.trained is not None:
            side.made_of, side.checks = side.source, checks_beside(side.trained, ours.model)
        elif not side.checks:
            _check_side(side, loading if theirs is None else with_taps(loading, side.source, theirs.trained))
    checks = [] if theirs is None or theirs.trained is not None else _check_pair(ours, theirs)
    options = {"dtype": dtype, "device": device, "backend": backend, "weights": weights, "trust_remote_code": trusted}
    return Checkup(ours, theirs, [*checks, threads()], options)


def _check_side(side: Side, loading: Loading) -> None:
    add, trusted = side.checks.append, loading.trusted
    check, side.config = _read("configuration", lambda: read_config(side.source, trusted), lambda read: read.model_type)
    add(check)
    _check_tokenizer(side, trusted)
    names = (
        "decoder-only",
        "weights",
        "language-model head",
        "floating-point weights",
        "cache rolls back",
        "attention takes masks",
        "rows are independent",
        "honours masks and positions",
        "precision",
        "backend",
    )
    if side.config is not None:
        named = getattr(side.config, "architectures", None)
        architecture = named[0] if isinstance(named, list) and named else side.config.model_type
        causal = decoder_only(side.config, architecture)
        add(causal)
        if not causal.failed:
            check, side.model = _read(
                "weights", lambda: load_model(side.source, loading.dtype, loading.device, trusted), _weigh
            )
            add(check)
    if side.model is not None:
        for check in support(side.model)[1:]:  # the first one was answered by the configuration already
            add(check)
        if side.runs:
            add(make_backend(side.model).rows_alone)
        if side.runs:
            add(_probe(side.model))
            add(precision(side.model.dtype, loading.weights))
        if side.runs:
            add(_backend(side, loading))
    done = {check.rule for check in side.checks}
    side.checks.extend(
        Check(name, "not checked", "something above stands in the way") for name in names if name not in done
    )


def _check_tokenizer(side: Side, trusted: bool) -> None:
    check, side.tokenizer = _read(
        "tokenizer", lambda: read_tokenizer(side.source, trusted), lambda read: f"{len(read.get_vocab())} tokens"
    )
    if check.failed:
        check = Check("tokenizer", "warning", check.found, "without one, prompts are token ids; add its files")
    side.checks.append(check)


def _probe(model: PreTrainedModel) -> Check:
    try:
        return honours_masks(make_backend(model))
    except DraftgraphError as error:  # NaN logits, for example
        return Check("honours masks and positions", "fail", str(error), error=type(error))


def _backend(side: Side, loading: Loading) -> Check:
    """What runs the model in an engine, and why: made here as engines make it."""
    try:
        loaded = load_backend(side.source, loading, probed=side.model, loaded=side.model)
    except DraftgraphError as error:
        return Check("backend", "fail", str(error), error=type(error))
    side.made_of, side.backend = side.source if loaded.inside is None else side.model, loaded.model
    return Check("backend", "pass", f"{loaded.model.name}: {loaded.reason}")


def _read(rule: str, action: Callable[[], _T], found: Callable[[Any], str]) -> tuple[Check, _T | None]:
    """A check of something that raises where it fails; with what it returned."""
    try:
        result = action()
    except DraftgraphError as error:
        return Check(rule, "fail", str(error), error=type(error)), None
    return Check(rule, "pass", found(result)), result


def _weigh(model: PreTrainedModel) -> str:
    return f"{_count(model)} parameters, layers: {_layers(model)}, on {model.device}"


def _count(model: PreTrainedModel) -> str:
    number = float(model.num_parameters())
    for unit in ("", " k", " M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} G"


def _layers(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config(decoder=True).num_hidden_layers)


def precision(dtype: torch.dtype, weights: str | None = None) -> Check:
    """Greedy text is that of plain decoding where wide and narrow passes agree on every likeliest token.

    weights  what they are quantised to, if they are.
    """
    if weights is not None:
        found = f"{weights} weights make another model than the stored one; drafts that are chains change no bit of its text"
        return Check("precision", "pass", found)
    name = str(dtype).removeprefix("torch.")
    if dtype in (torch.float32, torch.float64):
        return Check("precision", "pass", f"{name}: greedy text is that of plain decoding, token by token")
    return Check(
        "precision",
        "warning",
        f"{name}: passes of different width round differently, so greedy text may part from plain decoding where two tokens "
        "are nearly tied",
        "write --dtype float32 for equal greedy text",
    )


def _check_pair(target: Side, drafter: Side) -> list[Check]:
    found = []
    if target.vocab is not None and drafter.vocab is not None:
        found.append(same_tokens(target.vocab, drafter.vocab, target.tokenizer, drafter.tokenizer))
        found.append(windows(target.window, drafter.window))
    if target.model is not None and drafter.model is not None:
        found += [_ends(target, drafter), sizes(target.model, drafter.model)]
    done = {check.rule for check in found}
    names = ("same tokens", "context windows", "same end of text", "drafter is smaller")
    return found + [
        Check(name, "not checked", "a model could not be read or loaded") for name in names if name not in done
    ]


def windows(target: int | None, drafter: int | None) -> Check:
    """A drafter may have the shorter window; beyond it the engine drafts copies, or nothing."""
    found = f"the target reads {target or 'any number of'} tokens, the drafter {drafter or 'any number of'}"
    if drafter and (target is None or drafter < target):
        advice = (
            f"beyond {drafter} tokens drafts are copies of the text, or none; use drafter='lookup' for longer texts"
        )
        return Check("context windows", "warning", found, advice)
    return Check("context windows", "pass", found)


def _ends(target: Side, drafter: Side) -> Check:
    """The target's end-of-text tokens alone end a text; a drafter that ends otherwise drafts badly there."""
    assert target.model is not None
    assert drafter.model is not None
    ours, theirs = (sorted(eos_ids(side.model, side.tokenizer)) for side in (target, drafter) if side.model is not None)
    if ours == theirs:
        return Check("same end of text", "pass", f"token ids {ours}" if ours else "neither has an end-of-text token")
    return Check(
        "same end of text",
        "warning",
        f"token ids {ours} end the target's texts, {theirs} the drafter's",
        "the target's count; expect bad drafts near the end of a text, and check that the drafter was trained for the same use",
    )


def sizes(target: PreTrainedModel, drafter: PreTrainedModel) -> Check:
    ratio = target.num_parameters() / drafter.num_parameters()
    share = f"{ratio:.1f} times fewer" if ratio >= 1.0 else f"{1.0 / ratio:.1f} times more"
    found = f"the drafter has {share} parameters than the target; layers: {_layers(drafter)} and {_layers(target)}"
    if ratio < SMALL_ENOUGH:
        advice = f"speed needs a drafter {SMALL_ENOUGH:g} or more times smaller, as a rule of thumb; `draftgraph doctor` measures"
        return Check("drafter is smaller", "warning", found, advice)
    return Check("drafter is smaller", "pass", found)


def threads() -> Check:
    """More threads than cores slow every pass down."""
    used = torch.get_num_threads()
    found = f"{used} CPU threads on {cores()} cores"
    if used > cores():
        return Check("threads", "warning", found, f"write --threads {cores()}")
    return Check("threads", "pass", found)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
