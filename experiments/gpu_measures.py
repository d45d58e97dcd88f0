"""What the GPU experiment measures. Every function stops at its deadline, and returns plain rows."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from typing import Any

import torch

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.backends.cuda_graphs import CudaGraphModel
from draftgraph.backends.torch_model import TorchModel
from draftgraph.lab.turns import Contender, Turn, take_turns
from draftgraph.sampling.params import SamplingParams
from experiments.gpu_stage import (
    EAGER,
    GRAPHS,
    TINY,
    Ours,
    Size,
    Stage,
    Transformers,
    bytes_read,
    context,
    median_seconds,
    pass_ms,
    warm,
)
from experiments.host_reads import counted
from experiments.peaked import Language, random_model, teach

Row = dict[str, Any]
ROWS = (1, 2, 4, 5, 8, 16, 32, 64, 128, 256)
CONTEXT, CONTEXTS = 512, (512, 4096, 16384)
PLAIN = "plain"
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {"budget": 0},
    "chain 4": {"structure": "chain", "budget": 4},
    "chain 8": {"structure": "chain", "budget": 8},
    "tree 8": {"structure": "tree", "budget": 8},
    "tree 16": {"structure": "tree", "budget": 16},
    "tree 32": {"structure": "tree", "budget": 32},
}
EAGER_WAYS = (PLAIN, "chain 4", "tree 16")
GENERATE = "transformers generate"
AGREEMENTS, TEMPERATURES = (0.8, 0.6, 0.9), (0.0, 1.0)


def machine(stage: Stage, until: float) -> list[Row]:
    """The device, and the two ceilings: bytes copied and products computed per second; what a launch and a read cost."""
    device, scale = stage.device, 1 if stage.quick else 64
    source = torch.randn(scale * 2**22, device=device)
    sink = torch.empty_like(source)
    copy = median_seconds(stage, lambda: sink.copy_(source), 0.3)
    stage.bandwidth = 2 * source.nbytes / copy
    side = 512 * (1 if stage.quick else 16)
    a, b = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    product = median_seconds(stage, lambda: a @ b, 0.3)
    one = torch.ones(1, device=device)

    def launches() -> None:
        for _ in range(200):
            one.add_(0.0)

    row: Row = {
        "copy_GB_per_s": stage.bandwidth / 1e9,
        "bf16_TFLOP_per_s": 2 * side**3 / product / 1e12,
        "launch_us": 1e6 * median_seconds(stage, launches, 0.2) / 200,
        "read_us": 1e6 * median_seconds(stage, one.item, 0.2),
        "write_us": 1e6 * median_seconds(stage, lambda: torch.tensor([1, 2, 3], device=device), 0.2),
        "device": str(device),
    }
    if device.type == "cuda":
        known = torch.cuda.get_device_properties(device)
        row |= {
            "device": known.name, "memory_GiB": known.total_memory / 2**30, "multiprocessors": known.multi_processor_count,
            "cuda": torch.version.cuda,
        }  # fmt: skip
    return [row]


@torch.inference_mode()
def checks(stage: Stage, until: float) -> Iterator[Row]:
    """Logits of both backends over random trees of two requests in one pass, against plain forwards over the paths."""
    for dtype in (torch.float32, torch.bfloat16):
        model = random_model(TINY["1B"], dtype, stage.device)
        teach(model, Language.random(TINY["1B"].vocab, stage.device))
        for backend in (CudaGraphModel(model), TorchModel(model)):
            for seed in range(3):
                if time.perf_counter() > until:
                    return
                seen, expected = _over_trees(backend, seed)
                row = {"backend": backend.name, "dtype": str(dtype).removeprefix("torch."), "rows": len(seen)}
                differing = int((seen.argmax(dim=1) != expected.argmax(dim=1)).sum())
                yield row | {"largest_difference": float((seen - expected).abs().max()), "argmax_differs": differing}


def _over_trees(model: TorchModel, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits f32[rows, V] of two rounds of two requests, and those of a forward over every path."""
    draw = random.Random(seed)
    committed = [[draw.randrange(model.vocab_size) for _ in range(draw.randrange(3, 90))] for _ in range(2)]
    texts = [model.open(8) for _ in committed]
    fed, seen, expected = [list(ids) for ids in committed], [], []
    for _ in range(2):
        nodes = draw.randrange(1, 20)
        tree = dg.TokenTree(
            [draw.randrange(model.vocab_size) for _ in range(nodes)],
            [draw.randrange(-1, i) for i in range(nodes)],
            [-1] * nodes,
        )
        feeds = [Feed(text, new, tree.tokens, tree.parents) for text, new in zip(texts, fed, strict=True)]
        seen += [scored.logits for scored in model.forward(feeds)]
        for ids, text in zip(committed, texts, strict=True):
            whole = [[*ids, *tree.path_tokens(node)] for node in range(-1, nodes)]
            expected += [model.plain(torch.tensor([each]), 1)[0] for each in whole]
            path = tree.path(draw.randrange(nodes))
            model.keep(text, path)
            ids += [*(tree.tokens[node] for node in path), 7]
        fed = [[7], [7]]
    for text in texts:
        model.close(text)
    return torch.cat(seen).float(), torch.cat(expected).float()


def passes(stage: Stage, size: str, until: float) -> Iterator[Row]:
    """T(n) of target and drafter behind a context of 512 tokens."""
    pair = stage.size(size)
    for model, backends, module in (("target", pair.targets, pair.target), ("drafter", pair.drafters, pair.drafter)):
        weights = bytes_read(module)
        for backend in (GRAPHS, EAGER):
            over = backends[backend]
            text = context(over, 64 if stage.quick else CONTEXT)
            for rows in ROWS:
                if time.perf_counter() > until:
                    return
                floor = 1e3 * weights / stage.bandwidth if stage.bandwidth else math.nan
                row = {"size": size, "model": model, "backend": backend, "rows": rows, "floor_ms": floor}
                yield row | pass_ms(stage, over, text, rows, 0.02 if stage.quick else 0.15)
            over.close(text)


def contexts(stage: Stage, size: str, until: float) -> Iterator[Row]:
    """T(1), T(8) and T(32) of the target behind longer texts."""
    pair = stage.size(size)
    for tokens in CONTEXTS[: 2 if stage.quick else None]:
        for backend in (GRAPHS, EAGER):
            over = pair.targets[backend]
            begun = time.perf_counter()
            text = context(over, tokens // 4 if stage.quick else tokens)
            stage.synchronize()
            reading = time.perf_counter() - begun
            for rows in (1, 8, 32):
                if time.perf_counter() > until:
                    return
                row = {"size": size, "backend": backend, "context": len(text), "rows": rows, "reading_s": reading}
                yield row | pass_ms(stage, over, text, rows, 0.02 if stage.quick else 0.15)
            over.close(text)


def speeds(stage: Stage, size: str, until: float) -> Iterator[Row]:
    """Tokens per second of every way to decode, with the parts of a round, at three agreements and two temperatures."""
    pair = stage.size(size)
    for model in (*pair.targets.values(), *pair.drafters.values()):
        warm(model)
    prompts = stage.prompts(2, 48, pair.targets[EAGER].vocab_size)
    for agreement in AGREEMENTS:
        pair.agree(agreement)
        for temperature in TEMPERATURES:
            if time.perf_counter() > until:
                return
            contenders = _contenders(stage, pair, agreement, temperature)
            turns: list[Turn] = []
            for turn in take_turns(contenders, prompts, 2, forgive=lambda contender: True):
                turns.append(turn)
                if time.perf_counter() > until:
                    break
            about = {"size": size, "agreement": agreement, "temperature": temperature}
            yield from (about | row for row in _summarised(turns, contenders))
    pair.agree(AGREEMENTS[0])


def _contenders(stage: Stage, pair: Size, agreement: float, temperature: float) -> list[Contender]:
    tokens = 16 if stage.quick else 96
    params = SamplingParams(max_new_tokens=tokens, temperature=temperature)
    contenders: list[Contender] = [
        Ours(f"{way}, {GRAPHS}", pair.engine(GRAPHS, **how), params) for way, how in WAYS.items()
    ]
    if agreement == AGREEMENTS[0]:
        contenders += [Ours(f"{way}, {EAGER}", pair.engine(EAGER, **WAYS[way]), params) for way in EAGER_WAYS]
        if temperature == 0.0:
            contenders.append(Transformers(GENERATE, pair.target, tokens))
    return contenders


def _summarised(turns: list[Turn], contenders: list[Contender]) -> Iterator[Row]:
    for name in (contender.name for contender in contenders):
        runs = [turn.timed[name] for turn in turns if name in turn.timed]
        errors = [repr(turn.failed[name]) for turn in turns if name in turn.failed]
        if not runs:
            yield {"way": name, "error": next(iter(errors), "it did not run")}
            continue
        tokens, seconds, rounds = (
            sum(each) for each in zip(*((len(r.answer.ids), r.seconds, r.answer.rounds) for r in runs), strict=True)
        )
        row: Row = {
            "way": name,
            "tokens_per_s": tokens / seconds,
            "tokens_per_round": tokens / rounds,
            "ms_per_round": 1e3 * seconds / rounds,
            "runs": len(runs),
        }
        parts = [run.answer.parts for run in runs if run.answer.parts is not None]
        if parts:
            row["parts_ms"] = {part: 1e3 * sum(each[part] for each in parts) / rounds for part in parts[0]}
        yield row


def reads(stage: Stage, size: str, until: float) -> Iterator[Row]:
    """How often the host waits for the device in a round, and where."""
    pair = stage.size(size)
    prompt = stage.prompts(1, 48, pair.targets[GRAPHS].vocab_size)[0]
    for temperature in TEMPERATURES:
        for way in (PLAIN, "chain 4", "tree 16"):
            if time.perf_counter() > until:
                return
            engine = pair.engine(GRAPHS, **WAYS[way])
            params = SamplingParams(max_new_tokens=32, temperature=temperature, seed=1)
            engine.generate(prompt, params)
            with counted(stage.device) as found:
                stats = engine.generate(prompt, params).stats
            places = {place: count / stats.num_rounds for place, count in found.most_common(16)}
            per_round = sum(found.values()) / stats.num_rounds
            passes = stats.num_drafter_passes / stats.num_rounds
            yield {
                "size": size, "way": way, "temperature": temperature, "reads_per_round": per_round,
                "drafter_passes_per_round": passes, "places": places,
            }  # fmt: skip


def agreement(stage: Stage, size: str, until: float) -> Iterator[Row]:
    """Greedy texts with drafts against the text without, where near-ties are everywhere; first divergences by logit gap."""
    pair = stage.size(size)
    pair.agree(0.9, gap=0.0)
    vocab = pair.targets[EAGER].vocab_size
    params = SamplingParams(max_new_tokens=24 if stage.quick else 96)
    ways = [(way, backend) for backend in (GRAPHS, EAGER) for way in (PLAIN, "chain 4", "tree 16")]
    for number, prompt in enumerate(stage.prompts(2 if stage.quick else 8, 48, vocab)):
        if time.perf_counter() > until:
            break
        texts = {way: pair.engine(way[1], **WAYS[way[0]]).generate(prompt, params).token_ids for way in ways}
        reference = texts[ways[0]]
        for way, text in texts.items():
            if way != ways[0]:
                about = {"size": size, "prompt": number, "way": ", ".join(way)}
                yield about | _divergence(pair, prompt, reference, text)
    pair.agree(AGREEMENTS[0])


@torch.inference_mode()
def _divergence(pair: Size, prompt: list[int], reference: list[int], text: list[int]) -> Row:
    """Where two texts first differ, and how close the two tokens are in one forward over the text before."""
    first = next((i for i, (a, b) in enumerate(zip(reference, text, strict=False)) if a != b), None)
    if first is None:
        return {"same_tokens": min(len(reference), len(text)), "equal": True}
    logits = pair.targets[EAGER].plain(torch.tensor([[*prompt, *reference[:first]]]), 1)[0, 0].float()
    best = float(logits.max())
    spacing = 2.0 ** (math.floor(math.log2(abs(best))) - 7) if best else 0.0  # bf16 has 8 bits of significand
    chosen = logits[[reference[first], text[first]]].tolist()
    gap = (best - min(chosen)) / spacing if spacing else math.inf
    return {"same_tokens": first, "equal": False, "gap_in_spacings": gap, "best_logit": best}
