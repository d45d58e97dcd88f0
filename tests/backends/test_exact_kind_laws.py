"""Exact laws of real rounds on every kind of cache: all draws and verdicts are enumerated, nothing is sampled.

The drafter, the round, the commit and the backend are those that users run. The law of the first tokens is compared with plain
forwards over the whole text. Every kind has a control, in which its handling is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from company import succeeded
from draftgraph.backends import torch_model
from draftgraph.backends.layer_kinds import LayerKind
from draftgraph.backends.probe import honours_masks
from draftgraph.backends.recurrent_model import torch_model as backend_of
from draftgraph.backends.rope import Switch
from draftgraph.backends.states import RowsLayer, StateCache
from draftgraph.backends.torch_model import TorchModel
from draftgraph.draft import model as model_drafter
from draftgraph.draft.terms import Limits
from draftgraph.engine.round import decode_round
from draftgraph.lab.prove.law import Draw, enumerate_draws, total_variation
from draftgraph.request.state import Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise
from draftgraph.sampling.warp import Warper
from draftgraph.structures import Chain, Tree
from draftgraph.types import TokenTree, Verdict
from draftgraph.verification.layer import LayerRule
from models import perturbed, tiny_lm
from recurrent import recurrent

EXACT, VISIBLE = 1e-5, 1e-3
"""Float32 rows of narrow and wide passes agree to the first; a control must differ by more than the second."""
LENGTH, ROUNDS = 3, 2
PROMPT = [i * i * i % 7 % 2 for i in range(13)]
UNTIED = {"tie_word_embeddings": False}
SWITCH = len(PROMPT) + 1
"""Tokens beyond which positions are long: the second token of the text crosses it."""


def lm(family: str, vocab: int = 3, gain: float = 1.5, **options: Any) -> PreTrainedModel:
    return tiny_lm(family, vocab=vocab, gain=gain, logit_gain=1.0, **options)


def without_spans(model: TorchModel, patch: pytest.MonkeyPatch) -> None:
    model.kinds = [LayerKind(kind.name) for kind in model.kinds]


def in_order_of_cells(model: TorchModel, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch_model, "cell_positions", lambda feeds, width: np.arange(width))


def not_anew(model: TorchModel, patch: pytest.MonkeyPatch) -> None:
    model._switch = Switch(SWITCH, rereads=False)


def without(name: str) -> Callable[[TorchModel, pytest.MonkeyPatch], None]:
    return lambda model, patch: setattr(model, name, [])


def not_put_back(model: TorchModel, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StateCache, "restore", lambda cache, saved: None)


def rows_put_back_and_states_not(model: TorchModel, patch: pytest.MonkeyPatch) -> None:
    def restore(cache: StateCache, saved: list[dict[str, Any]]) -> None:
        for layer, held in zip(cache.layers, saved, strict=True):
            if isinstance(layer, RowsLayer):
                vars(layer).update(held)

    patch.setattr(StateCache, "restore", restore)


@dataclass(frozen=True)
class Kind:
    """make  the target. leave_out  its handling, for the control."""

    make: Callable[[], PreTrainedModel]
    leave_out: Callable[[TorchModel, pytest.MonkeyPatch], None]


GROUPED = UNTIED | {"num_key_value_heads": 2, "head_dim": 8}
MIXED = GROUPED | {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 8,
}
CHUNKED = GROUPED | {
    "attention_chunk_size": 4, "num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 48,
    "layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0],
}  # fmt: skip
DECODER = UNTIED | {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
NEO = UNTIED | {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 4}
STRETCHED = UNTIED | {
    "num_key_value_heads": 2, "pad_token_id": 0, "sliding_window": None, "original_max_position_embeddings": SWITCH,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 8.0,
        "original_max_position_embeddings": SWITCH,
    },
}  # fmt: skip
INDEXED = UNTIED | {
    "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "index_topk": 128, "index_n_heads": 2, "index_head_dim": 16, "n_routed_experts": 4, "n_group": 1,
    "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "mlp_layer_types": ["dense", "sparse"],
}  # fmt: skip
KINDS = {
    "window": Kind(lambda: lm("mistral", **GROUPED, sliding_window=4), without_spans),
    "window and full": Kind(lambda: lm("gemma3_text", **MIXED), without_spans),
    "chunk": Kind(lambda: lm("llama4_text", **CHUNKED), without_spans),
    "biases": Kind(lambda: lm("bloom", gain=3.0, n_layer=2, n_head=4, **UNTIED), in_order_of_cells),
    "long positions": Kind(lambda: lm("phi3", **STRETCHED), not_anew),
    "masks of its own": Kind(lambda: lm("gpt_neo", **NEO), without("_holders")),
    "positions of its own": Kind(lambda: lm("bart", **DECODER), without("_tables")),
    "states": Kind(lambda: recurrent("mamba2", 2, 1.0), not_put_back),
    "states and rows": Kind(lambda: recurrent("qwen3_5_text", 3, 1.0), rows_put_back_and_states_not),
    "states, one row at a time": Kind(lambda: recurrent("jamba", 2, 1.0), not_put_back),
    "an index": Kind(lambda: lm("deepseek_v32", vocab=2, **INDEXED), not_put_back),
}


class EnumeratedRule(LayerRule):
    """The layer rule, whose verdicts are enumerated."""

    def verdict(self, tree: TokenTree, p: torch.Tensor, noise: Any, length: int) -> Verdict:
        outcome = self.outcome(tree, p)
        end = noise.draw(torch.tensor(outcome.stop, dtype=torch.float64))
        return Verdict(tuple(tree.path(end - 1)), noise.draw(outcome.bonus(end)))


class EnumeratedNoise(Noise):
    """The randomness of one request: the enumerator's."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(0)
        self.draw = draw


@pytest.fixture(autouse=True)
def enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawer(request: Request) -> Any:
        return lambda laws, depth, addresses: [request.noise.draw(law) for law in laws]  # type: ignore[attr-defined]

    monkeypatch.setattr(model_drafter, "_drawer", drawer)


@cache
def models(kind: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    made = KINDS[kind].make()
    return made, perturbed(made, 0.4)


@cache
def plain_rows(kind: str) -> dict[tuple[int, ...], torch.Tensor]:
    """f64[V] after every beginning of the text, from forwards over the whole of it."""
    over = backend_of(models(kind)[0])
    beginnings = [text for length in range(LENGTH) for text in product(range(over.vocab_size), repeat=length)]
    with torch.inference_mode():
        rows = [over.plain(torch.tensor([[*PROMPT, *beginning]]), 1)[0, -1] for beginning in beginnings]
    return {beginning: row.double().softmax(-1) for beginning, row in zip(beginnings, rows, strict=True)}


def decoded(target: TorchModel, drafter: TorchModel, draw: Draw) -> tuple[tuple[int, ...], int]:
    """What some real rounds emit, and how many drafted tokens were rejected in them."""
    structure = Tree() if target.branches else Chain()
    drafting = model_drafter.ModelDrafter(drafter, target.vocab_size)
    params = SamplingParams(max_new_tokens=LENGTH, temperature=1.0)
    request = Request(
        params, Strategy(EnumeratedRule(), structure, structure.draws, "enumerated"), list(PROMPT), len(PROMPT), LENGTH,
        frozenset(), EnumeratedNoise(draw), Warper(params, len(PROMPT), [], target.device),
        Detokenizer(None, PROMPT, ()), target.vocab_size,
    )  # fmt: skip
    request.text = target.open(LENGTH)
    drafting.begin(request)
    rejected = 0
    try:
        for _ in range(ROUNDS):
            if request.finish_reason is None:
                length = len(request.tokens)
                target.expect(request.text, length)
                drafter.expect(request.drafting.text, length)
                switch = target.switch if target.switch is not None and length <= target.switch else length + LENGTH
                reach = min(request.remaining - 1, switch - length)
                succeeded(decode_round([request], drafting, target, [Limits(3, 2, reach)]))
                record = request.rounds[-1]
                rejected += len(record.tokens) - len(record.path)
        return tuple(request.output), rejected
    finally:
        drafting.end(request)
        target.close(request.text)


def distance(kind: str, target: TorchModel) -> tuple[float, int]:
    """Total variation of what is emitted to the law of plain forwards, and the drafted tokens that were rejected."""
    drafter, rows = backend_of(models(kind)[1]), plain_rows(kind)
    masses: defaultdict[tuple[int, ...], float] = defaultdict(float)
    rejected = 0
    for probability, (text, count) in enumerate_draws(partial(decoded, target, drafter)):
        masses[text] += probability
        rejected += count
    for length in range(LENGTH):  # the target goes on alone
        for beginning in [each for each in masses if len(each) == length]:
            mass = masses.pop(beginning)
            for token, p in enumerate(rows[beginning].tolist()):
                masses[*beginning, token] += mass * p
    texts = list(product(range(target.vocab_size), repeat=LENGTH))
    law = [float(torch.stack([rows[text[:i]][token] for i, token in enumerate(text)]).prod()) for text in texts]
    seen = torch.tensor([masses[text] for text in texts], dtype=torch.float64)
    return total_variation(seen, torch.tensor(law, dtype=torch.float64)), rejected


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_is_that_of_plain_forwards(kind: str) -> None:
    target = backend_of(models(kind)[0])
    assert not honours_masks(target).failed
    found, rejected = distance(kind, target)
    assert found <= EXACT
    assert rejected > 10


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_handling_of_the_kind_the_law_is_another(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = backend_of(models(kind)[0])
    if target.__class__ is not TorchModel:
        honours_masks(target)  # which finds whether rows are read one at a time
    KINDS[kind].leave_out(target, monkeypatch)
    assert distance(kind, target)[0] > VISIBLE
