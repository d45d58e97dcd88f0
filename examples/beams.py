"""Beams with a draft model: sampled ones, searched ones, and transformers' own beside them."""

import torch
from transformers import AutoModelForCausalLM

import draftgraph as dg
from draftgraph.data import bundled_pair

target, drafter = bundled_pair()
engine = dg.Engine.from_pretrained(target, draft_model=drafter)
prompt = "class Queue:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"

# Every layer is four independent draws from the joint law over (beam, token); drafts do not change that law.
params = dg.BeamParams(num_beams=4, num_return_sequences=4, max_new_tokens=16, temperature=0.8, seed=7)
sampled = engine.beam_sample(prompt, params)
for beam in sampled.beams:
    print(f"{beam.score:.3f} {beam.text!r}")
print(f"{sampled.stats.target_calls_per_layer:.2f} target calls per layer")
assert engine.beam_sample(prompt, params) == sampled

# The best beams are those of transformers.
options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 16, "length_penalty": 0.6}
searched = engine.beam_search(prompt, options)
model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
ids = torch.tensor([engine.tokenizer(prompt)["input_ids"]])
told = {"do_sample": False, "return_dict_in_generate": True, "output_scores": True}
theirs = model.generate(ids, attention_mask=torch.ones_like(ids), **options, **told)
assert torch.equal(searched.sequences, theirs.sequences)
assert torch.allclose(searched.sequences_scores, theirs.sequences_scores, atol=1e-4)
print(f"{searched.text!r}\n{searched.stats.target_calls_per_layer:.2f} target calls per layer")
