"""Reinforcement learning with our rollouts: texts of the policy's own law, the policy updated in place, the drafter after it.

The engine reads the policy's live weights. A drafter that lags behind costs speed alone, so it may be refreshed when it pays.
"""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import draftgraph as dg
from draftgraph.data import bundled_pair

TARGET, DRAFTER = bundled_pair()
PROMPTS, SAMPLES, TOKENS, ROUNDS = ["def add(", "import "], 4, 12, 3


def reward(text: str) -> float:
    return float(text.count("_"))


def logprobs(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """f[tokens] of an answer, with gradients."""
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


tokenizer = AutoTokenizer.from_pretrained(TARGET)
policy, drafter = (
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in (TARGET, DRAFTER)
)
engine = dg.Engine.from_pretrained(policy, draft_model=drafter, tokenizer=tokenizer, budget=8)
policy_step = torch.optim.AdamW(policy.parameters(), lr=3e-4)
drafter_step = torch.optim.AdamW(drafter.parameters(), lr=3e-4)

for number in range(ROUNDS):
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS for _ in range(SAMPLES)]
    asked = [dg.SamplingParams(max_new_tokens=TOKENS, temperature=1.0, seed=number, sample=i, logprobs=True)
             for i in range(len(prompts))]  # fmt: skip
    answers = engine.generate(prompts, asked)
    rewards = torch.tensor([reward(answer.text) for answer in answers])
    groups = rewards.view(-1, SAMPLES)
    advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-6)).flatten()
    for prompt, answer, advantage in zip(prompts, answers, advantages, strict=True):
        ours = logprobs(policy, prompt, answer.token_ids)  # those that came with the rollout are the policy's own
        torch.testing.assert_close(ours.detach(), torch.tensor(answer.logprobs), atol=1e-3, rtol=0)
        (-advantage * ours.sum() / len(prompts)).backward()
        (
            -logprobs(drafter, prompt, answer.token_ids).mean() / len(prompts)
        ).backward()  # it learns what the policy said
    for optimizer in (policy_step, drafter_step):
        optimizer.step()
        optimizer.zero_grad()
    engine.weights_changed()  # what the old weights have read is not used again
    tokens = sum(answer.stats.mean_acceptance_length for answer in answers) / len(answers)
    print(f"round {number}: mean reward {rewards.mean():.2f}, {tokens:.2f} tokens per call of the policy")
