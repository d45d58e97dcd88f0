"""What a round's verdict becomes: tokens, text, stops, log-probabilities, statistics."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedModel

import draftgraph as dg
from draftgraph.request.text import Detokenizer
from models import byte_tokenizer, perturbed, plain, tiny_lm

TEXT = "naïve 日本語のテキスト 😀👩‍👩‍👧 ok — done. "
STRUCTURES = ("chain", "tree", "graph", "gsd")
tokenizer = cache(byte_tokenizer)


@cache
def target(eos: int | None = None) -> PreTrainedModel:
    return tiny_lm(vocab=256, window=512, eos=eos)


def reciting(text: str, **options: Any) -> dg.Engine:
    """An engine that must say `text`: a bias towards it, drafted from a prediction of it."""
    ids = tokenizer()(text)["input_ids"]
    return dg.Engine.from_pretrained(
        target(), tokenizer=tokenizer(), drafter="text", prediction=ids, **{"budget": 6} | options
    )


class Recite:
    """A processor that leaves one token possible: the next one of a text."""

    def __init__(self, text: str, prompt: int) -> None:
        self.ids, self.prompt = tokenizer()(text)["input_ids"], prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        position = input_ids.shape[1] - self.prompt
        only = torch.full_like(scores, -torch.inf)
        only[:, self.ids[position % len(self.ids)]] = 0.0
        return only


def recite(text: str, engine: dg.Engine | None = None, **params: Any) -> tuple[dg.Result, list[dg.Event]]:
    """Say `text` again and again; returns the result and the events of the same request."""
    engine = engine or reciting(text)
    options = {"max_new_tokens": len(tokenizer()(text)["input_ids"]), "logits_processors": (Recite(text, 1),)}
    chosen = dg.SamplingParams(**options | params)
    return engine.generate([65], chosen), list(engine.stream([65], chosen))


def check_statistics(result: dg.Result) -> None:
    stats, histogram = result.stats, result.stats.acceptance_histogram
    assert sum(histogram) == stats.num_rounds == len(result.rounds)
    assert sum(j * count for j, count in enumerate(histogram)) == stats.num_accepted_tokens
    cut = sum(round.emitted <= len(round.path) for round in result.rounds)
    assert len(result.token_ids) == stats.num_output_tokens == stats.num_rounds + stats.num_accepted_tokens - cut
    assert cut <= 1
    assert sum(stats.accepted_by_source.values()) == stats.num_accepted_tokens
    by_length = {source: sum(counts) for source, counts in stats.accepted_by_match_length.items()}
    assert by_length == stats.accepted_by_source
    assert all((source == "drafter") == (counts[0] > 0) for source, counts in stats.accepted_by_match_length.items())
    assert stats.mean_acceptance_length == pytest.approx(1 + stats.num_accepted_tokens / stats.num_rounds)
    assert stats.num_draft_tokens == stats.num_verified_nodes == sum(len(round.tokens) for round in result.rounds)
    assert stats.num_drafter_evaluations == sum(round.num_evaluations for round in result.rounds)
    assert stats.num_drafter_passes == sum(round.num_passes for round in result.rounds)
    if stats.num_draft_tokens:
        assert stats.draft_acceptance_rate == pytest.approx(stats.num_accepted_tokens / stats.num_draft_tokens)


# --- when a text ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 3, 8])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("language", "spoken "),
        (("words", "lang"), "spoken "),
        (("zzz", "n l", "lan"), "spoke"),
        ("age", "spoken langu"),
        ("spoken", ""),
        ("s.", "spoken language word"),
        ("absent", "spoken language words. "),
        (("wordz", "word"), "spoken language "),
        ((". x", ". "), "spoken language words"),
    ],
)
def test_stop_strings(stop: Any, expected: str, budget: int) -> None:
    text = "spoken language words. "
    result, events = recite(text, reciting(text, budget=budget), stop=stop)
    assert result.text == expected == "".join(event.text for event in events)
    ended = expected != text
    assert result.finish_reason == ("stop" if ended else "length") == events[-1].finish_reason
    said = tokenizer().decode(result.token_ids)
    assert text.startswith(said)
    first = min((text.find(s) for s in ((stop,) if isinstance(stop, str) else stop) if s in text), default=len(text))
    assert first == len(expected)
    check_statistics(result)
    if ended:  # nothing behind the token that completes the stop string
        assert said.startswith(expected)
        assert not any(s in said[:-1] for s in ((stop,) if isinstance(stop, str) else stop))


def test_a_stop_before_the_limit_wins() -> None:
    text = "abcdefgh"
    result, _ = recite(text, reciting(text, budget=8), max_new_tokens=6, stop="ef")
    assert (result.text, result.finish_reason) == ("abcd", "stop")
    result, _ = recite(text, reciting(text, budget=8), max_new_tokens=5, stop="ef")
    assert (result.text, result.finish_reason) == ("abcde", "length")  # what was held back is told at the end


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("tokens", [1, 2, 5, 13])
def test_limits_cut_accepted_runs(structure: str, tokens: int) -> None:
    engine = dg.Engine.from_pretrained(target(), draft_model=target(), structure=structure, budget=9)
    result = engine.generate([3, 4], dg.SamplingParams(max_new_tokens=tokens))
    assert (len(result.token_ids), result.finish_reason) == (tokens, "length")
    assert result.token_ids == plain(target(), [3, 4], tokens)
    check_statistics(result)


@pytest.mark.parametrize("source", ["model", "stop_token_ids"])
def test_tokens_that_end_the_text(source: str) -> None:
    said = plain(target(), [3, 4], 30)
    eos = said[7]
    engine = dg.Engine.from_pretrained(target(eos=eos if source == "model" else None), draft_model=target(), budget=9)
    stops = {"stop_token_ids": (eos,)} if source == "stop_token_ids" else {}
    result = engine.generate([3, 4], dg.SamplingParams(max_new_tokens=30, **stops))
    assert result.token_ids == said[: said.index(eos) + 1]
    assert result.finish_reason == "stop"
    check_statistics(result)
    if source == "model":
        on = engine.generate([3, 4], dg.SamplingParams(max_new_tokens=30, ignore_eos=True))
        assert (on.token_ids, on.finish_reason) == (said, "length")


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"budget": 0}, {"budget": 5}, {"budget": 24, "num_speculative_tokens": 17}])
@pytest.mark.parametrize("stop", [(), ("never said",)])
def test_whole_characters_only(options: dict[str, Any], stop: tuple[str, ...]) -> None:
    text = TEXT * 2
    result, events = recite(text, reciting(text, **options), stop=stop)
    assert result.text == text == tokenizer().decode(result.token_ids)
    assert "".join(event.text for event in events) == text
    assert not any("\ufffd" in event.text for event in events)
    check_statistics(result)


@given(st.text(min_size=1, max_size=40), st.lists(st.integers(1, 20), min_size=1, max_size=8), st.booleans())
def test_pieces_add_up(text: str, sizes: list[int], stopping: bool) -> None:
    ids = tokenizer()(text)["input_ids"]
    pieces = push(Detokenizer(tokenizer(), [65], ("\x00never",) if stopping else ()), ids, sizes)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(0, 255), max_size=40), st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_rubbish_is_shown_in_the_end(ids: list[int], sizes: list[int]) -> None:
    detokenizer = Detokenizer(tokenizer(), [65], ())
    assert "".join(push(detokenizer, ids, sizes)) == tokenizer().decode(ids)


def push(detokenizer: Detokenizer, ids: list[int], sizes: list[int]) -> list[str]:
    pieces, start = [], 0
    while start < len(ids):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(detokenizer.push(ids[start : start + size]))
        start += size
    return [*pieces, detokenizer.finish()]


@given(
    st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
)  # fmt: skip
def test_stops_are_found_at_once_and_never_shown(text: str, stops: list[str], sizes: list[int]) -> None:
    detokenizer = Detokenizer(tokenizer(), [65], stops)
    shown = ""
    for token in tokenizer()(text)["input_ids"] if text else []:
        shown += detokenizer.push([token])
        if detokenizer.stopped:
            break
    shown += detokenizer.finish()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    said = text[: min(ends, default=len(text))]
    assert shown == said[: min((said.find(stop) for stop in stops if stop in said), default=len(said))]


@pytest.mark.parametrize("size", [1, 2, 5, 13])
def test_byte_fallback(size: int, shared: Path) -> None:
    """A sentencepiece tokenizer spells rare characters in bytes, and strips the space of the first word."""
    real = AutoTokenizer.from_pretrained(shared / "models" / "stories260K")
    text = "Once 😀😀😀 upon 日本語 a time 👩‍👩‍👧 there was. 😀"
    for prompt in ("Once upon", "Once 😀😀😀", "日本語日本語"):
        before = real(prompt)["input_ids"]
        ids = real(prompt + text)["input_ids"][len(before) :]
        pieces = push(Detokenizer(real, before, ()), ids, [size])
        assert prompt + "".join(pieces) == real.decode([*before, *ids], skip_special_tokens=True)
        assert not any("\ufffd" in piece for piece in pieces)


def test_text_needs_a_tokenizer_and_says_so() -> None:
    engine = dg.Engine.from_pretrained(target(), budget=2)
    assert engine.generate([3], dg.SamplingParams(max_new_tokens=4)).text == ""
    with pytest.raises(dg.DraftgraphError, match="needs a tokenizer"):
        engine.generate("text")
    with pytest.raises(dg.DraftgraphError, match="need a tokenizer"):
        engine.generate([3], dg.SamplingParams(stop="x"))


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_log_probabilities(structure: str, temperature: float) -> None:
    """Those of one plain forward over the finished text, before warping; cut where the text is cut."""
    engine = dg.Engine.from_pretrained(target(), draft_model=perturbed(target(), 0.08), structure=structure, budget=8)
    params = dg.SamplingParams(max_new_tokens=23, temperature=temperature, top_k=40, seed=1, logprobs=True)
    result = engine.generate([3, 4, 5], params)
    rows = torch.log_softmax(target()(torch.tensor([[3, 4, 5, *result.token_ids]])).logits[0, 2:-1].float(), dim=-1)
    expected = rows[range(23), result.token_ids]
    torch.testing.assert_close(torch.tensor(result.logprobs), expected, atol=1e-4, rtol=1e-4)
    cut, _ = recite("stop here", stop="her", logprobs=True)
    assert len(cut.logprobs or ()) == len(cut.token_ids)
    assert engine.generate([3]).logprobs is None


@pytest.mark.parametrize(
    ("structure", "budget", "temperature"),
    [
        (structure, budget, float((i + j) % 2))
        for i, structure in enumerate(STRUCTURES)
        for j, budget in enumerate((0, 4, "auto"))
    ],
)
def test_statistics_add_up(structure: str, temperature: float, budget: int | str) -> None:
    for draft in (perturbed(target(), 0.1), None)[: 1 if structure == "gsd" else 2]:
        engine = dg.Engine.from_pretrained(target(), draft_model=draft, structure=structure, budget=budget)
        result = engine.generate([3, 4, 3, 4], dg.SamplingParams(max_new_tokens=25, temperature=temperature, seed=3))
        check_statistics(result)
        assert result.stats.structure == structure
        assert result.stats.num_prompt_tokens == 4
        if draft is None or budget == 0:
            assert result.stats.num_drafter_evaluations == 0
        fields = result.stats.to_dict()
        assert all(fields[name] == result.stats[name] for name in fields)


def test_events_tell_what_was_drafted() -> None:
    engine = dg.Engine.from_pretrained(target(), draft_model=target(), budget=5)
    events = list(engine.stream([3, 4], dg.SamplingParams(max_new_tokens=20)))
    assert sum(sum(event.drafted) for event in events) == 20 - len(events)
    for event in events:
        assert len(event.drafted) == len(event.token_ids) > 0
        assert event.round is not None
        assert event.round.emitted == len(event.token_ids)
    assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + ["length"]


@pytest.mark.parametrize("rule", ["layer", "block", "token", "agree"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_record_says_what_target_and_law_gave_every_token_whoever_read_it(rule: str, temperature: float) -> None:
    """The layer rule and block verification say what they have read; of the others the engine reads it."""
    engine = dg.Engine.from_pretrained(
        target(), draft_model=perturbed(target(), 0.3), structure="chain", budget=3, rule=rule
    )
    result = engine.generate([65, 66, 67], max_new_tokens=24, temperature=temperature, seed=5)
    tokens = [65, 66, 67, *result.token_ids]
    for record in result.rounds:
        assert len(record.p) == len(record.q) == len(record.masses) == len(record.tokens)
        assert [q is not None for q in record.q] == record.sampled
        rows = target()(torch.tensor([[*tokens[: record.length], *record.tokens]])).logits[0, record.length - 1 : -1]
        if temperature == 0.0:
            expected = [float(row.argmax() == token) for row, token in zip(rows, record.tokens, strict=True)]
        else:
            expected = rows.softmax(dim=1)[range(len(rows)), list(record.tokens)].tolist()
        assert list(record.p) == pytest.approx(expected, abs=1e-4)
