"""Passes over trees give the logits of plain forwards over their paths, whatever a round does, and nothing stays taken."""

from __future__ import annotations

import copy
import gc
import random
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openvino")

from converted import FAMILIES, Text, converted, decode, lm
from draftgraph.backends.base import Feed
from draftgraph.backends.openvino import compiled, load
from draftgraph.backends.openvino.model import _finite
from draftgraph.backends.openvino.pool import CELLS, KEPT_BLOCKS, KEPT_BYTES, BlockPool, Shape
from draftgraph.backends.openvino.text import BlockHandle
from draftgraph.errors import LogitsError, ModelError, OptionError
from draftgraph.lab.train.features.unroll import read_target
from draftgraph.types import ROOT

CLOSE = 2e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_trees_over_several_passes_early_and_late_in_one_pass(family: str) -> None:
    model, late = converted(family), 1100 if family == "llama" else 290
    assert decode(model, lm(family), [5, late], random.Random(1).randrange, rounds=3) < CLOSE
    assert not model.pool.used()


@settings(max_examples=15)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=3), st.data())
def test_random_rounds_of_several_requests(lengths: list[int], data: st.DataObject) -> None:
    choose = lambda n: data.draw(st.integers(0, n - 1))  # noqa: E731
    rounds = 1 + choose(4)
    assert decode(converted(), lm(), lengths, random.Random(choose(1 << 30)).randrange, rounds) < CLOSE


@torch.inference_mode()
def test_a_wide_hole_and_rows_that_go_into_it() -> None:
    model, text = converted(), Text(converted(), [9] * 31)
    model.forward([Feed(text.handle, text.tokens, range(8), [ROOT] * 8)])
    model.keep(text.handle, [7])
    rows = model.forward([Feed(text.handle, [3, 4], [5, 6], [ROOT, 0])])[0].logits
    expected = lm()(torch.tensor([[*text.tokens, 7, 3, 4, 5, 6]])).logits[0, -3:]
    torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)
    model.close(text.handle)


@torch.inference_mode()
def test_a_node_that_was_overwritten_is_read_again_when_it_is_kept() -> None:
    model, text = converted(), Text(converted(), [1, 2, 3])
    model.forward([Feed(text.handle, text.tokens, [4, 5, 6], [ROOT] * 3)])
    model.forward([Feed(text.handle, [], [7, 8], [0, 3])])  # goes on below node 0; nodes 1 and 2 lose their cells
    model.keep(text.handle, [2])
    assert len(text.handle) == 4
    rows = model.forward([Feed(text.handle, [9], [10], [ROOT])])[0].logits
    expected = lm()(torch.tensor([[1, 2, 3, 6, 9, 10]])).logits[0, -2:]
    torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)
    model.close(text.handle)


@torch.inference_mode()
def test_bfloat16_is_near_at_late_positions() -> None:
    model, truth = converted(dtype=torch.bfloat16), lm()
    ids = [random.Random(2).randrange(64) for _ in range(700)]
    rows = model.plain(torch.tensor([ids]), 300)[0]
    expected = truth(torch.tensor([ids])).logits[0, -300:]
    early, late = (float((rows[part] - expected[part]).abs().mean()) for part in (slice(0, 100), slice(200, 300)))
    assert late < 1.5 * early < 0.3
    assert model.dtype == torch.bfloat16
    assert model.fingerprint != converted().fingerprint


@torch.inference_mode()
def test_plain_reads_whole_texts() -> None:
    ids = torch.tensor([[random.Random(3).randrange(64) for _ in range(530)] for _ in range(2)])
    expected = lm()(ids).logits
    for count in (1, 3):
        torch.testing.assert_close(converted().plain(ids, count), expected[:, -count:], atol=1e-4, rtol=1e-4)
    assert not converted().pool.used()


def test_memory_grows_with_long_texts_and_shrinks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = converted()
    monkeypatch.setattr(model.pool, "kept", KEPT_BLOCKS)
    model.close(model.open(0))
    assert model.pool.capacity == KEPT_BLOCKS
    texts = [Text(model, [1] * 1400) for _ in range(3)]
    for text in texts:
        model.forward([Feed(text.handle, text.tokens[:700])])
        model.forward([Feed(text.handle, text.tokens[700:])])
    assert model.pool.capacity > KEPT_BLOCKS
    del text, texts
    gc.collect()  # a handle that is gone has given its blocks back
    assert not model.pool.used()
    model.close(model.open(0))
    assert model.pool.capacity == KEPT_BLOCKS


def test_memory_of_inputs_is_kept_for_some_sizes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = converted(), [(7 * i) % 64 for i in range(40)]
    monkeypatch.setattr(compiled, "MOST_MADE", 3)
    monkeypatch.setattr(model._compiled, "_made", {})
    text, given = Text(model, ids), []
    for begin in range(0, 36, 9):
        for size in (1, 5, 3):
            given.append(model.forward([Feed(text.handle, ids[begin : begin + size])])[0].logits)
            begin += size
    assert len(model._compiled._made) == 3
    with torch.inference_mode():
        expected = lm()(torch.tensor([ids[:36]])).logits[0]
    torch.testing.assert_close(given[-1][-1], expected[35], atol=1e-4, rtol=1e-4)
    model.close(text.handle)


def test_memory_of_small_models_stays_between_requests() -> None:
    """Zeroing it again for every request would take longer than many a round."""
    attached: list[str] = []
    pool = BlockPool([Shape("keys", 2, 16)], np.dtype(np.float32), lambda name, memory: attached.append(name))
    handle = BlockHandle(4000)
    pool.allot([(handle, 4000)])
    handle.clear()
    pool.drop_unused()
    assert attached == ["keys"]
    assert pool.capacity * CELLS * pool.cell_bytes == KEPT_BYTES


def test_memory_grows_once_for_all_texts_that_are_open() -> None:
    """Growing copies what was written: a twentieth of the time of eight long prompts, when it came text by text."""
    attached: list[str] = []
    pool = BlockPool([Shape("keys", 2, 16)], np.dtype(np.float32), lambda name, memory: attached.append(name))
    handles = [BlockHandle(pool.kept * CELLS) for _ in range(5)]
    for handle in handles:
        pool.expect(handle)
    for handle in handles:
        pool.allot([(handle, handle.room)])
    assert attached == ["keys"] * 2
    for handle in handles[:-1]:
        handle.clear()
    handles[-1].blocks = []
    pool.drop_unused()
    assert pool.capacity > pool.kept  # the last one will soon be read
    handles[-1].clear()
    pool.drop_unused()
    assert pool.capacity == pool.kept


@torch.inference_mode()
def test_closed_twice_and_never_used() -> None:
    model, text = converted(), converted().open(3)
    model.close(text)
    model.forward([Feed(text, [1, 2])])
    model.close(text)
    model.close(text)
    assert len(text) == 0
    assert not model.pool.used()


@torch.inference_mode()
def test_logits_that_are_not_finite_stop_one_request_and_leave_nothing() -> None:
    broken = copy.deepcopy(lm())
    with torch.no_grad():
        broken.get_input_embeddings().weight[12] = float("nan")
    model = load.from_loaded(broken, None, None)[0]
    text, other = model.open(4), model.open(4)
    model.forward([Feed(other, [1, 2, 3])])
    with pytest.raises(LogitsError, match="the engine is usable"):
        model.forward([Feed(text, [1, 12, 2], [3, 12, 4], [ROOT, 0, ROOT])])
    model.close(text)
    fresh = model.open(4)
    both = model.forward([Feed(fresh, [5, 6, 7], [8, 9], [ROOT, ROOT]), Feed(other, [4])])
    expected = broken(torch.tensor([[5, 6, 7, 9], [0, 1, 2, 3]])).logits[0, -1]
    torch.testing.assert_close(both[0].logits[2], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        both[1].logits[0], broken(torch.tensor([[1, 2, 3, 4]])).logits[0, -1], atol=1e-4, rtol=1e-4
    )


def test_large_logits_are_finite() -> None:
    for rows, finite in (([1e30, -1e30], True), ([0.0, 3.0], True), ([1.0, np.inf], False), ([np.nan, 1.0], False)):
        assert _finite(np.array([rows, [1.0, 2.0]], dtype=np.float32)) is finite


@torch.inference_mode()
def test_a_size_stays_as_long_as_a_change_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = load.from_loaded(lm(), None, None)[0], []
    run = model._compiled.run
    monkeypatch.setattr(model._compiled, "run", lambda inputs: (sizes.append(len(inputs["input_ids"])), run(inputs))[1])
    monkeypatch.setattr(model._buckets, "waste", 6)
    text = model.open(40)
    model.forward([Feed(text, [1, 2, 3, 4])])
    for rows in (1.0, 20.0):
        model.price_change(rows)
        model.forward([Feed(text, [5, 6, 7, 8])])
        model.forward([Feed(text, [9])])
    assert sizes == [4, 4, 1, 4, 4]
    model.close(text)


@torch.inference_mode()
def test_passes_of_changing_sizes_find_nothing_of_each_other() -> None:
    model = converted()
    trees = [([3, 4, 5], [ROOT, 0, ROOT]), ([6], [ROOT]), (list(range(9)), [ROOT, 0, 0, ROOT, 3, 3, ROOT, 6, 7])]
    found: list[list[torch.Tensor]] = [[], [], []]
    for turn in range(6):
        text = model.open(4)
        found[turn % 3].append(model.forward([Feed(text, [1, 2], *trees[turn % 3])])[0].logits)
        model.close(text)
    for first, second in found:
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_two_threads_share_a_model() -> None:
    found: dict[int, float] = {}

    def run(number: int) -> None:
        found[number] = decode(converted(), lm(), [3 + number, 40], random.Random(number).randrange, rounds=6)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert max(found.values()) < CLOSE
    assert len(found) == 2


@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "gpt2"])  # whose last state has names of the trace beside that of the tap
def test_taps_that_were_asked_for_are_the_hidden_states_of_plain_forwards(family: str) -> None:
    names = ["hidden:1", "hidden:2"]
    model = load.from_loaded(lm(family), None, None, names)[0]
    text, other = model.open(8), model.open(8)
    model.forward([Feed(text, [5, 9, 3, 40])])
    fed = [Feed(other, [1, 2, 3]), Feed(text, [7], [8, 9, 6], [ROOT, ROOT, 1])]
    theirs, ours = model.forward(fed, names)
    again = model.forward([Feed(text, [], [2], [2])], names)[0]  # whose ancestors are fed again
    for seen, ids, rows in (
        (theirs, [1, 2, 3], slice(0, 3)),
        (ours, [5, 9, 3, 40, 7, 9, 6], [0, 2, 3]),
        (again, [5, 9, 3, 40, 7, 9, 6, 2], slice(0, 1)),
    ):
        plain = lm(family)(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for number, name in enumerate(names, 1):
            rows_seen = seen.taps[name][rows]
            torch.testing.assert_close(rows_seen, plain[number][0, -len(rows_seen) :], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_keys_and_values_are_those_of_plain_forwards() -> None:
    names = ("values:0", "keys:1", "hidden:2")
    model = load.from_loaded(lm(), None, None, names)[0]
    text, other = model.open(8), model.open(8)
    model.forward([Feed(text, [5, 9, 3, 40])])
    fed = [Feed(other, [1, 2, 3]), Feed(text, [7], [8, 9, 6], [ROOT, ROOT, 1])]
    theirs, ours = model.forward(fed, names)
    again = model.forward([Feed(text, [], [2], [2])], names)[0]
    for seen, ids, rows in (
        (theirs, [1, 2, 3], slice(0, 3)),
        (ours, [5, 9, 3, 40, 7, 9, 6], [0, 2, 3]),
        (again, [5, 9, 3, 40, 7, 9, 6, 2], slice(0, 1)),
    ):
        for name in names:
            expected = read_target(lm(), torch.tensor([ids]), (name,))[1][0]
            torch.testing.assert_close(
                seen.taps[name][rows], expected[-len(seen.taps[name][rows]) :], atol=1e-4, rtol=1e-4
            )


def test_taps_that_were_not_asked_for_are_refused() -> None:
    model = converted()
    with pytest.raises(ModelError, match="was converted for OpenVINO without hidden states"):
        model.forward([Feed(model.open(2), [1, 2])], ["hidden:1"])
    with pytest.raises(OptionError, match="taps='hidden:9' is not possible"):
        load.from_loaded(lm(), None, None, ["hidden:9"])
