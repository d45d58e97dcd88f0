"""GRPO of TRL with our rollouts: `rollout_func` asks the engine, which reads the weights that the trainer has just updated."""

import sys

import draftgraph as dg
from draftgraph.data import bundled_pair

try:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer
except ImportError as error:
    print(f"not run ({error}); pip install 'trl>=1.16'")
    sys.exit()

TARGET, DRAFTER = bundled_pair()
tokenizer = AutoTokenizer.from_pretrained(TARGET)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.convert_ids_to_tokens(0)
policy = AutoModelForCausalLM.from_pretrained(TARGET, dtype="float32")
drafter = AutoModelForCausalLM.from_pretrained(DRAFTER, dtype="float32").eval()
policy.eval()
engine = dg.Engine.from_pretrained(policy, draft_model=drafter, tokenizer=tokenizer, budget=8)


def rollouts(prompts, trainer):
    """Texts of the policy as it is now, with its own log-probabilities."""
    was_training = policy.training
    policy.eval()
    engine.weights_changed()
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    asked = dg.SamplingParams(max_new_tokens=12, temperature=1.0, seed=trainer.state.global_step, logprobs=True)
    answers = engine.generate(ids, [asked.with_options(sample=number) for number in range(len(ids))])
    policy.train(was_training)
    print(f"{sum(answer.stats.mean_acceptance_length for answer in answers) / len(answers):.2f} tokens per call")
    return {
        "prompt_ids": ids,
        "completion_ids": [answer.token_ids for answer in answers],
        "logprobs": [answer.logprobs for answer in answers],
    }


options = GRPOConfig(
    "grpo", max_steps=3, per_device_train_batch_size=8, num_generations=4, max_completion_length=12, learning_rate=3e-4,
    logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False,
)  # fmt: skip
trainer = GRPOTrainer(
    model=policy, args=options, processing_class=tokenizer, rollout_func=rollouts,
    reward_funcs=lambda completions, **_: [float(text.count("_")) for text in completions],
    train_dataset=Dataset.from_dict({"prompt": ["def add(", "import "] * 8}),
)  # fmt: skip
trainer.train()
