"""From the shared options to a configuration and an engine."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

import torch

from draftgraph.backends.load import as_device
from draftgraph.cli.options import Chosen, Drafting, as_budget, as_prediction, as_switch
from draftgraph.cli.program import tell
from draftgraph.draft.search import SEARCH
from draftgraph.engine.chat import has_template
from draftgraph.engine.config import Config
from draftgraph.engine.engine import Engine
from draftgraph.engine.prompts import encode
from draftgraph.errors import OptionError, PromptError, require
from draftgraph.verification.base import Rule
from draftgraph.verification.published.judge import JudgeRule
from draftgraph.verification.registry import get_rule
from draftgraph.view.status import silent_loading, status

DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")
_SAID = ("name", "source", "lossless", "accepts")
"""What a rule says of itself."""


def place(chosen: Chosen) -> None:
    """Refuse a type or a device that is not possible here, and set the number of threads. Raises OptionError."""
    dtype, device = chosen.dtype, chosen.device
    require(dtype is None or dtype in DTYPES, "dtype", dtype, f"one of {', '.join(DTYPES)}")
    if device is not None:
        as_device(device)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)


def make_config(drafting: Drafting, **more: Any) -> Config:
    """A configuration from the texts of the options; `more` are fields of `Config`. Raises OptionError."""
    text = as_prediction(drafting.prediction)
    if text is not None and more.get("drafter") is None:
        more["drafter"] = "text"
    if more.get("table") is not None and more.get("drafter") is None:
        more["drafter"] = SEARCH
    named = drafting.rule in ("auto", JudgeRule.name)
    rule = drafting.rule if named else find_rule(drafting.rule)
    return Config(
        budget=as_budget(drafting.budget),
        structure=drafting.structure,
        rule=rule,
        prediction=text,
        bitwise=as_switch(drafting.bitwise),
        judge=drafting.judge,
        threshold=drafting.threshold,
        schedule=drafting.schedule,
        **more,
    )


def load_engine(chosen: Chosen, config: Config, quiet: bool, **serving: Any) -> Engine:
    """The engine of a target and a drafter; the bundled drafter stays out where another kind of drafter was asked for.

    serving  fields of `Serving` that are not its defaults.
    """
    target, drafter = chosen.pair
    if not isinstance(drafter, str) and config.drafter not in (None, "model"):
        drafter = None
    with status(f"loading {chosen.title}", quiet), silent_loading():
        engine = Engine.from_pretrained(
            target,
            draft_model=drafter,
            config=config,
            **chosen.loading,
            **serving,
        )
    rule = engine.config.resolved_rule
    if not rule.lossless and not quiet:
        tell(f"rule {rule.name!r} is NOT lossless: texts may differ from the target's own")
    return engine


def encoded(engine: Engine, text: str, chat: bool, system: str | None) -> list[int]:
    """Token ids of a prompt as it is, or of a chat of a system message and the prompt. Raises PromptError."""
    if not chat:
        return encode(text, engine.tokenizer, engine.target.vocab_size)
    messages = [{"role": "system", "content": system}] if system is not None else []
    try:
        ids: Any = engine.chat_prompt([*messages, {"role": "user", "content": text}])  # one conversation, so one list
    except PromptError as error:
        if has_template(engine.tokenizer):
            raise
        raise PromptError(
            "the model has no chat template; leave --chat and --system out, or give --model a chat model"
        ) from error
    return list(ids)


def find_rule(name: str) -> Rule:
    """A rule by name, or a Rule subclass or instance of the user's as `module:name`. Raises OptionError."""
    module, colon, attribute = name.partition(":")
    if not colon:
        return get_rule(name)
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not look in the current folder by itself
    try:
        found = getattr(importlib.import_module(module), attribute)
        if inspect.isclass(found) and issubclass(found, Rule) and not inspect.isabstract(found):
            found = found()
    except (Exception, SystemExit) as error:  # the module runs the user's code, which may raise anything
        why = f"{type(error).__name__}: {error}"
        raise OptionError(
            f"cannot import rule {name!r}: {why}; write module:Name of a draftgraph.Rule subclass"
        ) from error
    if not isinstance(found, Rule):
        raise OptionError(f"{name!r} is not a rule but {found!r}; write module:Name of a draftgraph.Rule subclass")
    if missing := [field for field in _SAID if not hasattr(found, field)]:
        raise OptionError(
            f"rule {name!r} does not say its {', '.join(missing)}; write them into its class, as draftgraph.Rule does"
        )
    return found
