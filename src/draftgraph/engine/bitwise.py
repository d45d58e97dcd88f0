"""Whether rows are the same bit for bit with drafts and without: what was asked for, and what a request can say of it."""

from __future__ import annotations

from draftgraph.backends.base import BITWISE, NEAR_TIES, CausalLM
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


def numerics(target: CausalLM, rule: Rule, temperature: float) -> str:
    """What `Stats.numerics` says of a request."""
    if target.numerics == BITWISE and not (rule.lossless and (temperature == 0.0 or rule.position_noise)):
        return SAME_LAWS
    return target.numerics
