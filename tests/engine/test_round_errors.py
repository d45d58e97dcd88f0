"""What goes wrong for one request of a round ends that request alone: the others have the texts that they have alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import draftgraph as dg
from company import arrived, happened
from draftgraph.engine.course import Course
from draftgraph.errors import DrafterError, LogitsError
from models import perturbed, tiny_lm

PROMPTS = ([3, 14, 15, 9], [7, 8], [26, 5, 35, 8, 9, 7])
GUILTY = 1
TOKENS = 14


def begun(engine: dg.Engine, number: int, **options: Any) -> Course:
    return arrived(engine, PROMPTS[number], max_new_tokens=TOKENS, temperature=1.0, seed=number, **options)


def together(courses: list[Course]) -> dict[int, Exception]:
    """Decode to the end; the errors, by the number of the request."""
    errors: dict[int, Exception] = {}
    while live := [n for n, each in enumerate(courses) if each.request.finish_reason is None and n not in errors]:
        found = happened([courses[n] for n in live])
        assert len(found) == len(live)
        errors |= {n: each for n, each in zip(live, found, strict=True) if isinstance(each, Exception)}
    return errors


def raising(after: int) -> Callable[..., Any]:
    calls: list[int] = []

    def fails(*_: Any) -> Any:
        calls.append(0)
        if len(calls) > after:
            raise RuntimeError("on purpose")
        return False

    return fails


class Failing(dg.Drafter):
    """A chain, until it fails in one of its methods for a request with a given prompt."""

    draws = ("fixed",)

    def __init__(self, where: str, prompt: list[int]) -> None:
        self.where, self.prompt = where, prompt

    def fail(self, request: Any, where: str) -> None:
        mine = request.tokens[: request.prompt_length] == self.prompt
        if mine and where == self.where and len(request.tokens) > request.prompt_length + 3:
            raise ValueError("on purpose")

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        self.fail(request, "propose")
        graph = dg.DraftGraph()
        graph.fix(dg.ROOT, 5)
        return dg.Draft(graph)

    def read(self, request: Any, taps: Any, path: Any) -> None:
        self.fail(request, "read")

    def observe(self, request: Any, draft: Any, verdict: Any, scores: Any, p: Any) -> None:
        self.fail(request, "observe")


def engine_of(**options: Any) -> dg.Engine:
    target = tiny_lm()
    return dg.Engine.from_pretrained(target, **({"draft_model": perturbed(target, 0.1), "budget": 6} | options))


def check(engine: dg.Engine, guilty: dict[str, Any], kind: type[Exception]) -> None:
    alone = [
        engine.generate(p, max_new_tokens=TOKENS, temperature=1.0, seed=n) for n, p in enumerate(PROMPTS) if n != 1
    ]
    requests = [begun(engine, n, **(guilty if n == GUILTY else {})) for n in range(len(PROMPTS))]
    errors = together(requests)
    assert list(errors) == [GUILTY]
    assert isinstance(errors[GUILTY], kind)
    assert [requests[n].request.output for n in (0, 2)] == [result.token_ids for result in alone]
    held: list[Any] = [engine.target] + ([engine.drafter.model] if engine.drafter.model else [])
    assert not any(model.cache._used for model in held)


@pytest.mark.parametrize("spoilt", [None, torch.nan, torch.inf])
def test_a_processor_that_fails_late(spoilt: float | None) -> None:
    def late(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] <= len(PROMPTS[GUILTY]) + 8:
            return scores
        if spoilt is None:
            raise RuntimeError("on purpose")
        return scores * spoilt

    check(engine_of(), {"logits_processors": (late,)}, LogitsError)


@pytest.mark.parametrize("after", [0, 4])
def test_stop_when(after: int) -> None:
    check(engine_of(), {"stop_when": raising(after)}, RuntimeError)


@pytest.mark.parametrize("where", ["propose", "read", "observe"])
def test_a_drafter(where: str) -> None:
    check(engine_of(draft_model=None, drafter=Failing(where, PROMPTS[GUILTY])), {}, DrafterError)


@pytest.mark.parametrize("model", ["target", "drafter"])
def test_a_pass_of_target_or_drafter(model: str) -> None:
    """NaN wherever the text of the guilty one is read; what it is told names the model's fault."""
    engine = engine_of()
    backend: Any = engine.target if model == "target" else engine.drafter.model
    ids = torch.tensor(PROMPTS[GUILTY])

    def spoil(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        read = kwargs["input_ids"][0]
        if any(torch.equal(read[i : i + 2], ids) for i in range(len(read) - 1)):
            output.logits.fill_(torch.nan)
        return output

    handle = backend.model.register_forward_hook(spoil, with_kwargs=True)
    check(engine, {}, LogitsError)
    handle.remove()


def test_an_interrupt_ends_the_round() -> None:
    engine = engine_of()

    def interrupt(*_: Any) -> bool:
        raise KeyboardInterrupt

    requests = [begun(engine, n, **({"stop_when": interrupt} if n else {})) for n in range(2)]
    with pytest.raises(KeyboardInterrupt):
        together(requests)


def test_one_request_raises_what_it_raised_with_the_place_where_it_did() -> None:
    with pytest.raises(RuntimeError, match="on purpose") as caught:
        engine_of().generate(PROMPTS[0], max_new_tokens=3, stop_when=raising(0))
    assert any(entry.name == "fails" for entry in caught.traceback)
