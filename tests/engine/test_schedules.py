"""schedule="parallel": the text of plain decoding, whatever ends it, in rounds that take as long as the longer of both models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import NoRepeatNGramLogitsProcessor, PreTrainedModel

import draftgraph as dg
from cost_tables import cost, costs
from draftgraph.backends.base import Feed, Scored
from draftgraph.budget.pace import parallel_tokens
from draftgraph.draft.model import ModelDrafter
from draftgraph.draft.onward import LONGEST_ROUND, OnwardDrafter
from draftgraph.engine.config import Config
from draftgraph.engine.lanes import InTurn
from draftgraph.engine.pair_costs import pair_costs
from draftgraph.engine.parallel_options import refuse_one_device
from draftgraph.engine.schedule_choice import tried, with_schedule
from draftgraph.engine.schedules import Parallel, Sequential
from draftgraph.errors import DrafterError, DraftError, LogitsError, OptionError
from draftgraph.request.record import RoundRecord
from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.walk import WalkRule
from draftgraph.view.terminal import round_tree
from draftgraph.view.tracefile import load, make_trace, save
from feature_drafters import write_drafter
from models import FAMILIES, byte_tokenizer, perturbed, plain, tiny_lm
from own_drafters import Beside, Line, law_behind
from recurrent import DELTA
from test_sampling_law import TableLM

PROMPTS = ([5], [9, 4], [3, 14, 15], [(7 * i + 3) % 61 for i in range(17)])
SECONDS = 300.0
"""Whatever a test waits for takes less."""


@cache
def target(family: str = "llama", **options: Any) -> PreTrainedModel:
    return tiny_lm(family, **options)


def engine(noise: float = 0.02, model: PreTrainedModel | None = None, **options: Any) -> dg.Engine:
    """An engine of a tiny target whose drafter agrees with it the more, the less noise it has."""
    model = target() if model is None else model
    options = {"num_speculative_tokens": 4, "schedule": "parallel"} | options
    return dg.Engine.from_pretrained(model, draft_model=perturbed(model, noise), **options)


def free(made: dg.Engine) -> bool:
    """Whether no request holds a cell."""
    return not (made.target.cache._used or made.drafter.model.cache._used)  # type: ignore[union-attr,attr-defined]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_greedy_text_is_that_of_plain_decoding_for_every_limit(count: int) -> None:
    made = engine(num_speculative_tokens=count)
    for prompt in PROMPTS:
        for limit in range(1, 2 * count + 4):
            result = made.generate(prompt, max_new_tokens=limit)
            assert result.token_ids == plain(target(), prompt, limit)
            assert result.finish_reason == "length"
    assert free(made)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("budget", [1, 3, 8, "auto"])
def test_greedy_text_does_not_depend_on_drafter_and_budget(budget: int | str, noise: float) -> None:
    made = engine(noise, budget=budget, num_speculative_tokens=None)
    assert made.generate(PROMPTS[3], max_new_tokens=60).token_ids == plain(target(), PROMPTS[3], 60)


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str) -> None:
    model = target(family)
    assert engine(model=model).generate(PROMPTS[3], max_new_tokens=24).token_ids == plain(model, PROMPTS[3], 24)


@pytest.mark.parametrize(
    ("family", "options"), [("mistral", {"num_key_value_heads": 2, "sliding_window": 8}), ("qwen3_5_text", DELTA)]
)
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_windows_and_recurrent_states(family: str, options: dict[str, Any], noise: float) -> None:
    model = tiny_lm(family, **options)
    made = engine(noise, model)
    assert made.generate(PROMPTS[2], max_new_tokens=50).token_ids == plain(model, PROMPTS[2], 50)


def test_a_path_that_is_never_left_joins_the_text_of_the_drafter_from_time_to_time() -> None:
    model = target(window=400)
    made, seen = engine(0.0, model), []
    keep = made.drafter.model.keep  # type: ignore[union-attr]
    made.drafter.model.keep = lambda text, nodes: (seen.append((len(text.nodes), len(nodes))), keep(text, nodes))  # type: ignore[union-attr,method-assign,assignment]
    result = made.generate(PROMPTS[1], max_new_tokens=3 * LONGEST_ROUND)
    assert result.token_ids == plain(model, PROMPTS[1], 3 * LONGEST_ROUND)
    assert len(seen) >= 3
    assert all(LONGEST_ROUND < held <= LONGEST_ROUND + 5 and held - 4 <= kept < held for held, kept in seen[:-1])
    assert result.stats.num_drafter_passes < 3 * LONGEST_ROUND + 8  # nothing was drafted twice


def test_a_long_prompt_is_read_in_pieces() -> None:
    made = engine()
    made.target.most_rows = made.drafter.model.most_rows = 5  # type: ignore[union-attr]
    assert made.generate(PROMPTS[3], max_new_tokens=30).token_ids == plain(target(), PROMPTS[3], 30)


def test_a_text_may_grow_beyond_the_window_of_the_drafter() -> None:
    drafter = tiny_lm(window=24)
    drafter.load_state_dict(target().state_dict())
    made = dg.Engine.from_pretrained(target(), draft_model=drafter, schedule="parallel", num_speculative_tokens=3)
    result = made.generate(PROMPTS[2], max_new_tokens=40)
    assert result.token_ids == plain(target(), PROMPTS[2], 40)
    assert "beyond the drafter's window" in result.rounds[-2].reason


def test_a_text_may_fill_the_window_of_the_target() -> None:
    model = target(window=32)
    result = engine(model=model).generate(PROMPTS[3], max_new_tokens=100)
    assert result.token_ids == plain(model, PROMPTS[3], 32 - 17)


@pytest.mark.parametrize("name", ["stop id", "stop string", "stop_when"])
def test_nothing_follows_what_ends_the_text(name: str) -> None:
    model = tiny_lm(vocab=256)
    made = engine(0.0, model, tokenizer=byte_tokenizer())
    text = plain(model, PROMPTS[2], 40)
    for place in (0, 1, 3, 9, 20):
        ends = text[place]
        options: dict[str, dict[str, Any]] = {
            "stop id": {"stop_token_ids": [ends]},
            "stop string": {"stop": byte_tokenizer().decode([ends])},
            "stop_when": {"stop_when": lambda token, *_, ends=ends: token == ends},
        }
        if name == "stop string" and not byte_tokenizer().decode([ends]).isascii():
            continue
        result = made.generate(PROMPTS[2], max_new_tokens=40, **options[name])
        assert result.token_ids == text[: text.index(ends) + 1]
        assert result.finish_reason == "stop"
    assert free(made)


SAMPLED: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 9, "top_p": 0.95, "repetition_penalty": 1.2},
    {"temperature": 1.3, "logits_processors": (NoRepeatNGramLogitsProcessor(2),), "presence_penalty": 0.5},
    {"temperature": 0.0, "frequency_penalty": 0.8, "logits_processors": (NoRepeatNGramLogitsProcessor(2),)},
)


@cache
def pair_of_schedules() -> tuple[dg.Engine, dg.Engine]:
    return engine(0.1, rule="agree"), engine(0.1, rule="agree", schedule="sequential", budget=4)


@pytest.mark.parametrize("options", SAMPLED)
def test_under_agree_a_seed_gives_the_text_of_the_other_schedule(options: dict[str, Any]) -> None:
    here, there = pair_of_schedules()
    for seed in range(2):
        asked = {"max_new_tokens": 16, "seed": seed} | options
        assert here.generate(PROMPTS[2], **asked).token_ids == there.generate(PROMPTS[2], **asked).token_ids
        assert here.generate(PROMPTS[2], **asked).token_ids == there.generate(PROMPTS[2], budget=0, **asked).token_ids


@pytest.mark.parametrize("rule", ["auto", "token", "block", "layer"])
def test_a_seed_gives_one_text_in_threads_and_in_turn(rule: str) -> None:
    made, turns = engine(rule=rule), engine(rule=rule)
    turns.schedule = Parallel(InTurn())
    for options in SAMPLED:
        asked = {"max_new_tokens": 25, "seed": 3, "logprobs": True} | options
        one, other = made.generate(PROMPTS[2], **asked), turns.generate(PROMPTS[2], **asked)
        assert one.token_ids == other.token_ids
        assert one.logprobs == other.logprobs
        assert [(r.tokens, r.path, r.bonus, r.onward) for r in one.rounds] == [
            (r.tokens, r.path, r.bonus, r.onward) for r in other.rounds
        ]


def test_the_grammar_holds() -> None:
    model = tiny_lm(vocab=256)
    made = engine(0.1, model, tokenizer=byte_tokenizer(("<end>",), 257))
    pytest.importorskip("llguidance")
    for seed in range(3):
        result = made.generate(
            PROMPTS[2],
            max_new_tokens=30,
            temperature=1.0,
            seed=seed,
            stop_token_ids=[7],
            grammar=dg.Grammar.regex("[ab]{3,9}c"),
        )
        assert set(result.text) <= set("abc")


def test_rounds_say_what_happened() -> None:
    result = engine(0.02, budget=4).generate(PROMPTS[3], max_new_tokens=40)
    position, before = len(PROMPTS[3]), None
    whole = [*PROMPTS[3], *result.token_ids]
    for record in result.rounds:
        goes_on = (
            before is not None
            and before.path == tuple(range(len(before.tokens)))
            and [before.bonus] == list(before.onward[:1])
        )
        assert list(record.tokens) == (list(before.onward[1:]) if goes_on else [])  # type: ignore[union-attr]
        assert record.length == position
        taken = [*(record.tokens[node] for node in record.path), record.bonus]
        assert taken[: record.emitted] == whole[position : position + record.emitted]
        assert record.num_passes == len(record.onward) <= 4
        assert record.overlapped >= 0.0
        position, before = position + record.emitted, record
    stats = result.stats
    assert stats.num_drafter_passes == sum(len(record.onward) for record in result.rounds)
    assert stats.num_output_tokens == stats.num_accepted_tokens + stats.num_rounds
    assert "drafts on while the target verifies" in result.choice.reason


class Timed(TableLM):
    """A model on a clock that its passes move on. `now` tells the time."""

    def __init__(
        self, law: Callable[[tuple[int, ...]], torch.Tensor], vocab: int, time: list[float], seconds: float
    ) -> None:
        self.vocab_size, self.row = vocab, cache(lambda text: law(text).log())  # type: ignore[assignment]
        self.time, self.seconds = time, seconds

    def forward(self, feeds: Sequence[Feed], taps: Sequence[str] = ()) -> list[Scored]:
        self.time[0] += self.seconds
        return super().forward(feeds, taps)


def timed(count: int, drafter: float, scoring: float, overlap: float = 0.7, parallel: bool = True) -> dg.Engine:
    """An engine whose passes take so many seconds of a made-up clock, and whose drafter is accepted with the chance `overlap`."""
    time = [0.0]
    p = torch.tensor([overlap, 1.0 - overlap, 0.0], dtype=torch.float64)
    q = torch.tensor([overlap, 0.0, 1.0 - overlap], dtype=torch.float64)
    models = [Timed(lambda text, law=law: law, 3, time, seconds) for law, seconds in ((p, scoring), (q, drafter))]
    config = Config(schedule="parallel", num_speculative_tokens=count, budget=count, rule="token")
    schedule = Parallel(InTurn(lambda: time[0])) if parallel else Sequential()
    schedule.now = schedule.now if parallel else lambda: time[0]  # type: ignore[method-assign]
    return dg.Engine(models[0], OnwardDrafter(models[1], 3), config, None, frozenset(), schedule=schedule)  # type: ignore[arg-type]


def lasted(record: RoundRecord) -> float:
    return sum(record.seconds.values())


@pytest.mark.parametrize(("drafter", "scoring"), [(1.0, 4.0), (1.0, 2.5), (3.0, 4.0), (1.0, 40.0)])
def test_a_round_takes_as_long_as_the_longer_of_both_models(drafter: float, scoring: float) -> None:
    rounds = timed(4, drafter, scoring).generate([0], max_new_tokens=200, temperature=1.0, seed=1).rounds
    for record in rounds:
        assert lasted(record) == pytest.approx(max(record.num_passes * drafter, scoring))
        assert record.overlapped == pytest.approx(min(record.num_passes * drafter, scoring))
    assert all(record.num_passes == 4 for record in rounds[:-6])
    in_order = (
        timed(4, drafter, scoring, parallel=False).generate([0], max_new_tokens=50, temperature=1.0, seed=1).rounds
    )
    assert all(lasted(record) == pytest.approx(record.num_passes * drafter + scoring) for record in in_order)


def test_drafting_as_long_as_the_target_takes_is_fastest_and_tokens_per_round_are_those_of_the_formula() -> None:
    acceptance, ratio, tokens, speed = 0.85, 3.5, 600, {}
    for count in (1, 2, 3, 4, 6, 8):
        rounds = (
            timed(count, 1.0, ratio, acceptance).generate([0], max_new_tokens=tokens, temperature=1.0, seed=0).rounds
        )
        speed[count] = tokens / sum(map(lasted, rounds))
        assert tokens / len(rounds) == pytest.approx(parallel_tokens(acceptance, count), rel=0.08)
    assert max(speed, key=speed.__getitem__) in (3, 4)


class Broken(OnwardDrafter):
    """Fails in its thread, once the text has so many tokens."""

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        if len(request.tokens) > 12:
            raise ZeroDivisionError(f"on purpose, in {threading.current_thread().name}")
        return super().propose(request, limits)


def test_a_drafter_that_fails_in_its_thread_ends_its_request_alone() -> None:
    made = engine()
    broken = dg.Engine(made.target, Broken(made.drafter.model, 64), made.config, None, frozenset())  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(
            DrafterError, match="Broken failed while proposing: ZeroDivisionError: on purpose, in draftgraph"
        ) as caught:
            broken.generate(PROMPTS[2], max_new_tokens=30)
        got = caught.value.partial.token_ids
        assert got == plain(target(), PROMPTS[2], 30)[: len(got)] != []
        assert free(made)
    assert broken.generate(PROMPTS[0], max_new_tokens=9).token_ids == plain(target(), PROMPTS[0], 9)


def test_a_target_that_fails_in_its_thread_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = engine(), [0]
    forward = made.target.forward

    def failing(feeds: Any, taps: Any = ()) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise LogitsError("NaN, on purpose")
        return forward(feeds, taps)

    monkeypatch.setattr(made.target, "forward", failing)
    with pytest.raises(LogitsError, match="on purpose"):
        made.generate(PROMPTS[2], max_new_tokens=30)
    assert free(made)
    assert made.generate(PROMPTS[2], max_new_tokens=30).token_ids == plain(target(), PROMPTS[2], 30)


def test_an_interrupt_waits_for_the_pass_of_the_target_and_leaves_nothing() -> None:
    made, over = engine(), threading.Event()
    forward = made.target.forward

    def slow(feeds: Any, taps: Any = ()) -> Any:
        found = forward(feeds, taps)
        over.wait(0.3)
        over.set()
        return found

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    made.target.forward = slow  # type: ignore[method-assign]
    made.drafter.propose = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        made.generate(PROMPTS[2], max_new_tokens=30)
    assert over.is_set()
    assert free(made)
    del made.target.forward, made.drafter.propose
    assert made.generate(PROMPTS[2], max_new_tokens=9).token_ids == plain(target(), PROMPTS[2], 9)


def test_a_stream_may_be_closed_after_every_round() -> None:
    made = engine()
    for rounds in range(6):
        stream = made.stream(PROMPTS[2], max_new_tokens=40)
        for _ in range(rounds):
            next(stream)
        stream.close()
        assert free(made)
        got = stream.result().token_ids
        assert got == plain(target(), PROMPTS[2], 40)[: len(got)]


def test_requests_of_a_call_and_of_event_loops_take_turns() -> None:
    made = engine()
    assert made.serving.max_batch == 1
    results = made.generate([*PROMPTS], max_new_tokens=12)
    assert [result.token_ids for result in results] == [plain(target(), prompt, 12) for prompt in PROMPTS]

    async def together() -> list[list[int]]:
        stream = made.astream(PROMPTS[0], max_new_tokens=50)
        async for _ in stream:
            break
        await stream.aclose()
        found = asyncio.gather(*(made.agenerate(prompt, max_new_tokens=12) for prompt in PROMPTS))
        return [result.token_ids for result in await asyncio.wait_for(found, SECONDS)]

    assert asyncio.run(together()) == [plain(target(), prompt, 12) for prompt in PROMPTS]


def test_threads_of_one_engine_do_not_wait_for_each_other_for_good() -> None:
    made, found = engine(), dict[int, list[int]]()

    def ask(number: int) -> None:
        found[number] = made.generate(PROMPTS[number], max_new_tokens=20).token_ids

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert found == {number: plain(target(), prompt, 20) for number, prompt in enumerate(PROMPTS)}


def test_the_number_of_threads_outside_stays_what_it_was() -> None:
    before = torch.get_num_threads()
    engine().generate(PROMPTS[0], max_new_tokens=4)
    counted: list[int] = []
    thread = threading.Thread(target=lambda: counted.append(torch.get_num_threads()))
    thread.start()
    thread.join(SECONDS)
    assert [torch.get_num_threads(), *counted] == [before, before]


class Waits(WalkRule):
    """Lets the path end where the row behind the last token is peaked: it cannot be asked before there is one."""

    name = "waits"

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        found = super().outcome(tree, p)
        return Outcome([*found.stop[:-1], found.stop[-1] * float(p[-1].max())], found.bonus)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another schedule": ({"schedule": "both"}, "write 'sequential', 'parallel' or 'auto'"),
    "a tree": ({"structure": "tree"}, "structure='tree' branches"),
    "a graph": ({"structure": "graph"}, "structure='graph' branches"),
    "copies": ({"edges": ("own",)}, "leave edges out"),
    "looking up": ({"draft_model": None}, "write draft_model="),
    "looking up, asked for": ({"draft_model": None, "drafter": "lookup"}, "drafter='lookup' has none"),
    "predicted text": ({"draft_model": None, "drafter": "text", "prediction": [1, 2]}, "drafter='text' has none"),
    "a batch": ({"max_batch": 4}, "max_batch=4 decodes requests together"),
    "a rule that waits": ({"rule": Waits()}, "by the row behind its last token"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_with_it_is_refused_by_name(name: str) -> None:
    options, message = REFUSED[name]
    made = partial(dg.Engine.from_pretrained, target())
    with pytest.raises(OptionError, match=message) as caught:
        made(**{"draft_model": target(), "schedule": "parallel", "num_speculative_tokens": 2} | options)
    assert "sequential" in str(caught.value)


def test_a_request_may_choose_rule_and_length_and_not_a_tree() -> None:
    made = engine()
    result = made.generate(
        PROMPTS[2], max_new_tokens=12, temperature=1.0, seed=1, rule="token", num_speculative_tokens=2
    )
    assert result.stats.rule == "token"
    assert max(len(record.onward) for record in result.rounds) == 2
    assert made.generate(PROMPTS[2], max_new_tokens=12, budget=0).stats.num_drafter_passes == 0
    with pytest.raises(OptionError, match="branches"):
        made.generate(PROMPTS[2], structure="tree")


@pytest.mark.parametrize("bitwise", [True, False])
def test_on_openvino_each_model_is_compiled_for_its_share_of_the_threads(bitwise: bool) -> None:
    pytest.importorskip("openvino")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made = engine(0.05, target(), backend="openvino", bitwise=bitwise)
        text = plain(target(), PROMPTS[3], 60)
        assert made.generate(PROMPTS[3], max_new_tokens=60).token_ids == text
        for limit in (1, 2, 5):
            assert made.generate(PROMPTS[2], max_new_tokens=limit).token_ids == plain(target(), PROMPTS[2], limit)
        seeded = {"max_new_tokens": 20, "temperature": 1.0, "seed": 4, "rule": "agree"}
        one = made.generate(PROMPTS[2], **seeded).token_ids
        assert one == made.generate(PROMPTS[2], budget=0, **seeded).token_ids
    finally:
        torch.set_num_threads(threads)
    told = made.drafter.model._compiled._request.get_compiled_model()  # type: ignore[union-attr,attr-defined]
    assert int(told.get_property("INFERENCE_NUM_THREADS")) == 1


def test_a_drafter_that_reads_hidden_states_is_refused_before_the_target_is_read(tmp_path: Path) -> None:
    folder = write_drafter(tmp_path / "drafter", target())
    with pytest.raises(OptionError, match="reads the hidden states that the target computes just then"):
        dg.Engine.from_pretrained(target(), draft_model=folder, schedule="parallel")


def test_models_on_a_device_that_is_shared_are_refused() -> None:
    made = engine()
    elsewhere: Any = SimpleNamespace(device=torch.device("cuda:0"), model_name="there")
    with pytest.raises(OptionError, match="there is on cuda:0, where passes take turns"):
        refuse_one_device(made.target, elsewhere)


def test_a_drafter_that_cannot_go_on_is_refused() -> None:
    for drafter in (Beside(), ModelDrafter(engine().target, 64)):
        with pytest.raises(OptionError, match=f"{drafter.name} drafts for one round at a time"):
            dg.Engine.from_pretrained(target(), drafter=drafter, schedule="parallel", budget=3)
    made = engine()
    with pytest.raises(OptionError, match="ModelDrafter drafts for one round at a time"):
        dg.Engine(made.target, ModelDrafter(made.target, 64), made.config, None, frozenset())


def test_inside_transformers() -> None:
    loop = dg.custom_generate(draft_model=perturbed(target(), 0.02), schedule="parallel", num_speculative_tokens=3)
    ids = torch.tensor([PROMPTS[3]])
    found = target().generate(ids, custom_generate=loop, do_sample=False, max_new_tokens=20, pad_token_id=0)
    assert found[0, 17:].tolist() == plain(target(), PROMPTS[3], 20)


def test_costs_are_measured_with_the_threads_that_each_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    def measured(target: Any, drafter: Any, config: Config, *_: Any) -> Any:
        asked.append((torch.get_num_threads(), config.schedule))
        return costs(drafter=1.0)

    monkeypatch.setattr("draftgraph.engine.engine.pair_costs", measured)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        made = engine(num_speculative_tokens=None)
        result = made.generate(PROMPTS[2], max_new_tokens=30)
    finally:
        torch.set_num_threads(threads)
    assert asked == [(2, "parallel")]
    assert "5 tokens meanwhile" in result.rounds[0].reason
    assert len(result.rounds[0].onward) == 5


def test_what_is_measured_are_sequential_rounds() -> None:
    made = engine(num_speculative_tokens=None)
    seen: list[str] = []

    def decode(drafter: Any, config: Config, prompt: Any, params: Any) -> Any:
        seen.append(config.schedule)
        return made._decode(drafter, config, prompt, params)

    pair_costs(made.target, made.drafter, made.config, decode)
    assert set(seen) == {"sequential"}


def test_a_trace_holds_what_was_drafted_meanwhile(tmp_path: Path) -> None:
    model = tiny_lm(vocab=256)
    made = engine(0.02, model, tokenizer=byte_tokenizer())
    result = made.generate("abcabc", max_new_tokens=20)
    trace = make_trace(result, "abcabc", made.tokenizer)
    save(trace, tmp_path / "trace.json")
    assert load(tmp_path / "trace.json") == trace
    shown = "\n".join(str(round_tree(record, 1, lambda token: f"<{token}>").label) for record in result.rounds)
    assert f"drafted meanwhile: “<{result.rounds[0].onward[0]}>”" in shown


def weighing(
    monkeypatch: pytest.MonkeyPatch, sequential: Any, parallel: Any, gain: float = 1.1, **options: Any
) -> dg.Engine:
    """The engine of schedule="auto", where costs are these tables, and trials come out as `gain`."""
    monkeypatch.setattr("draftgraph.engine.schedule_choice.tried", lambda *_: gain)
    drafter, tables = perturbed(target(), 0.02), {"sequential": sequential, "parallel": parallel}

    def make(model: Any, draft_model: Any, config: Config) -> dg.Engine:
        made = dg.Engine.from_pretrained(model, draft_model=draft_model, config=config)
        made.__dict__["costs"] = tables[config.schedule]
        return made

    monkeypatch.setattr("draftgraph.engine.schedule_choice.get_num_threads", lambda: 2)
    return with_schedule(make, target(), drafter, Config(schedule="auto").with_options(**options))


def test_auto_takes_the_parallel_schedule_only_where_both_tables_say_that_it_pays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alike = costs(drafter=1.0, reached=0.9)
    fast = weighing(monkeypatch, alike, alike)
    assert isinstance(fast.schedule, Parallel)
    assert fast.config.schedule == "parallel"
    assert fast.backends["schedule"].endswith("in parallel at temperature 1; in a trial it was 1.10 times as fast")
    dear = replace(alike, target=cost(9e-3, 9.2e-3, 18e-3, rows=(1, 2, 65)))
    slow = weighing(monkeypatch, alike, dear)
    assert isinstance(slow.schedule, Sequential)
    assert slow.backends["schedule"].startswith("sequential: costs promise")
    assert slow.config.structure == "auto"
    failed = weighing(monkeypatch, alike, alike, 0.9)
    assert isinstance(failed.schedule, Sequential)
    busy = weighing(monkeypatch, alike, replace(alike, waited=0.5))
    assert "others used the machine" in busy.backends["schedule"]
    for made in (fast, slow):
        assert made.generate(PROMPTS[2], max_new_tokens=8).token_ids == plain(target(), PROMPTS[2], 8)


def test_a_trial_compares_answers_of_both() -> None:
    assert 0.0 < tried(engine(schedule="sequential"), engine(), 2) < 1000.0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"structure": "tree"}, "structure='tree' branches"),
        ({"budget": 4}, "costs weigh schedules of the automatic budget"),
    ],
)
def test_auto_stays_sequential_where_there_is_nothing_to_weigh(
    options: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = weighing(monkeypatch, costs(), costs(), **options)
    assert isinstance(made.schedule, Sequential)
    assert why in made.backends["schedule"]


def test_auto_without_a_draft_model_or_a_second_thread_is_sequential() -> None:
    made = dg.Engine.from_pretrained(target(), schedule="auto")
    assert made.backends["schedule"] == "sequential: there is no draft model that could draft meanwhile"
    alone = engine(schedule="auto", num_speculative_tokens=None)
    assert alone.backends["schedule"] == "sequential: torch has one thread, and the two models would need one each"


class OnAndOn(Line):
    """A user's drafter, without a model, that goes on where its last draft agreed with the text."""

    goes_on = True

    def begin(self, request: Any) -> None:
        request.drafting = []

    def pending(self, request: Any) -> dg.Draft:
        graph, node = dg.DraftGraph(across=False), dg.ROOT
        for token, law in request.drafting:
            node = graph.add(node, token, 1.0, graph.add_laws(law))
        return dg.Draft(graph)

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        path = request.drafting
        for number in range(len(path), min(limits.budget, limits.reach)):
            law = law_behind(request, [*request.tokens, *(token for token, _ in path)])[None]
            path.append((request.draw(law[0], number), law))
        return self.pending(request)

    def observe(self, request: Any, draft: Any, verdict: Any, scores: Any, p: Any) -> None:
        tokens = [*(draft.tree.tokens[node] for node in verdict.path), verdict.token]
        agreed = [token for token, _ in request.drafting[: len(tokens)]] == tokens
        request.drafting = request.drafting[len(tokens) :] if agreed else []


class Elsewhere(OnAndOn):
    """Says that something else is pending than what it goes on from."""

    def pending(self, request: Any) -> dg.Draft:
        found = super().pending(request)
        found.graph.tokens = [(token + 1) % request.vocab_size for token in found.graph.tokens]
        return found

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        super().propose(request, limits)
        return OnAndOn.pending(self, request)


def test_drafters_of_users_may_go_on_too() -> None:
    options: dict[str, Any] = {"schedule": "parallel", "budget": 3, "rule": "block"}
    made = dg.Engine.from_pretrained(target(), drafter=OnAndOn(), **options)
    result = made.generate(PROMPTS[2], max_new_tokens=60, temperature=5.0, seed=0)
    assert len(result.token_ids) == 60
    assert any(record.tokens for record in result.rounds)
    wrong = dg.Engine.from_pretrained(target(), drafter=Elsewhere(), **options)
    with pytest.raises(DraftError, match="propose one path that begins with them"):
        wrong.generate(PROMPTS[2], max_new_tokens=60, temperature=5.0, seed=0)


def test_a_rule_that_asks_how_sure_the_drafter_is_names_the_schedule() -> None:
    target = tiny_lm()
    engine = dg.Engine.from_pretrained(target, draft_model=target, schedule="parallel", num_speculative_tokens=2)
    with pytest.raises(OptionError, match=r"rule 'confidence' .* write schedule='sequential'"):
        engine.generate([1, 2, 3], rule="confidence")
