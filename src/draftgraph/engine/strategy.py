"""Which rule verifies a request, on which drafts, how many, and why: by its options, the laws at hand, and what was measured.

At the start only the options are known; between rounds, what drafter and target had in common so far. Both belong to the
request alone, so that a seed gives the same text whatever ran before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from draftgraph.budget.automatic import DEPTH, AutoBudget
from draftgraph.budget.costs import Costs
from draftgraph.budget.pace import Pace, keeping_step
from draftgraph.draft.base import Drafter
from draftgraph.draft.terms import Overlap
from draftgraph.engine.config import Config
from draftgraph.errors import OptionError
from draftgraph.request.state import Plan, Strategy
from draftgraph.verification.registry import get_rule

FIXED_PAYS_UP_TO, WEAK, ROUNDS = 0.4, 0.4, 16
"""A drafter is weak if its mean overlap Σ min(p, q) is below WEAK over ROUNDS rounds. Up to this temperature FIXED drafts of a
weak drafter are accepted as often as SAMPLED ones (docs/decisions.md), and no law has to be drawn from or verified."""


def choose(config: Config, temperature: float, drafter: Drafter) -> Strategy:
    """The choice that a request starts with.

    Raises OptionError if the rule that was asked for does not verify the drafts that there would be.
    """
    choice = _choose(config, temperature, drafter)
    choice = replace(choice, settled=not _may_change(choice, config, temperature))
    if config.budget == 0:
        return replace(choice, reason="budget=0: nothing is drafted")
    if config.parallel:
        return replace(choice, reason=f"{choice.reason}; the drafter drafts on while the target verifies")
    if config.bitwise is True and config.structure == "auto" and config.own_drafter is None:
        why = f"bitwise: a draft is a {choice.structure.name}, of which every path is a sequence of its own"
        return replace(choice, reason=f"{choice.reason}; {why}")
    return choice


def _choose(config: Config, temperature: float, drafter: Drafter) -> Strategy:
    structure = config.resolved_structure
    law = temperature > 0 and "sampled" in drafter.draws and structure.draws
    if config.rule != "auto":
        rule = config.resolved_rule
        if rule.greedy and temperature > 0:
            raise OptionError(
                f"rule {rule.name!r} is defined at temperature 0 only, and temperature={temperature:g} was asked for; write "
                "temperature=0, or rule='layer'"
            )
        if rule.reads_confidence and not drafter.confident and config.budget != 0:
            instead = "write schedule='sequential'" if config.parallel else "give draft_model=..."
            raise OptionError(
                f"rule {rule.name!r} asks how sure the drafter is of its tokens, and {drafter.name} does not say it; {instead}, "
                "or write rule='layer'"
            )
        config.refuse_unverified(law and rule.uses_laws)
        return Strategy(rule, structure, law and rule.uses_laws, f"rule={rule.name!r} was asked for")
    if not law:
        why = (
            "at temperature 0 every rule is the longest match, and this one reads the least"
            if temperature == 0
            else "these drafts have no law to sample: all slots are FIXED, for which the walk is optimal"
        )
        return Strategy(get_rule("walk"), structure, False, why)
    if config.drafts_chains:
        return Strategy(get_rule("block"), structure, True, "block verification is optimal on a SAMPLED chain")
    why = "drafts have SAMPLED slots, and the layer rule verifies the whole tree jointly"
    return Strategy(get_rule("layer"), structure, True, why)


def reconsider(choice: Strategy, config: Config, temperature: float, overlap: Overlap | None) -> Strategy:
    """The choice for the next round, after what earlier rounds of this request have measured."""
    if not _may_change(choice, config, temperature):
        return choice
    if overlap is None or overlap.rounds < ROUNDS or overlap.mean >= WEAK:
        return choice
    why = (
        f"drafter and target overlap by {overlap.mean:.2f} over {overlap.rounds} rounds at temperature {temperature:g}: FIXED "
        "drafts accept as much there, and the walk is optimal for them"
    )
    return replace(choice, rule=get_rule("walk"), sampled=False, reason=why, settled=True)


def _may_change(choice: Strategy, config: Config, temperature: float) -> bool:
    """Whether what drafter and target have in common may change a choice."""
    open_to_all = config.rule == "auto" and choice.sampled and choice.structure.best_first
    return open_to_all and temperature <= FIXED_PAYS_UP_TO


def plan(config: Config, drafter: Drafter, temperature: float, costs: Callable[[], Costs]) -> Plan | None:
    """Who decides how much is drafted: the automatic budget, or None where the options say it. costs  asked for if needed."""
    structure = config.resolved_structure
    copies = drafter.copies(structure)
    if config.budget != "auto" or structure.shape is not None:
        return None
    if config.parallel:
        asked = config.num_speculative_tokens
        return keeping_step(costs().at(temperature)) if asked is None else Pace(asked, "so many tokens were asked for")
    known, width = costs().at(temperature), structure.nodes_per_level
    if width is None and not drafter.heeds_prices:
        width = known.widest
    computes = drafter.model is not None or not copies
    asked, draws = config.num_speculative_tokens, _choose(config, temperature, drafter).sampled
    narrows, unrolled = may_narrow(config, drafter), config.bitwise is True
    return AutoBudget(
        known, asked or DEPTH, computes, copies, width, narrows, draws, copied_to=asked, unrolled=unrolled
    )


def may_narrow(config: Config, drafter: Drafter) -> bool:
    """Whether the automatic budget may draft chains where the structure would branch: where no structure was asked for."""
    branches = config.resolved_structure.narrows and not config.drafts_chains
    return config.structure == "auto" and branches and drafter.model is not None and drafter.heeds_prices
