"""Generate with a draft model; what was drafted and accepted; the same seed, the same text."""

import draftgraph as dg
from draftgraph.data import bundled_pair

target, drafter = bundled_pair()  # folders; any causal LM of transformers and a smaller one of its family will do
engine = dg.Engine.from_pretrained(target, draft_model=drafter)
prompt = "class Queue:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"

greedy = engine.generate(prompt, dg.SamplingParams(max_new_tokens=48))
print(greedy.text)
print(f"{greedy.stats.mean_acceptance_length:.2f} tokens per target call, {greedy.stats.num_rounds} calls")

params = dg.SamplingParams(max_new_tokens=48, temperature=0.8, top_p=0.95, seed=7)
for event in engine.stream(prompt, params):
    print(event.text, end="", flush=True)
print()
assert engine.generate(prompt, params).token_ids == engine.generate(prompt, params).token_ids

# `agree` draws with noise that belongs to positions: the text does not depend on the drafter at all.
seeded = dg.SamplingParams(max_new_tokens=32, temperature=1.0, seed=3)
agree = dg.Engine.from_pretrained(target, draft_model=drafter, rule="agree")
plain = dg.Engine.from_pretrained(target, rule="agree", budget=0)
assert agree.generate(prompt, seeded).text == plain.generate(prompt, seeded).text
