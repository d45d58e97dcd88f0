"""What the ranks of a job run whose target is shared out: `python shared_out.py NAME FOLDER`, as torchrun starts it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import draftgraph as dg

PROMPT, BATCH, LONG = [1, 2, 3], [[5, 6], [7, 8, 9] * 5, [1]], [*range(70)]


def texts(engine: dg.Engine) -> dict[str, Any]:
    """What an engine says, in every way in which it can be asked."""
    greedy: dict[str, Any] = {"max_new_tokens": 40}
    seeded: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.8}
    stream = engine.stream(PROMPT, **greedy)
    first = next(stream).token_ids
    stream.close()
    beside = asyncio.run(engine.agenerate([[*LONG, n] for n in (3, 4, 5, 3)], max_new_tokens=12))
    return {
        "closed": list(first),
        "greedy": engine.generate(PROMPT, **greedy).token_ids,
        "seeded": [engine.generate(PROMPT, seed=seed, **seeded).token_ids for seed in range(3)],
        "batch": [each.token_ids for each in engine.generate(BATCH, seed=4, **seeded)],
        "beside": [each.token_ids for each in beside],
        "shared": [each.stats.num_cached_prompt_tokens for each in beside],
        "beams": [beam.token_ids for beam in engine.beam_search(PROMPT, num_beams=3, max_new_tokens=8).beams],
        "scores": [round(score, 9) for score in engine.score(PROMPT).logprobs if score is not None],
    }


def engine_of(folder: Path, **options: Any) -> dg.Engine:
    return dg.Engine.from_pretrained(folder / "target", tp_plan="auto", dtype="float64", **options)


def refusal(act: Callable[[], Any]) -> str:
    try:
        act()
    except dg.DraftgraphError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def equal(folder: Path) -> None:
    """Print what rank 0 says, and what it refuses."""
    engine = engine_of(folder, draft_model=folder / "drafter", budget=12)
    model = engine.target.model  # type: ignore[attr-defined]
    found = texts(engine)
    refused = [
        refusal(lambda: dg.Engine.from_pretrained(folder / "drafter", tp_plan="auto")),
        refusal(lambda: dg.Engine.from_pretrained(folder / "target", draft_model=model)),
        refusal(lambda: dg.Engine.from_pretrained(model, backend="openvino")),
        refusal(lambda: engine.target.forward([], ["keys:0"])),
        refusal(lambda: engine.weights_changed()),
    ]
    hook = model.model.norm.register_forward_hook(lambda module, given, out: out * float("nan"))
    refused.append(refusal(lambda: engine.generate(PROMPT)))
    hook.remove()
    second = dg.Engine.from_pretrained(model, drafter="lookup", budget=4)
    found["second"] = second.generate(PROMPT, max_new_tokens=40).token_ids
    print(json.dumps({"found": found, "refused": refused, "why": engine.backends["target"]}))


def follower_dies(folder: Path) -> None:
    """Rank 0 kills the other one, and asks again and again."""
    number = folder / "follower"
    if os.environ["RANK"] == "1":
        number.write_text(str(os.getpid()))
    engine = engine_of(folder, budget=4)
    os.kill(int(number.read_text()), signal.SIGKILL)
    for _ in range(2):
        print(refusal(lambda: engine.generate(PROMPT, max_new_tokens=40)))


def leader_dies(folder: Path) -> None:
    engine = engine_of(folder, budget=4)  # without a name it would be gone before, and the others with it
    engine.generate(PROMPT, max_new_tokens=4)
    os._exit(9)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
