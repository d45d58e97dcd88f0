"""Who is measured: ways to continue a prompt by the same number of tokens, all on the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, PreTrainedModel

import draftgraph as dg
from bench.pairs import Pair, endless

PLAIN = "transformers plain"
"""The contender that everybody's time is divided by, and whose greedy text everybody must reproduce."""

NOTES = (
    f"{PLAIN}, again: the same once more in every turn; how far its speed-up strays from 1 is how far to trust the others.",
    "transformers assisted, as shipped: up to 20 drafted tokens, fewer where the drafter is less than 0.4 sure. "
    "constant N: always N. prompt lookup (N): N tokens that followed the same words earlier in the text.",
    "plain (budget 0), chain, tree, graph, gsd, lookup: draftgraph, with the nodes verified per call at most, and the rule. "
    "gsd is the published order, which merges while it drafts; lookup has no draft model.",
)
"""What the names in the tables mean."""


@dataclass(frozen=True)
class Answer:
    """What one run generated, counted alike for everybody.

    ids     the new token ids.
    rounds  target calls. nodes  drafted rows that the target computed in them.
    parts   wall seconds per part of the rounds (`draftgraph.stats.PARTS`); None where nobody splits them.
    """

    ids: list[int]
    rounds: int
    nodes: int
    parts: dict[str, float] | None = None


class Contender(Protocol):
    @property
    def name(self) -> str: ...
    def answer(self, prompt: Sequence[int], seed: int) -> Answer: ...


@dataclass(frozen=True)
class Task:
    """What everybody has to do: `tokens` new tokens at `temperature` (0 is greedy), nothing truncated or penalised."""

    temperature: float
    tokens: int


class Transformers:
    """`model.generate` of transformers: plain, with `assistant_model`, or with `prompt_lookup_num_tokens`."""

    def __init__(
        self, name: str, target: PreTrainedModel, task: Task, assistant: PreTrainedModel | None = None, **options: Any
    ) -> None:
        self.name, self.target, self.assistant = name, target, assistant
        if task.temperature > 0:  # top_k=0: transformers would keep 50 tokens by default
            options |= {"do_sample": True, "temperature": task.temperature, "top_k": 0, "top_p": 1.0}
        else:
            options |= {"do_sample": False}
        self.config = GenerationConfig(max_new_tokens=task.tokens, pad_token_id=0, **options)

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        ids = torch.tensor([prompt])
        torch.manual_seed(seed)
        speculating = {"assistant_model": self.assistant} if self.assistant is not None else {}
        with _counted(self.target) as rows:
            out = self.target.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=self.config, **speculating
            )
        # The first call reads the prompt, every later one the token before; the other rows are drafted.
        return Answer(out[0, len(prompt) :].tolist(), len(rows), sum(rows) - len(prompt) - (len(rows) - 1))


@contextmanager
def _counted(model: PreTrainedModel) -> Iterator[list[int]]:
    """The number of rows of every forward pass. The hook costs microseconds, a pass milliseconds."""
    rows: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        yield rows
    finally:
        hook.remove()


class Ours:
    """One engine. Its text is detokenised as it comes, which transformers' runs do not do; that counts against us."""

    def __init__(self, name: str, pair: Pair, task: Task, **options: Any) -> None:
        """options  fields of `draftgraph.Config`; without a `drafter` among them the pair's drafts."""
        self.name = name
        drafter = None if "drafter" in options else pair.drafter
        self.engine = dg.Engine.from_pretrained(pair.target, draft_model=drafter, tokenizer=pair.tokenizer, **options)
        self.params = dg.SamplingParams(max_new_tokens=task.tokens, temperature=task.temperature, ignore_eos=True)

    def answer(self, prompt: Sequence[int], seed: int) -> Answer:
        result = self.engine.generate(list(prompt), replace(self.params, seed=seed))
        stats = result.stats
        return Answer(result.token_ids, stats.num_rounds, stats.num_verified_nodes, stats.seconds)


def field(pair: Pair, task: Task, tuned: Sequence[Contender]) -> list[Contender]:
    """Everybody who is measured in full; `tuned` are the best of `variants`."""
    peers: list[Contender] = [
        Transformers(PLAIN, pair.target, task),
        Transformers(f"{PLAIN}, again", pair.target, task),
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
