"""Speculative decoding through transformers' own `generate`.

    python examples/inside_transformers.py [MODEL DRAFTER [PROMPT]]

Without arguments it runs two tiny random models: the point is then the calls, not the text.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, TextStreamer

import draftgraph as dg


def tiny_models() -> list[LlamaForCausalLM]:
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    models = [LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=n, pad_token_id=0)).eval() for n in (4, 1)]
    models[1].load_state_dict(models[0].state_dict(), strict=False)  # the drafter is the target's first layer
    return models


streamer = None
if len(sys.argv) > 2:
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model, drafter = (AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32) for name in sys.argv[1:3])
    inputs = tokenizer(" ".join(sys.argv[3:]) or "def main():", return_tensors="pt")
    streamer = TextStreamer(tokenizer)
else:
    model, drafter = tiny_models()
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 5, 6]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}

speculative = dg.custom_generate(draft_model=drafter, budget=8)  # keep it: it keeps what it prepared for each model
options = {"max_new_tokens": 32, "do_sample": False, "return_dict_in_generate": True}
plain = model.generate(**inputs, **options)
output = model.generate(**inputs, **options, streamer=streamer, custom_generate=speculative)
same = torch.equal(plain.sequences, output.sequences)
print(f"same text: {same}, tokens per call: {output.stats[0].mean_acceptance_length:.2f}")
