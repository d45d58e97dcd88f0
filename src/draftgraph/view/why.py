"""Why a drafted token was accepted or rejected, in one sentence, from what the rule read of it."""

from __future__ import annotations

from draftgraph.request.record import RoundRecord
from draftgraph.types import ROOT


def why(record: RoundRecord, node: int) -> str:
    """The fate of a node of a round, and the probabilities that decided it.

    A trace of an earlier version has no probabilities; then the sentence tells the fate only.
    """
    fate = _fate(record, node)
    return f"{fate}; {_figures(record, node)}" if record.masses else fate


def _fate(record: RoundRecord, node: int) -> str:
    parent = record.parents[node]
    if node in record.path:
        emitted = record.path.index(node) < record.emitted
        forgiven = bool(record.masses) and record.p[node] == 0.0
        fate = "accepted: the target would not write it, and the rule forgives it" if forgiven else "accepted"
        return fate if emitted else f"{fate}, and cut off by the end of the text"
    if parent != ROOT and parent not in record.path:
        return "not reached: a token above it was rejected"
    if any(record.parents[other] == parent for other in record.path):
        return "rejected: another token was accepted in its place"
    return "rejected: the path ended above it"


def _figures(record: RoundRecord, node: int) -> str:
    """p, q, and the chance to be accepted where its parent is."""
    parent, q = record.parents[node], record.q[node]
    above = 1.0 if parent == ROOT else record.masses[parent]
    chance = min(1.0, record.masses[node] / above) if above > 0.0 else 0.0
    drawn = "it was chosen, not drawn" if q is None else f"it was drawn with q = {q:.3g}"
    return (
        f"the target gives it p = {record.p[node]:.3g}, {drawn}; "
        f"given this draft, the rule accepts it behind its parent with probability {chance:.3g}"
    )
