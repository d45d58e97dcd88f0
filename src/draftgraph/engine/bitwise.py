"""Whether rows are the same bit for bit with drafts and without: what was asked for, and what a request can say of it."""

from __future__ import annotations

from contextlib import suppress

from draftgraph.backends.base import BITWISE, EXACT, NEAR_TIES, CausalLM
from draftgraph.engine.config import Config
from draftgraph.errors import OptionError
from draftgraph.verification.base import Rule

SAME_LAWS = "bit for bit the laws without drafts"
"""The target's rows are the same, but the rule reads what was drawn for the draft: a seed gives another text without it."""


def as_asked(target: CausalLM, config: Config) -> tuple[CausalLM, Config]:
    """The target in the passes that `config.bitwise` asks for, and the config with "auto" settled.

    Raises OptionError where True was asked for and the target cannot do it.
    """
    if config.bitwise is True:
        return target.bitwise(), config
    if config.bitwise == "auto" and target.numerics == NEAR_TIES and not config.asks_for_tree:
        try:
            return target.bitwise(), config.with_options(bitwise=True)
        except OptionError:  # then `numerics` says so
            pass
    return target, config.with_options(bitwise=False)


def steady(model: CausalLM, target: CausalLM, config: Config) -> CausalLM:
    """A draft model for requests with a seed whose text follows their drafts: it gives the same drafts in any company.

    It is the model as it is where its rows are not rounded, where the target's depend on the company too, and where its own do
    whatever is done.

    target  in any passes.
    """
    if model.numerics == NEAR_TIES and (config.bitwise is True or target.numerics == EXACT):
        with suppress(OptionError):
            return model.apart()
    return model


def numerics(target: CausalLM, rule: Rule, temperature: float) -> str:
    """What `Stats.numerics` says of a request."""
    if target.numerics == BITWISE and rule.follows_drafts(temperature):
        return SAME_LAWS
    return target.numerics
