"""Passes of static shapes give what passes of any shape give, run as they are or recorded and replayed."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils import ModelOutput

import draftgraph as dg
from draftgraph.backends.base import CacheHandle, Feed
from draftgraph.backends.cuda_graphs import CudaGraphModel
from draftgraph.backends.probe import probe
from draftgraph.backends.static_pass import SCRATCH_CELL
from draftgraph.backends.torch_model import TorchModel
from draftgraph.draft.model import ModelDrafter
from draftgraph.errors import LogitsError, ModelError
from draftgraph.types import ROOT
from fake_gpu import FakeGpu
from models import perturbed, plain, tiny_lm
from recording import RecordedModel

PROMPT = [5, 9, 3, 40]
TOKENS, PARENTS = [7, 8, 7, 9, 1, 2], [ROOT, ROOT, 0, 0, 2, 1]
KINDS = pytest.mark.parametrize("kind", [CudaGraphModel, RecordedModel], ids=["as it is", "recorded"])


@cache
def models(window: int = 128) -> tuple[TorchModel, CudaGraphModel, RecordedModel]:
    lm = tiny_lm(window=window)
    return TorchModel(lm), CudaGraphModel(lm), RecordedModel(lm)


def logits(model: TorchModel, feeds: list[Feed]) -> torch.Tensor:
    return torch.cat([scored.logits for scored in model.forward(feeds)])


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a.float(), b.float(), atol=2e-4, rtol=1e-3)


@KINDS
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen3", "gemma2", "gpt_neox", "phi"])
@torch.inference_mode()
def test_rounds_give_the_logits_of_torch(kind: type[CudaGraphModel], family: str) -> None:
    lm = tiny_lm(family)
    static, reference = kind(lm), TorchModel(lm)
    probe(static)
    texts = static.open(4), reference.open(4)
    for fed in ([*PROMPT], [11], [12]):
        ours, theirs = (
            logits(model, [Feed(text, fed, TOKENS, PARENTS)])
            for model, text in zip((static, reference), texts, strict=True)
        )
        close(ours, theirs)
        static.keep(texts[0], [0, 2])
        reference.keep(texts[1], [0, 2])


_PASSES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 99)), min_size=1, max_size=3)


@given(st.lists(st.lists(_PASSES, min_size=1, max_size=3), min_size=1, max_size=3), st.integers(0, 99))
@settings(max_examples=25)
@torch.inference_mode()
def test_random_trees_of_several_requests_over_several_passes(
    rounds: list[list[list[tuple[int, int, int]]]], seed: int
) -> None:
    """Per round and request, passes of (committed tokens, nodes, where they hang)."""
    everybody = models()
    texts = {(model, i): model.open(2) for model in everybody for i in range(3)}
    for number, requests in enumerate(rounds):
        most = max(map(len, requests))
        for step in range(most):
            seen = []
            for model in everybody:
                feeds = [_feed(texts[model, i], passes, step, number, seed) for i, passes in enumerate(requests)]
                seen.append(logits(model, [feed for feed in feeds if feed.num_rows]))
            for other in seen[1:]:
                close(other, seen[0])
        for (model, _), text in texts.items():
            model.keep(text, _path(text, seed))
    for (model, _), text in texts.items():
        model.close(text)


def _feed(text: CacheHandle, passes: list[tuple[int, int, int]], step: int, number: int, seed: int) -> Feed:
    """The feed of one pass; a request whose passes are over, or that has nothing to feed, gets a node below the root."""
    committed, nodes, choice = passes[step] if step < len(passes) else (0, 1, 0)
    if step:
        committed = 0
    before = len(text.nodes)
    parents = [(choice * (j + 3)) % (before + j + 1) - 1 for j in range(nodes)]
    tokens = [(choice + 7 * j + number + seed) % 64 for j in range(nodes)]
    if not len(text) and not step:
        committed = max(1, committed)
    if not committed + nodes:
        tokens, parents = [1], [ROOT]
    return Feed(text, [(seed + j) % 64 for j in range(committed)], tokens, parents)


def _path(text: CacheHandle, seed: int) -> list[int]:
    """A node's path from the root, as numbers of nodes."""
    if not text.nodes:
        return []
    ends = [cells[-1] for cells in text.nodes]
    return [ends.index(cell) for cell in text.nodes[seed % len(ends)]]


@torch.inference_mode()
def test_a_bucket_is_recorded_once() -> None:
    model = RecordedModel(tiny_lm())
    text = model.open(8)
    for token in range(12):
        model.forward([Feed(text, [token])])
        model.keep(text, ())
    assert model.recordings == 1
    model.forward([Feed(text, [1], [2, 3], [ROOT, ROOT])])
    model.forward([Feed(text, (), [2, 3, 4, 5], [ROOT] * 4)])
    assert model.recordings == 2, "three rows and four share a bucket"
    assert model.recorded(3) is model.recorded(4)
    assert model.recorded(5) is None


@torch.inference_mode()
def test_growing_texts_and_wide_passes_move_the_cells_and_nothing_is_lost() -> None:
    reference, _, model = models(window=8192)
    long = [(7 * i) % 64 for i in range(300)]
    texts = {each: each.open(4) for each in (model, reference)}
    others = {each: each.open(4) for each in (model, reference)}
    for fed in ([3], long, [4], [*long, *long], [5], [*long] * 3, [6]):
        found = [logits(each, [Feed(others[each], [9]), Feed(texts[each], fed)]) for each in texts]
        close(*found)
        others = {each: each.open(len(texts[each]) + 2600) for each in texts}  # so much room moves the memory
        found = [logits(each, [Feed(texts[each], [8], [1], [ROOT])]) for each in texts]
        close(*found)
        for each, text in texts.items():
            each.keep(text, ())


@torch.inference_mode()
def test_weights_that_change_in_place_are_seen_and_replaced_ones_are_recorded_anew() -> None:
    lm = tiny_lm()
    model, reference = RecordedModel(lm), TorchModel(lm)

    def compare() -> None:
        found = []
        for each in (model, reference):
            text = each.open(8)
            found.append(logits(each, [Feed(text, PROMPT)]))
            each.close(text)
        close(*found)

    compare()
    lm.get_output_embeddings().weight.mul_(0.5)
    compare()
    assert model.recordings == 1
    lm.get_output_embeddings().weight = torch.nn.Parameter(torch.randn(64, 32), requires_grad=False)
    compare()
    assert model.recordings == 2
    lm.model.norm.register_forward_hook(lambda module, args, output: output * 2.0)
    compare()
    assert model.recordings == 3


@torch.inference_mode()
def test_what_lies_in_the_scratch_cell_is_read_by_nobody() -> None:
    reference, model, _ = models()
    texts = {each: each.open(8) for each in (model, reference)}
    for each, text in texts.items():
        each.forward([Feed(text, PROMPT)])
    for layer in model.cache.memory.tensors:
        for held in layer:
            held[:, :, SCRATCH_CELL] = 1e4
    close(*(logits(each, [Feed(text, [8], [1, 2], [ROOT, 0])]) for each, text in texts.items()))


def _nan_logits(module: torch.nn.Module, args: object, output: ModelOutput) -> None:
    output.logits.fill_(torch.nan)


@KINDS
@torch.inference_mode()
def test_a_failed_pass_leaves_a_clean_pool(kind: type[CudaGraphModel]) -> None:
    lm = tiny_lm()
    model, reference = kind(lm), TorchModel(lm)
    texts = {each: each.open(16) for each in (model, reference)}
    for each, text in texts.items():
        each.forward([Feed(text, PROMPT)])
    handle = lm.register_forward_hook(_nan_logits)
    bad = model.open(16)
    with pytest.raises(LogitsError, match="LlamaForCausalLM returned NaN"):
        model.forward([Feed(bad, PROMPT, TOKENS, PARENTS)])
    handle.remove()
    model.close(bad)
    model.close(model.open(1))
    close(*(logits(each, [Feed(text, [8])]) for each, text in texts.items()))


@torch.inference_mode()
def test_a_model_that_reads_on_the_host_is_refused() -> None:
    lm = tiny_lm()
    lm.model.norm.register_forward_hook(lambda module, args, output: output * float(output.max() * 0 + 1))
    model = RecordedModel(lm)
    with pytest.raises(ModelError, match=r"cannot be recorded in a CUDA graph .*; write backend='torch'"):
        probe(model)


def test_adapters_are_refused() -> None:
    lm = tiny_lm()
    lm._hf_peft_config_loaded = True
    with pytest.raises(ModelError, match="would not notice an adapter"):
        CudaGraphModel(lm)


@torch.inference_mode()
def test_taps_are_those_of_torch() -> None:
    reference, _, model = models()
    found = []
    for each in (reference, model):
        text = each.open(8)
        found.append(each.forward([Feed(text, PROMPT, TOKENS, PARENTS)], ["hidden:1"])[0].taps["hidden:1"])
        each.close(text)
    close(*found)


@torch.inference_mode()
def test_a_pass_brings_its_inputs_over_in_one_copy_and_is_waited_for_once() -> None:
    lm = tiny_lm()
    model = CudaGraphModel(lm)
    with FakeGpu(lm) as gpu:
        text = model.open(8)
        for token in (3, 4):
            gpu.reads.clear()
            gpu.writes = 0
            model.forward([Feed(text, [token], TOKENS, PARENTS)])
            model.keep(text, [0])
        assert gpu.reads == {"item": 1}
        assert gpu.writes == 0


@KINDS
@pytest.mark.parametrize("structure", ["chain", "tree", "graph"])
def test_an_engine_on_it_decodes_as_on_torch(kind: type[CudaGraphModel], structure: str) -> None:
    lm = tiny_lm()
    small = perturbed(lm, 0.1)
    config = dg.Config(structure=structure, budget=6, rule="agree")
    texts = []
    for backend in (TorchModel, kind):
        engine = dg.Engine(backend(lm), ModelDrafter(backend(small), 64), config, None, frozenset())
        texts.append([engine.generate(PROMPT, max_new_tokens=24, temperature=t, seed=5).token_ids for t in (0.0, 0.9)])
    assert texts[0] == texts[1]
    assert texts[1][0] == plain(lm, PROMPT, 24)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("structure", ["chain", "tree"])
def test_on_a_gpu_replays_decode_as_torch_does(structure: str) -> None:
    lm = tiny_lm().to("cuda", torch.float64)  # no near-ties
    small = perturbed(lm, 0.1)
    texts = []
    for backend in ("torch", "cuda_graphs"):
        options = {"structure": structure, "budget": 6, "rule": "agree", "backend": backend}
        engine = dg.Engine.from_pretrained(lm, draft_model=small, **options)
        texts.append([engine.generate(PROMPT, max_new_tokens=48, temperature=t, seed=5).token_ids for t in (0.0, 0.9)])
    assert texts[0] == texts[1]
