"""What does not go with schedule="parallel": refused by name, with what to write instead."""

from __future__ import annotations

from typing import NoReturn

from draftgraph.backends.base import CausalLM
from draftgraph.draft.base import Drafter
from draftgraph.draft.structures.base import Structure
from draftgraph.errors import OptionError, brief
from draftgraph.verification.base import Rule
from draftgraph.verification.onward import reads_last_row

INSTEAD = "or schedule='sequential'"


def refuse_drafter(asked: object, own: Drafter | None) -> None:
    """Refuse a drafter that cannot go on while the target verifies. own  the user's."""
    if own is not None and not own.goes_on:
        raise OptionError(
            f"schedule='parallel' drafts on while the target verifies, and {own.name} drafts for one round at a time "
            f"(goes_on is False); write draft_model=..., {INSTEAD}"
        )
    if own is None and asked not in (None, "model"):
        raise OptionError(
            f"schedule='parallel' drafts with a model while the target verifies, and drafter={brief(asked)} has none, so that "
            f"there is nothing to do meanwhile; write draft_model=..., {INSTEAD}"
        )


def refuse_unready(own: Drafter | None) -> None:
    """Refuse an engine without a draft model. own  the user's drafter, which may go on without one."""
    if own is None:
        raise OptionError(
            "schedule='parallel' drafts with a draft model while the target verifies, and there is none; write "
            f"draft_model=..., {INSTEAD}"
        )


def refuse_branches(structure: Structure) -> NoReturn:
    raise OptionError(
        f"schedule='parallel' drafts one path on and on, and structure={structure} branches: it would have to go on behind every "
        f"leaf. Leave structure out, write 'chain', {INSTEAD}"
    )


def refuse_copies(edges: object) -> NoReturn:
    raise OptionError(
        f"edges={brief(edges)} fill spare slots of a draft, and the path of schedule='parallel' has none; leave edges out, "
        f"{INSTEAD}"
    )


def refuse_rule(rule: Rule, sampled: bool) -> None:
    """Refuse a rule that waits for the row behind the last token, which is drafted while the target computes."""
    if rule.head is not None:
        raise OptionError(
            f"rule {rule.name!r} reads hidden states of all drafted tokens, which schedule='parallel' does not have for the last "
            "one; write schedule='sequential'"
        )
    if reads_last_row(rule, sampled):
        raise OptionError(
            f"rule {rule.name!r} decides about a chain by the row behind its last token, which schedule='parallel' judges "
            f"before the target has read it; write rule='block', {INSTEAD}"
        )


def refuse_features(name: str) -> NoReturn:
    raise OptionError(
        f"schedule='parallel' drafts while the target computes, and {name} reads the hidden states that the target computes just "
        "then; write schedule='sequential', or draft_model= a causal language model"
    )


def refuse_one_device(*models: CausalLM) -> None:
    """Refuse models whose passes take turns whoever asks for them."""
    for model in models:
        if model.device.type != "cpu":
            raise OptionError(
                f"schedule='parallel' gives each model cores of its own, and {model.model_name} is on {model.device}, where "
                f"passes take turns; write device='cpu', {INSTEAD}"
            )
