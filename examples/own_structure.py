"""A structure of one's own: some chains that part at the root."""

from dataclasses import dataclass

import draftgraph as dg
from draftgraph.data import bundled_pair


@dataclass(frozen=True)
class Fork(dg.structures.Structure):
    """`count` branches at the root, each of which goes on as a chain."""

    count: int = 2

    def grow(self, growth):
        graph, nodes, limits = dg.DraftGraph(), [dg.ROOT], growth.limits
        for level in range(min(limits.depth, limits.reach, limits.budget // self.count)):
            children = growth.expand(graph, nodes, k=1 if level else self.count)  # one drafter pass
            nodes = [child for below in children for child in below]
        return graph


if __name__ == "__main__":
    target, drafter = bundled_pair()
    prompt = "class Queue:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"
    params = dg.SamplingParams(max_new_tokens=48, temperature=0.7, seed=1)
    for structure in ("chain", Fork(), Fork(3)):
        engine = dg.Engine.from_pretrained(target, draft_model=drafter, structure=structure, budget=12)
        stats = engine.generate(prompt, params).stats
        print(f"{structure}: {stats.mean_acceptance_length:.2f} tokens per target call under rule {stats.rule!r}")
