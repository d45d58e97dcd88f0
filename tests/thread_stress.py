"""Many requests from many threads, some of them closed early, dropped or broken on purpose; what came of them.

    python tests/thread_stress.py --threads 8 --requests 500
    python tests/thread_stress.py --threads 4 --requests 2000 --memory

All engines share two models. Every text is compared with transformers' own.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

import draftgraph as dg
from models import byte_tokenizer, perturbed, plain, tiny_lm

TOKENS = 24
LIMIT_SECONDS = 3600
PROMPTS = [[5, 9, 5], [7, 3, 9, 7, 3], [11], [40, 2, 40, 2, 40], [1, 2, 3, 4, 5, 6, 7, 8]]


class FaultError(Exception):
    """Raised on purpose, in the midst of a forward or of a callback."""


@dataclass
class Stage:
    """Engines on shared models, and what plain decoding gives. A thread that sets `faults.left` fails that many forwards on."""

    target: PreTrainedModel
    drafter: PreTrainedModel
    engines: dict[str, dg.Engine]
    loop: Callable[..., Any]
    right: list[list[int]]
    faults: threading.local = field(default_factory=threading.local)

    @classmethod
    def build(cls) -> Stage:
        target = tiny_lm(vocab=256)
        drafter, options = perturbed(target, 0.05), {"tokenizer": byte_tokenizer()}
        engines = {
            "model": dg.Engine.from_pretrained(target, draft_model=drafter, budget=8, **options),
            "auto": dg.Engine.from_pretrained(target, draft_model=drafter, **options),
            "lookup": dg.Engine.from_pretrained(target, budget=6, edges=("own", "context", "table"), **options),
            "plain": dg.Engine.from_pretrained(target, budget=0, **options),
        }
        stage = cls(target, drafter, engines, dg.custom_generate(drafter, budget=6), [])
        stage.right = [plain(target, prompt, TOKENS) for prompt in PROMPTS]
        for model in (target, drafter):
            model.register_forward_hook(stage._fault)
        return stage

    def _fault(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        left = getattr(self.faults, "left", 0)
        if left:
            self.faults.left = left - 1
            if left == 1:
                raise FaultError("in a forward")

    def cells(self) -> int:
        """Cells in use, over all pools."""
        gc.collect()
        models = [engine.target for engine in self.engines.values()]
        models += [engine.drafter.model for engine in self.engines.values() if engine.drafter.model is not None]
        models += [engine.target for engine in self.loop._engines.values()]  # type: ignore[attr-defined]
        return sum(len(model.cache._used) for model in models)


class Worker:
    """One thread's requests. `seen` counts what came of them; anything but "right…" and "fault" is a failure."""

    def __init__(self, stage: Stage, seed: int, requests: int) -> None:
        self.stage, self.random, self.requests = stage, random.Random(seed), requests
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        ways = (
            self.generate,
            self.generate,
            self.inside,
            self.batch,
            self.close,
            self.drop,
            self.others,
            self.fault,
            self.callback,
        )
        for _ in range(self.requests):
            number = self.random.randrange(len(PROMPTS))
            engine = self.random.choice(list(self.stage.engines.values()))
            try:
                self.seen[self.random.choice(ways)(engine, number)] += 1
            except FaultError:
                self.seen["fault"] += 1
            except dg.DraftgraphError as error:
                self.seen["fault" if "FaultError" in str(error) else f"refused: {error}"] += 1
            except BaseException as error:
                self.seen[f"raw {type(error).__name__}: {error}"] += 1

    def judge(self, tokens: list[int], number: int, whole: bool = True) -> str:
        right = self.stage.right[number]
        return "right" if tokens == (right if whole else right[: len(tokens)]) else "WRONG"

    def params(self, **options: Any) -> dg.SamplingParams:
        return dg.SamplingParams(max_new_tokens=TOKENS, **options)

    def generate(self, engine: dg.Engine, number: int) -> str:
        return self.judge(engine.generate(PROMPTS[number], self.params()).token_ids, number)

    def inside(self, engine: dg.Engine, number: int) -> str:
        """Through transformers, with the same models."""
        ids = torch.tensor([PROMPTS[number]])
        options = {
            "attention_mask": torch.ones_like(ids),
            "do_sample": False,
            "max_new_tokens": TOKENS,
            "pad_token_id": 0,
        }
        out = self.stage.target.generate(ids, **options, custom_generate=self.stage.loop)
        return self.judge(out[0, ids.shape[1] :].tolist(), number)

    def batch(self, engine: dg.Engine, number: int) -> str:
        results = engine.generate(PROMPTS, self.params())
        return max(self.judge(result.token_ids, i) for i, result in enumerate(results))

    def close(self, engine: dg.Engine, number: int) -> str:
        stream, tokens = engine.stream(PROMPTS[number], self.params()), []
        for _ in range(self.random.randrange(4)):
            tokens += next(stream).token_ids
        stream.close()
        stream.close()
        return self.judge(tokens, number, whole=False)

    def drop(self, engine: dg.Engine, number: int) -> str:
        """Streams that are begun and forgotten, some of them in a circle that only the garbage collector finds."""
        stream: Any = engine.stream(PROMPTS[number], self.params())
        tokens = list(next(stream).token_ids)
        if self.random.random() < 0.5:
            stream.itself = stream
        return self.judge(tokens, number, whole=False)

    def others(self, engine: dg.Engine, number: int) -> str:
        """Another thread closes the stream at whatever moment."""
        stream, tokens = engine.stream(PROMPTS[number], self.params()), []
        closer = threading.Timer(self.random.random() * 0.02, stream.close)
        closer.start()
        for event in stream:
            tokens += event.token_ids
        closer.join(60)
        return self.judge(tokens, number, whole=False)

    def fault(self, engine: dg.Engine, number: int) -> str:
        self.stage.faults.left = self.random.randrange(1, 12)
        try:
            return self.generate(engine, number)
        finally:
            self.stage.faults.left = 0

    def callback(self, engine: dg.Engine, number: int) -> str:
        last = self.random.randrange(1, TOKENS)
        told: list[int] = []

        def stop(token: int, logits: torch.Tensor, scores: torch.Tensor) -> bool:
            told.append(token)
            if len(told) == last:
                raise FaultError("in a callback")
            return False

        try:
            return (
                self.generate(engine, number)
                if not engine.generate(PROMPTS[number], self.params(stop_when=stop))
                else "WRONG"
            )
        except FaultError:
            return self.judge(told, number, whole=False)


def stress(threads: int, requests: int, seed: int = 0, stage: Stage | None = None) -> tuple[Counter[str], int]:
    """What came of so many requests in all, and the cells in use afterwards."""
    stage = stage or Stage.build()
    workers = [Worker(stage, seed + i, requests // threads) for i in range(threads)]
    running = [threading.Thread(target=worker.run) for worker in workers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(LIMIT_SECONDS)
    assert not any(thread.is_alive() for thread in running)
    return sum((worker.seen for worker in workers), Counter()), stage.cells()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--memory", action="store_true", help="in ten parts, with the memory after each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    stage, parts = Stage.build(), 10 if options.memory else 1
    for part in range(parts):
        seen, cells = stress(options.threads, options.requests // parts, 1000 * part, stage)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[1]) * resource.getpagesize() / 2**20
        capacity = {name: engine.target.cache.capacity for name, engine in stage.engines.items()}
        print(
            json.dumps(seen),
            f"cells in use {cells}, memory {now:.0f} MB (most {memory:.0f}), capacity {capacity}",
            flush=True,
        )


if __name__ == "__main__":
    main()
