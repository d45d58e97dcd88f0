"""A drafter of one's own, and the prover's verdict on it: at every step one token FIXED and one SAMPLED."""

from itertools import pairwise

import torch

import draftgraph as dg
from draftgraph.data import bundled_pair


class Bigrams(dg.Drafter):
    """Drafts what has followed the last token so far."""

    def propose(self, request, limits):
        graph, node, text = dg.DraftGraph(), dg.ROOT, list(request.tokens)
        for _ in range(min(limits.depth, limits.reach, limits.budget // 2)):
            counts = torch.full((request.vocab_size,), 1e-3, dtype=torch.float64)
            for token, following in pairwise(text):
                counts[following] += token == text[-1]
            law = counts / counts.sum()
            graph.fix(node, int(law.argmax()))  # the best token, FIXED
            node = graph.sample(node, law, request.draw)  # one draw from the law, SAMPLED
            text.append(graph.tokens[node])
        return dg.Draft(graph)


if __name__ == "__main__":
    target, _ = bundled_pair()
    engine = dg.Engine.from_pretrained(target, drafter=Bigrams(), budget=8)
    prompt = "class Queue:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"
    result = engine.generate(prompt, dg.SamplingParams(max_new_tokens=48, temperature=0.7, seed=1))
    print(result.text, f"\n\n{result.stats.mean_acceptance_length:.2f} tokens per target call")

    proof = dg.prove("layer", drafter=Bigrams(), controls=False)
    print(f"{proof.rule} on its drafts: holds={proof.holds}, total variation {proof.max_tv:.1e}")
    assert proof.holds
