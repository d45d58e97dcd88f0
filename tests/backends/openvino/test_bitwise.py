"""Rows are the same bit for bit in any pass: texts with drafts are those of plain decoding, in bfloat16 and quantised too."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openvino")

import draftgraph as dg
from converted import converted, decode, lm
from cost_tables import costs
from draftgraph.backends.base import BITWISE, NEAR_TIES, Feed
from draftgraph.backends.openvino import load
from draftgraph.backends.openvino.bitwise import BitwiseModel, Placed
from draftgraph.backends.openvino.model import OpenVinoModel
from draftgraph.backends.openvino.unrolled import COMMITTED, UnrolledText, enter, paths
from draftgraph.backends.prefill import read
from draftgraph.backends.steadiness import steady
from draftgraph.data import bundled_pair
from draftgraph.errors import OptionError
from draftgraph.types import ROOT
from models import tiny_lm

CLOSE = 2e-5
PRECISIONS = {
    "bf16": ("bfloat16", None),
    "int8": (None, "int8"),
    "int4": (None, "int4"),
    "int8 bf16": ("bfloat16", "int8"),
}


@cache
def rounded(precision: str) -> OpenVinoModel:
    dtype, weights = PRECISIONS[precision]
    if weights is not None:
        pytest.importorskip("nncf")
    model = tiny_lm(hidden_size=64, intermediate_size=128)
    return load.from_loaded(model, dtype, None, (), weights)[0]


def test_random_rounds_of_several_requests_give_the_rows_of_plain_forwards() -> None:
    model = BitwiseModel(converted())
    assert decode(model, lm(), [40, 9, 31, 290], random.Random(3).randrange, rounds=4) < CLOSE
    assert not model.pool.used()


@settings(max_examples=10)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=3), st.integers(0, 1 << 30))
def test_any_rounds(lengths: list[int], seed: int) -> None:
    assert decode(BitwiseModel(converted()), lm(), lengths, random.Random(seed).randrange, rounds=3) < CLOSE


@pytest.mark.parametrize("precision", PRECISIONS)
def test_passes_of_any_width_and_paths_beside_others_are_steady(precision: str) -> None:
    model = rounded(precision)
    assert model.numerics == NEAR_TIES
    assert steady(model.bitwise())
    assert not steady(model)  # which decodes plainly in passes of one row


def test_the_narrowest_passes_are_as_wide_as_this_processor_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("draftgraph.backends.openvino.model.steady", lambda model: model.sizes[0] > 2)
    base = load.from_loaded(lm(), "bfloat16", None)[0]
    model = base.bitwise()
    assert base.bitwise().sizes == model.sizes == (6, 8, 12, 16, 24, 32, 48, 64)
    assert decode(model, lm(), [40, 9], random.Random(3).randrange, rounds=2) < 0.05


@torch.inference_mode()
def test_what_paths_share_is_the_same_in_all_of_them() -> None:
    model = BitwiseModel(rounded("bf16"))
    text = model.open(50)
    model.forward([Feed(text, [(7 * i) % 64 for i in range(44)])])
    feed = Feed(text, [5], [6, 7, 8, 9, 6, 3], [ROOT, 0, 0, 1, 1, 2])
    enter(feed, text)
    found = paths(feed, text)
    assert [path.nodes for path in found] == [[0, 1, 3], [0, 1, 4], [0, 2, 5]]
    assert [path.first for path in found] == [[COMMITTED, 0, 1, 3], [4], [2, 5]]
    every = [replace(path, rows=replace(path.rows, asked=range(len(path.rows.tokens)))) for path in found]
    rows = [scored.logits for scored in model._by_groups(model._placed([text], [every]), ())]
    assert torch.equal(rows[0][:3], rows[1][:3])  # the committed token, nodes 0 and 1
    assert torch.equal(rows[0][:2], rows[2][:2])
    model.close(text)


def test_a_kept_path_stays_where_it_was_read() -> None:
    text = UnrolledText(blocks=[3, 4, 5, 6, 7], length=40, drafted=[9, 8, 7], paths=[[0], [1, 2]], shared=1)
    text.owned = [[4], [5, 6]]
    text.keep([1, 2])
    assert (text.blocks, text.length, text.unread) == ([3, 5, 6, 4, 7], 42, [])


class Recorded(BitwiseModel):
    """Rows of every pass, request by request."""

    def __init__(self, model: OpenVinoModel) -> None:
        super().__init__(model)
        self.passes: list[list[int]] = []

    def _score(self, batch: Sequence[Placed], taps: Sequence[str]) -> Any:
        self.passes.append([len(rows.tokens) for rows, _ in batch])
        return super()._score(batch, taps)


@torch.inference_mode()
@pytest.mark.parametrize("draft", [pytest.param([], id="plain"), pytest.param([1, 2, 3], id="drafted")])
def test_a_prompt_is_read_in_the_same_passes_with_a_draft_and_without(draft: list[int]) -> None:
    model = Recorded(converted())
    text = model.open(100)
    model.forward([Feed(text, [1] * 30, draft, range(ROOT, len(draft) - 1))])
    assert model.passes == [[29], [max(2, 1 + len(draft))]]
    assert len(text) == 30
    model.close(text)


@torch.inference_mode()
def test_a_piece_of_a_long_text_takes_one_pass_and_what_follows_it_is_the_same() -> None:
    model, tokens = Recorded(converted()), [(11 * i) % 60 for i in range(300)]
    text = model.open(310)
    read(model, text, tokens)
    assert model.passes == [[256], [43], [2]]
    rows = model.forward([Feed(text, [5], [6], [ROOT])])[0].logits
    expected = lm()(torch.tensor([[*tokens, 5, 6]])).logits[0, -2:]
    torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)
    model.close(text)


@torch.inference_mode()
def test_a_piece_has_hidden_states_of_all_its_rows() -> None:
    model = BitwiseModel(load.from_loaded(lm(), None, None, ["hidden:1"])[0])
    text = model.open(50)
    feeds = [Feed(text, range(20), goes_on=True), Feed(text, range(20, 40))]
    found = torch.cat([model.forward([feed], ["hidden:1"])[0].taps["hidden:1"] for feed in feeds])
    expected = lm()(torch.arange(40)[None], output_hidden_states=True).hidden_states[1][0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    model.close(text)


@torch.inference_mode()
def test_no_sequence_has_one_row() -> None:
    model, model.passes = (recorded := Recorded(converted())), []
    texts = [model.open(8) for _ in range(2)]
    model.forward([Feed(texts[0], [1]), Feed(texts[1], [1, 2], [3, 4], [ROOT, ROOT])])
    model.forward([Feed(texts[0], [], [5], [ROOT])])
    assert recorded.passes == [[2], [2, 2, 2], [2]]
    for text in texts:
        model.close(text)


@torch.inference_mode()
def test_wide_drafts_take_several_passes() -> None:
    model = Recorded(converted())
    text = model.open(40)
    rows = model.forward([Feed(text, [1, 2], range(40), [ROOT] * 40)])[0].logits
    assert model.passes == [[1 + 1], [2] * 32, [2] * 8]
    for node in (0, 39):
        expected = lm()(torch.tensor([[1, 2, node]])).logits[0, -1]
        torch.testing.assert_close(rows[1 + node], expected, atol=1e-4, rtol=1e-4)
    model.close(text)


# --- engines ----------------------------------------------------------------------------------------------------------

PROMPTS = ("Once upon a time there was a", "def add(a, b):\n    return a + b\n\n\ndef add(a, b):\n")
PLAIN: dict[str, Any] = {"budget": 0, "bitwise": True}
DRAFTED: dict[str, dict[str, Any]] = {
    "chain": {"budget": 5},
    "paths": {"structure": "graph", "budget": 10, "bitwise": True},
    "looked up": {"budget": 6, "drafter": "lookup"},
    "looked up, as many paths as pay": {"drafter": "lookup", "budget": "auto"},
    "prices": {},
}


def pair_engine(precision: str, **options: Any) -> dg.Engine:
    dtype, weights = PRECISIONS[precision]
    target, drafter = bundled_pair()
    draft_model = None if options.get("drafter") == "lookup" else drafter
    loading: dict[str, Any] = {"backend": "openvino", "dtype": dtype, "weights": weights, "draft_model": draft_model}
    return dg.Engine.from_pretrained(target, **loading, **options)


def texts(engine: dg.Engine, temperature: float) -> list[tuple[list[int], list[float]]]:
    options = {"max_new_tokens": 24, "temperature": temperature, "seed": 5, "logprobs": True, "ignore_eos": True}
    results = engine.generate(list(PROMPTS), top_p=0.95 if temperature else 1.0, **options)
    return [(result.token_ids, result.logprobs or []) for result in results]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_texts_with_drafts_are_bit_for_bit_those_without(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if precision == "int8":
        pytest.importorskip("nncf")
    monkeypatch.setattr(OpenVinoModel, "most_rows", 16)  # the second prompt is read in pieces
    for temperature, rule in ((0.0, "auto"), (1.0, "agree")):
        decoder = pair_engine(precision, rule=rule, **PLAIN)  # as long as it lives, others share its graphs
        plain = texts(decoder, temperature)
        for options in DRAFTED.values():
            engine = pair_engine(precision, rule=rule, **options)
            assert texts(engine, temperature) == plain
        assert texts(pair_engine(precision, rule=rule, budget=0, bitwise=False), temperature) != plain


@pytest.mark.parametrize(("temperature", "rule"), [(0.0, "auto"), (1.0, "agree")])
def test_copies_that_branch_change_no_bit(temperature: float, rule: str) -> None:
    plain = texts(pair_engine("bf16", rule=rule, **PLAIN), temperature)
    engine = pair_engine("bf16", rule=rule, drafter="lookup")
    engine.__dict__["costs"] = costs(drafter=None, row=0.0)
    assert texts(engine, temperature) == plain
    results = engine.generate(list(PROMPTS), max_new_tokens=24, temperature=temperature, seed=5, ignore_eos=True)
    parents = [list(record.parents) for result in results for record in result.rounds]
    assert any(nodes != list(range(ROOT, len(nodes) - 1)) for nodes in parents), "a draft has several paths"


def test_what_an_engine_says_of_its_rows() -> None:
    chain, tree = pair_engine("bf16", budget=4), pair_engine("bf16", budget=4, structure="tree")
    greedy, seeded = (chain.generate("Once", max_new_tokens=4, temperature=t, seed=1) for t in (0.0, 1.0))
    assert greedy.stats.numerics == BITWISE
    assert greedy.stats.structure == "chain"
    assert "bitwise: a draft is a chain" in greedy.choice.reason
    assert seeded.stats.numerics == "bit for bit the laws without drafts"  # block verification reads what was drawn
    assert tree.generate("Once", max_new_tokens=4).stats.numerics == NEAR_TIES
    assert chain.target.fingerprint == f"{tree.target.fingerprint} bitwise"


def test_a_processor_on_which_passes_differ_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("draftgraph.backends.openvino.model.steady", lambda model: False)
    model = load.from_loaded(lm(), "bfloat16", None)[0]
    with pytest.raises(OptionError, match=r"bitwise=True is not possible .* on this CPU.*write bitwise=False"):
        model.bitwise()


@pytest.mark.parametrize("bitwise", ["auto", True], ids=str)
def test_torch_in_bfloat16(bitwise: bool | str) -> None:
    model = tiny_lm().to(torch.bfloat16)
    if bitwise is True:
        with pytest.raises(OptionError, match=r"bitwise=True is not possible on torch.*write backend='openvino'"):
            dg.Engine.from_pretrained(model, bitwise=bitwise)
    else:
        engine = dg.Engine.from_pretrained(model, bitwise=bitwise)
        assert engine.config.bitwise is False
        assert engine.generate([3, 4], max_new_tokens=3).stats.numerics == NEAR_TIES
