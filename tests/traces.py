"""Traces without a model: rounds of random shape, with tokens that try to break what shows them."""

from __future__ import annotations

import random

from draftgraph.draft.edges.sources import EDGES
from draftgraph.request.record import RoundRecord
from draftgraph.request.stats import PARTS, Stats
from draftgraph.types import ROOT
from draftgraph.view.tracefile import Trace

NASTY = (
    " x", "\n    ", "</script><script>document.title='broken out'</script>", "<!--<script>", "&lt;b>", "\x1b[2J", "\u202eabc",
    "\u2028", "漢", "“", "\\u003c", "<img src=x onerror=alert(1)>", "'\"`${1}", "a" * 60,
)  # fmt: skip
PROMPT = [0, 1, 0, 8]


def random_trace(rounds: int, nodes: int, seed: int = 0) -> Trace:
    """A trace of `rounds` rounds with `nodes` nodes each, of every origin."""
    rng = random.Random(seed)
    tokens: list[int] = []
    records = []
    for _ in range(rounds):
        record = _random_round(rng, nodes, len(PROMPT) + len(tokens))
        tokens += [*(record.tokens[node] for node in record.path), record.bonus]
        records.append(record)
    accepted = sum(len(record.path) for record in records)
    stats = Stats(
        rule="layer", structure="graph", lossless=True, mean_acceptance_length=1 + accepted / max(1, rounds),
        draft_acceptance_rate=accepted / max(1, rounds * nodes), acceptance_histogram=[rounds], num_rounds=rounds,
        num_draft_tokens=rounds * nodes, num_accepted_tokens=accepted, num_drafter_evaluations=0, num_drafter_passes=0,
        num_merged_nodes=0, num_verified_nodes=rounds * nodes, num_prompt_tokens=len(PROMPT), num_output_tokens=len(tokens),
        accepted_by_source={}, accepted_by_match_length={}, seconds=dict.fromkeys(PARTS, 0.5),
        numerics="exact",
    )  # fmt: skip
    pieces = [NASTY[token] for token in tokens]
    return Trace(
        "".join(NASTY[token] for token in PROMPT), list(PROMPT), [NASTY[token] for token in PROMPT], "".join(pieces), tokens,
        pieces, dict(enumerate(NASTY)), "length", 2**60 + 1,
        {"rule": "layer", "structure": "graph", "slots": "sampled", "reason": "of </script> a reason"}, stats, records,
    )  # fmt: skip


def _random_round(rng: random.Random, nodes: int, length: int) -> RoundRecord:
    parents = [rng.randint(max(ROOT, i - 6), i - 1) for i in range(nodes)]
    origins = [rng.choice(["drafter", "drafter", "merge", *EDGES]) for _ in range(nodes)]
    places = {"merge": lambda i: rng.choice([None, rng.randrange(ROOT, i)]), "drafter": parents.__getitem__}
    path: list[int] = []
    while below := [i for i, parent in enumerate(parents) if parent == (path[-1] if path else ROOT)]:
        if rng.random() < 0.3:
            break
        path.append(rng.choice(below))
    return RoundRecord(
        length=length,
        tokens=[rng.randrange(len(NASTY)) for _ in range(nodes)],
        parents=parents,
        sampled=[origin == "drafter" and rng.random() < 0.5 for origin in origins],
        origins=origins,
        scores=[rng.random() for _ in range(nodes)],
        drafted_at=[places.get(origin, lambda i: rng.randrange(length))(i) for i, origin in enumerate(origins)],
        path=tuple(path),
        bonus=rng.randrange(len(NASTY)),
        emitted=len(path) + 1,
        num_passes=3,
        num_evaluations=nodes,
        seconds={part: rng.random() / 100 for part in PARTS},
        p=[rng.random() for _ in range(nodes)],
        q=[rng.choice([None, rng.random()]) for _ in range(nodes)],
        masses=[rng.random() for _ in range(nodes)],
    )
