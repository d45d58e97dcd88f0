"""Who is measured by run.py: transformers as its users run it, and draftgraph in several configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.pairs import Pair
from draftgraph.bench.contenders import AGAIN, PLAIN, Contender, Ours, Task, Transformers, endless

NOTES = (
    f"{AGAIN}: the same once more in every turn; how far its speed-up strays from 1 is how far to trust the others.",
    "transformers assisted, as shipped: up to 20 drafted tokens, fewer where the drafter is less than 0.4 sure. "
    "constant N: always N. prompt lookup (N): N tokens that followed the same words earlier in the text.",
    "plain (budget 0), chain, tree, graph, gsd, lookup: draftgraph, with the nodes verified per call at most, and the rule. "
    "gsd is the published order, which merges while it drafts; lookup has no draft model.",
)
"""What the names in the tables mean."""


def field(pair: Pair, task: Task, tuned: Sequence[Contender]) -> list[Contender]:
    """Everybody who is measured in full; `tuned` are the best of `variants`."""
    peers: list[Contender] = [
        Transformers(PLAIN, pair.target, task),
        Transformers(AGAIN, pair.target, task),
        Transformers("transformers assisted (as shipped)", pair.target, task, endless(pair.drafter)),
        *tuned,
    ]
    chain: dict[str, Any] = {"structure": "chain", "budget": 4, "num_speculative_tokens": 4}
    ours: list[Contender] = [Ours("plain (budget 0)", pair, task, budget=0)]
    if task.temperature > 0:
        ours += [Ours(f"chain 4, {rule} rule", pair, task, rule=rule, **chain) for rule in ("block", "token")]
    else:  # every rule is the longest match there
        ours.append(Ours("chain 4", pair, task, **chain))
    ours.append(Ours("tree auto, layer rule", pair, task, structure="tree"))
    ours += [Ours(f"graph {budget}, layer rule", pair, task, budget=budget) for budget in (8, 16, "auto")]
    ours += [
        Ours("graph auto, agree rule", pair, task, rule="agree"),
        Ours("gsd auto, layer rule", pair, task, structure="gsd"),
        Ours("lookup, graph auto, layer rule", pair, task, drafter="lookup"),
    ]
    return peers + ours


def variants(pair: Pair, task: Task) -> dict[str, list[Contender]]:
    """Options of transformers that its user would tune; the fastest of each kind enters the field."""
    constant = {"num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.0}
    assisted: list[Contender] = []
    for count in (2, 4, 6):
        assistant = endless(pair.drafter, num_assistant_tokens=count, **constant)
        assisted.append(Transformers(f"transformers assisted (constant {count})", pair.target, task, assistant))
    lookup: list[Contender] = [
        Transformers(f"transformers prompt lookup ({n})", pair.target, task, prompt_lookup_num_tokens=n)
        for n in (2, 4, 10)
    ]
    return {"assisted": assisted, "prompt lookup": lookup}
