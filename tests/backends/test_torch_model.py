"""Rows in, logits out, paths kept: a tree's forward is the forwards of its paths, whoever shares the pass."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils import ModelOutput

import draftgraph as dg
from company import succeeded
from draftgraph.backends.base import CacheHandle, Feed
from draftgraph.backends.cache_argument import cache_name
from draftgraph.backends.probe import probe
from draftgraph.backends.torch_model import TorchModel
from draftgraph.budget.limits import Windows, limits
from draftgraph.engine.requests import make_course
from draftgraph.engine.round import decode_round
from draftgraph.errors import LogitsError, ModelError
from draftgraph.request.state import Request
from draftgraph.types import ROOT
from models import FAMILIES, perturbed, tiny_lm

CACHE = cache_name()
PROMPT = [5, 9, 3, 40]
TOKENS, PARENTS = [7, 8, 7, 9, 1, 2], [ROOT, ROOT, 0, 0, 2, 1]
TREE = dg.TokenTree(TOKENS, PARENTS, [-1] * 6)


@cache
def model(family: str = "llama") -> TorchModel:
    return TorchModel(tiny_lm(family))


def plain(over: TorchModel, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return over.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].float()


def expected(over: TorchModel, text: list[int], tree: dg.TokenTree) -> torch.Tensor:
    return torch.stack([plain(over, [*text, *tree.path_tokens(node)]) for node in range(-1, len(tree))])


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a.float(), b.float(), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_tree_is_its_paths(family: str) -> None:
    over = model(family)
    text = over.open(4)  # too few on purpose: it grows
    close(over.forward([Feed(text, PROMPT, TOKENS, PARENTS)])[0].logits, expected(over, PROMPT, TREE))
    over.keep(text, [0, 2])
    assert len(text) == 6
    committed = [*PROMPT, 7, 7]
    close(over.forward([Feed(text, [11], TOKENS, PARENTS)])[0].logits, expected(over, [*committed, 11], TREE))
    over.keep(text, ())
    close(over.forward([Feed(text, [12])])[0].logits, plain(over, [*committed, 11, 12])[None])
    over.close(text)
    assert not over.cache._used
    assert len(text) == 0


@pytest.mark.parametrize("name", ["cache", "past_key_values", "neither"])
@torch.inference_mode()
def test_a_model_gets_its_cache_by_the_name_in_its_signature(name: str) -> None:
    """Code from a hub may be older or newer than the transformers it runs on; a wrapper may name no argument at all."""
    lm = tiny_lm()
    theirs = lm.forward
    forwards = {
        "cache": lambda cache=None, **inputs: theirs(**inputs, **{CACHE: cache}),
        "past_key_values": lambda past_key_values=None, **inputs: theirs(**inputs, **{CACHE: past_key_values}),
        "neither": lambda **inputs: theirs(**inputs),
    }
    lm.forward = forwards[name]
    over = TorchModel(lm)
    text = over.open(16)
    close(over.forward([Feed(text, PROMPT, TOKENS, PARENTS)])[0].logits, expected(over, PROMPT, TREE))


@torch.inference_mode()
def test_nodes_over_several_passes() -> None:
    """As a drafter does: level by level, parents numbered over the whole round."""
    over = model()
    text = over.open(32)
    first = over.forward([Feed(text, PROMPT)])[0].logits
    second = over.forward([Feed(text, [], TOKENS[:2], PARENTS[:2])])[0].logits
    third = over.forward([Feed(text, [], TOKENS[2:], PARENTS[2:])])[0].logits
    close(torch.cat((first, second, third)), expected(over, PROMPT, TREE))
    over.keep(text, [0, 2, 4])
    close(over.forward([Feed(text, [3])])[0].logits, plain(over, [*PROMPT, 7, 7, 1, 3])[None])
    over.close(text)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@torch.inference_mode()
def test_two_requests_in_one_pass(family: str) -> None:
    over = model(family)
    a, b = over.open(16), over.open(16)
    rows = [scored.logits for scored in over.forward([Feed(a, PROMPT, TOKENS, PARENTS), Feed(b, [2, 2], [3], [ROOT])])]
    close(rows[0], expected(over, PROMPT, TREE))
    close(rows[1], torch.stack([plain(over, [2, 2]), plain(over, [2, 2, 3])]))
    over.keep(a, [1])
    over.keep(b, [0])
    rows = [scored.logits for scored in over.forward([Feed(b, [9]), Feed(a, [4], [5], [ROOT])])]
    close(rows[0], plain(over, [2, 2, 3, 9])[None])
    close(rows[1], torch.stack([plain(over, [*PROMPT, 8, 4]), plain(over, [*PROMPT, 8, 4, 5])]))
    over.close(a)
    close(over.forward([Feed(b, [1])])[0].logits, plain(over, [2, 2, 3, 9, 1])[None])
    over.close(b)
    assert not over.cache._used


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(0, 99)), min_size=1, max_size=10), st.integers(0, 10),
    st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=25)
@torch.inference_mode()
def test_random_trees_and_rounds(nodes: list[tuple[int, int]], keep: int, rounds: int) -> None:
    over = model()
    parents = [choice % (i + 1) - 1 for i, (_, choice) in enumerate(nodes)]
    tree = dg.TokenTree([token for token, _ in nodes], parents, [-1] * len(nodes))
    text, committed, fed = over.open(8), [1], [1]
    for _ in range(rounds):
        close(over.forward([Feed(text, fed, tree.tokens, tree.parents)])[0].logits, expected(over, committed, tree))
        path = tree.path(keep % len(tree))
        over.keep(text, path)
        fed = [17]
        committed = [*committed, *(tree.tokens[node] for node in path), 17]
    over.close(text)
    assert not over.cache._used


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.inference_mode()
def test_other_precisions(dtype: torch.dtype) -> None:
    over = TorchModel(tiny_lm().to(dtype))
    probe(over)
    text = over.open(16)
    rows = over.forward([Feed(text, PROMPT, TOKENS, PARENTS)])[0].logits
    assert rows.dtype == dtype
    tolerance = 0.15 if dtype == torch.bfloat16 else 1e-9
    assert float((rows.float() - expected(over, PROMPT, TREE)).abs().max()) <= tolerance * float(rows.abs().max())


def _nan_logits(module: torch.nn.Module, args: object, output: ModelOutput) -> None:
    output.logits.fill_(torch.nan)


@torch.inference_mode()
def test_a_failed_pass_leaves_a_clean_pool() -> None:
    over = TorchModel(tiny_lm())
    good, bad = over.open(16), over.open(16)
    over.forward([Feed(good, PROMPT)])
    handle = over.model.register_forward_hook(_nan_logits)
    with pytest.raises(LogitsError, match="LlamaForCausalLM returned NaN"):
        over.forward([Feed(bad, PROMPT, TOKENS, PARENTS)])
    handle.remove()
    over.close(bad)
    assert len(over.cache._used) == len(PROMPT)
    close(over.forward([Feed(good, [8])])[0].logits, plain(over, [*PROMPT, 8])[None])


def test_the_probe_notices_a_model_that_ignores_its_mask() -> None:
    broken = TorchModel(tiny_lm())
    forward = broken.model.model.forward
    broken.model.model.forward = lambda **kw: forward(**kw | {"attention_mask": None})
    with pytest.raises(ModelError, match="LlamaForCausalLM"):
        probe(broken)
    assert not broken.cache._used
    positions = TorchModel(tiny_lm())
    inner = positions.model.model.forward
    positions.model.model.forward = lambda **kw: inner(**kw | {"position_ids": None})
    with pytest.raises(ModelError, match="LlamaForCausalLM"):
        probe(positions)


# --- the round is flat over requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("drafting", ["model", "lookup"])
def test_rounds_of_several_requests(temperature: float, drafting: str) -> None:
    """Requests decoded in the same rounds give what each gives alone, whoever ends first."""
    target = tiny_lm()
    draft = perturbed(target, 0.1) if drafting == "model" else None
    engine = dg.Engine.from_pretrained(target, draft_model=draft, budget=6)
    params = [dg.SamplingParams(max_new_tokens=n, temperature=temperature, seed=n) for n in (9, 17, 13)]
    prompts = [PROMPT, [2, 3, 2, 3], [7]]
    alone = [engine.generate(prompt, its).token_ids for prompt, its in zip(prompts, params, strict=True)]
    requests = [make_course(engine, prompt, its).request for prompt, its in zip(prompts, params, strict=True)]
    asked = engine.config.budget, engine.config.num_speculative_tokens
    bounds = partial(limits, *asked, windows=Windows.of(engine.target, engine.drafter))
    for request in requests:
        request.text = engine.target.open(64)
        engine.drafter.begin(request)
    live: list[Request] = list(requests)
    while live:
        events = succeeded(decode_round(live, engine.drafter, engine.target, [bounds(request) for request in live]))
        assert len(events) == len(live)
        live = [request for request in live if request.finish_reason is None]
    assert [request.output for request in requests] == alone
    for request in requests:
        engine.drafter.end(request)
        assert isinstance(request.text, CacheHandle)
        engine.target.close(request.text)
    assert not engine.target.cache._used


def test_type_and_device_are_those_of_the_weights_as_they_are_now() -> None:
    over = TorchModel(tiny_lm())
    assert (over.dtype, over.device) == (torch.float32, torch.device("cpu"))
    over.model.to(torch.bfloat16)
    assert over.dtype == torch.bfloat16
    over.model.load_state_dict({k: v.double() for k, v in over.model.state_dict().items()}, assign=True)
    assert over.dtype == torch.float64
