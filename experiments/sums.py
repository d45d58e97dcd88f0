"""Digit sums in words: a task with a checkable answer and many equivalent spellings, and a tiny pair that was trained on it.

    add 7 8 3 =   first 7 plus 8 is 15 ; then 15 and three makes 18 ; so 18 .

Which of the equivalent words comes depends on the numbers, by a chance that is a little more than even. So a target knows which
one is likelier, and a small drafter often takes another. Sums are the other thing that the drafter gets wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DIGITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STARTS, PLUS, MAKES, BREAKS, ENDS = (
    ("first", "well", "now"), ("plus", "and", "with"), ("is", "makes", "gives"), (";", ",", "then"), ("so", "thus", "total"),
)  # fmt: skip
LIKELIER = 0.6
"""Chance of the word that the numbers favour; the others share the rest."""
MOST = 9 * 5
PAD, END, ADD, EQUALS = "<pad>", ".", "add", "="
WORDS = [PAD, END, ADD, EQUALS, *map(str, range(MOST + 1)), *DIGITS, *STARTS, *PLUS, *MAKES, *BREAKS, *ENDS]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model of the task."""

    hidden: int
    layers: int
    steps: int


TARGET, DRAFTER = Shape(hidden=96, layers=3, steps=800), Shape(hidden=32, layers=1, steps=600)


def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token."""
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, PAD))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=END)


def prompt_of(terms: Sequence[int]) -> str:
    return " ".join([ADD, *map(str, terms), EQUALS])


def answer_of(terms: Sequence[int], chance: random.Random) -> str:
    """One of the many right answers."""
    words: list[str] = []
    total = terms[0]
    for number, term in enumerate(terms[1:]):
        step = total + term
        words += [_one_of(STARTS if number == 0 else BREAKS, total, chance), str(total)]
        digit = _one_of((str(term), DIGITS[term - 1]), total + term, chance)
        words += [_one_of(PLUS, total * term, chance), digit, _one_of(MAKES, step, chance), str(step)]
        total = step
    return " ".join([*words, _one_of(ENDS, total, chance), str(total), END])


def _one_of(words: Sequence[str], favours: int, chance: random.Random) -> str:
    likely = words[favours % len(words)]
    return likely if chance.random() < LIKELIER else chance.choice([word for word in words if word != likely])


def terms_of(chance: random.Random) -> list[int]:
    return [chance.randint(1, 9) for _ in range(chance.randint(3, 5))]


def train(shape: Shape, seed: int, batch: int = 64) -> LlamaForCausalLM:
    """A model of the task, trained from scratch on answers that are drawn anew for every step."""
    torch.manual_seed(seed)
    chance, words = random.Random(seed), tokenizer()
    model = LlamaForCausalLM(_config(shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=shape.steps, pct_start=0.1)
    for _ in range(shape.steps):
        texts = [f"{prompt_of(terms)} {answer_of(terms, chance)}" for terms in (terms_of(chance) for _ in range(batch))]
        rows = words(texts, return_tensors="pt", padding=True)["input_ids"]
        logits = model(input_ids=rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=0)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
    return model.eval()


def _config(shape: Shape) -> LlamaConfig:
    heads = shape.hidden // 16
    return LlamaConfig(
        vocab_size=len(WORDS), hidden_size=shape.hidden, intermediate_size=3 * shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=128, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=WORDS.index(END), pad_token_id=WORDS.index(PAD),
    )  # fmt: skip
