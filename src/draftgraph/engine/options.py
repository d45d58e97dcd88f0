"""Options: what a call asks of a request, in any of the forms that users have."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

from transformers import GenerationConfig

from draftgraph.engine.config import ALIASES, Config
from draftgraph.errors import OptionError, brief
from draftgraph.sampling import generation_config as gc
from draftgraph.sampling.beam_params import BeamParams
from draftgraph.sampling.params import SamplingParams
from draftgraph.values import as_list

Params: TypeAlias = SamplingParams | GenerationConfig | Mapping[str, Any]

_DEFAULTS = SamplingParams()
_ANY_LENGTH = SamplingParams(max_new_tokens=sys.maxsize)
"""What options are read into before it is known how long the answer may be."""
_NAMES = frozenset(field.name for field in fields(SamplingParams))
_ONLY_CONFIG = gc.KNOWN - _NAMES
"""Fields by which a mapping is told to be a generation config."""
_OF_ENGINE = frozenset(field.name for field in fields(Config))
PER_REQUEST = frozenset({"budget", "num_speculative_tokens", "rule", "structure", "prediction", "judge", "threshold"})
"""Fields of `Config` that a request may have of its own."""
_POSSIBLE = "write a SamplingParams, a GenerationConfig, a mapping of options, or the options by name"


@dataclass(frozen=True)
class Asked:
    """What a call asks of one request.

    params  the options; those that nobody named have their defaults.
    named   the options that were named.
    config  the fields of a GenerationConfig, if one was given.
    drafting  fields of `Config` for this request alone, by name.
    """

    params: SamplingParams
    named: frozenset[str]
    config: Mapping[str, Any] | None = None
    drafting: Mapping[str, Any] = field(default_factory=dict)


def read_options(params: Any, options: Mapping[str, Any], count: int) -> list[Asked]:
    """What is asked of each of `count` requests: `params` for all or one for each, changed by options by name.

    Iterators among the values are read once, here. Raises OptionError.
    """
    if isinstance(params, Asked):
        return [params] * count
    drafting, options = _apart(options)
    options = _checked(options)
    several = None if params is None or isinstance(params, Mapping | SamplingParams | str) else as_list(params)
    if several is None:
        return [_read(params, options, drafting)] * count
    if len(several) != count:
        raise OptionError(
            f"{len(several)} params for {count} prompts; give one SamplingParams for all, or one for each"
        )
    return [_read(each, options, drafting) for each in several]


def _read(params: Any, options: Mapping[str, Any], drafting: Mapping[str, Any]) -> Asked:
    """`options` have been checked."""
    if isinstance(params, Mapping):
        own = {name: value for name, value in params.items() if name in PER_REQUEST}
        params = {name: value for name, value in params.items() if name not in PER_REQUEST}
        drafting = {**own, **drafting}
    return replace(_read_sampling(params, options), drafting=drafting)


def _apart(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of drafting, by the names that `Config` has for them, and all others."""
    names = {name: ALIASES.get(name, name) for name in options}
    drafting = {names[name]: value for name, value in options.items() if names[name] in PER_REQUEST}
    return drafting, {name: value for name, value in options.items() if names[name] not in PER_REQUEST}


def _read_sampling(params: Any, options: Mapping[str, Any]) -> Asked:
    if params is None:
        params = {}
    if isinstance(params, BeamParams):
        raise OptionError(
            "a BeamParams is for beams; write engine.beam_sample(...) or beam_search(...), or dg.SamplingParams(...)"
        )
    if isinstance(params, SamplingParams):
        changed = {name for name in _NAMES if getattr(params, name) != getattr(_DEFAULTS, name)}
        return Asked(params.with_options(**options), frozenset(changed | options.keys()))
    if isinstance(params, GenerationConfig):
        return _read_config(gc.fields_of(params), options)
    if not isinstance(params, Mapping):
        raise OptionError(f"params={brief(params)} is not possible; {_POSSIBLE}")
    wrong = next((name for name in params if not isinstance(name, str)), None)
    if wrong is not None:
        raise OptionError(f"params has the key {brief(wrong)}, which names no option; {_POSSIBLE}")
    if any(name in _ONLY_CONFIG for name in params):
        ours = {name: value for name, value in params.items() if name in _NAMES - gc.KNOWN}
        given = {name: value for name, value in params.items() if name not in ours}
        return _read_config(gc.fields_of(given), {**_checked(ours), **options})
    options = {**_checked(params), **options}
    return Asked(_DEFAULTS.with_options(**options), frozenset(options))


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, with the values that SamplingParams makes of them."""
    elsewhere = next((name for name in options if name in _OF_ENGINE), None)
    if elsewhere is not None:
        raise OptionError(f"{elsewhere} belongs to the engine; write Engine.from_pretrained(..., {elsewhere}=...)")
    named = _ANY_LENGTH.with_options(**options)
    return {name: getattr(named, name) for name in options}


def _read_config(given: Mapping[str, Any], options: Mapping[str, Any]) -> Asked:
    gc.refuse_unknown(given)
    for asked, instead in gc.unsupported(given, (gc.OTHER_TEXTS, gc.OTHER_MEANS, gc.NOT_IN_GENERATE), gc.WORDS):
        raise OptionError(f"generate cannot honour {asked} of the generation config; {instead}")
    return Asked(_ANY_LENGTH.with_options(**options), frozenset(options), given)
