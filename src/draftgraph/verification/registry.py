"""The rules by name. To add one, write one file with a subclass of `Rule` and enter it in `_RULES`."""

from __future__ import annotations

from draftgraph.errors import unknown_name
from draftgraph.verification.agree import AgreeRule
from draftgraph.verification.base import Rule
from draftgraph.verification.block import BlockRule
from draftgraph.verification.layer import LayerRule
from draftgraph.verification.published.confidence import ConfidenceRule
from draftgraph.verification.published.greedy_block import GreedyBlockRule
from draftgraph.verification.published.judge import JudgeRule
from draftgraph.verification.published.kseq import KSeqRule
from draftgraph.verification.published.lossy import TopBetaRule, TypicalRule
from draftgraph.verification.published.multipath import MultipathRule
from draftgraph.verification.published.recursive import RecursiveRule
from draftgraph.verification.published.token import TokenRule
from draftgraph.verification.published.traversal import TraversalRule
from draftgraph.verification.walk import WalkRule

_RULES: tuple[Rule, ...] = (
    LayerRule(),
    BlockRule(),
    TokenRule(),
    WalkRule(),
    AgreeRule(),
    TraversalRule(),
    RecursiveRule(),
    KSeqRule(),
    MultipathRule(),
    GreedyBlockRule(),
    TopBetaRule(),
    TypicalRule(),
    JudgeRule(),
    ConfidenceRule(),
)
RULES: dict[str, Rule] = {rule.name: rule for rule in _RULES}


def rules() -> dict[str, Rule]:
    """The rules by name; each has `.lossless`, `.accepts` (laws and structures) and `.source` (the paper)."""
    return dict(RULES)


def get_rule(rule: str | Rule) -> Rule:
    """A rule by name, or the rule itself.

    Raises OptionError with the nearest name if it is unknown.
    """
    if isinstance(rule, Rule):
        return rule
    if not isinstance(rule, str) or rule not in RULES:
        raise unknown_name("rule", rule, RULES)
    return RULES[rule]
