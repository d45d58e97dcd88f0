"""A pass that reads on gives the rows of passes that are fed the same tokens one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

pytest.importorskip("openvino")

import draftgraph as dg
from converted import FAMILIES, WINDOW, converted, lm
from draftgraph.backends.base import CacheHandle, Feed, Likely
from draftgraph.backends.openvino import chains as repeating
from draftgraph.backends.openvino.chains import MOST_STEPS, PATIENCE_STEPS, Chains
from draftgraph.backends.openvino.load import from_loaded
from draftgraph.backends.openvino.model import OpenVinoModel
from draftgraph.backends.openvino.pool import CELLS
from draftgraph.draft import model as drafting
from draftgraph.errors import LogitsError
from draftgraph.types import ROOT
from draftgraph.verification.base import sample_rows
from models import perturbed, tiny_lm


def plain_rows(family: str, tokens: Sequence[int], count: int) -> torch.Tensor:
    """The last rows of one forward of transformers."""
    return lm(family)(torch.tensor([list(tokens)]), use_cache=False).logits[0, -count:]


def read(model: OpenVinoModel, tokens: Sequence[int]) -> CacheHandle:
    text = model.open(len(tokens))
    if tokens:
        model.forward([Feed(text, tokens)])
    return text


@pytest.mark.parametrize(
    ("family", "length"), [*((family, CELLS - 1) for family in FAMILIES), ("llama", 3), ("llama", 3 * CELLS - 4)]
)
@torch.inference_mode()
def test_a_chain_is_that_of_single_passes_across_blocks(family: str, length: int) -> None:
    model, tokens = converted(family), [(5 * i + 1) % 64 for i in range(length)]
    text = read(model, tokens)
    for missed, wanted in (([7], 5), ([9, 8], 3), ([2], 7)):
        scored = model.forward([Feed(text, missed, likely=Likely(wanted))])[0]
        tokens += missed
        assert len(scored.likely) == wanted
        expected = plain_rows(family, [*tokens, *scored.likely], wanted + 1)
        torch.testing.assert_close(scored.logits, expected, atol=1e-4, rtol=1e-4)
        assert list(scored.likely) == scored.logits[:-1].argmax(dim=1).tolist()
        model.keep(text, [0, 1])
        tokens += scored.likely[:2]
        assert len(text) == len(tokens)
    model.close(text)
    assert not model.pool.used()


@torch.inference_mode()
def test_tokens_are_drawn_at_quantiles() -> None:
    model, quantiles = converted(), [0.0, 0.03, 0.5, 0.97, 1.0 - 2.0**-53]
    text = read(model, [3, 1, 4])
    scored = model.forward([Feed(text, [1], likely=Likely(len(quantiles), quantiles, 1.7))])[0]
    laws = torch.softmax(1.7 * scored.logits[:-1], dim=1)
    assert list(scored.likely) == sample_rows(laws, quantiles)
    expected = plain_rows("llama", [3, 1, 4, 1, *scored.likely], len(quantiles) + 1)
    torch.testing.assert_close(scored.logits, expected, atol=1e-4, rtol=1e-4)
    model.close(text)


def test_a_wrong_guess_costs_passes_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_lm(window=256)
    engine = dg.Engine.from_pretrained(
        target, draft_model=perturbed(target, 0.12), backend="openvino", structure="chain", budget=5
    )
    params = dg.SamplingParams(max_new_tokens=60, temperature=1.0, seed=5, ignore_eos=True)
    right = engine.generate([9, 4, 7], params)
    told = drafting.Likely
    monkeypatch.setattr(drafting, "Likely", lambda count, quantiles, exponent: told(count, [0.5] * count, exponent))
    wrong = engine.generate([9, 4, 7], params)
    assert wrong.token_ids == right.token_ids
    assert [record.tokens for record in wrong.rounds] == [record.tokens for record in right.rounds]
    assert wrong.stats.num_drafter_evaluations > right.stats.num_drafter_evaluations


@torch.inference_mode()
def test_it_goes_on_below_a_node_and_beside_one() -> None:
    model, tokens = converted(), [3, 1, 4, 1, 5]
    text = read(model, tokens)
    first = model.forward([Feed(text, [9], likely=Likely(MOST_STEPS + 5))])[0]
    assert len(first.likely) == MOST_STEPS - 1
    last = int(first.logits[-1].argmax())
    below = model.forward([Feed(text, (), [last], [MOST_STEPS - 2], likely=Likely(2))])[0]
    chain = [*first.likely, last, *below.likely]
    torch.testing.assert_close(below.logits, plain_rows("llama", [*tokens, 9, *chain], 3), atol=1e-4, rtol=1e-4)
    other = (first.likely[0] + 1) % 64
    beside = model.forward([Feed(text, (), [other], [ROOT], likely=Likely(1))])[0]
    expected = plain_rows("llama", [*tokens, 9, other, *beside.likely], 2)
    torch.testing.assert_close(beside.logits, expected, atol=1e-4, rtol=1e-4)
    model.keep(text, range(len(chain)))  # whose cells were overwritten
    rows = model.forward([Feed(text, [6])])[0].logits
    torch.testing.assert_close(rows, plain_rows("llama", [*tokens, 9, *chain, 6], 1), atol=1e-4, rtol=1e-4)
    model.close(text)


@pytest.mark.parametrize("case", ["prompt", "several nodes", "two requests", "end of the window"])
@torch.inference_mode()
def test_where_it_cannot_read_on_a_pass_is_a_pass(case: str) -> None:
    model = converted()
    text = read(model, [1] * (WINDOW - MOST_STEPS) if case == "end of the window" else [1, 2])
    other = read(model, [3])
    feeds = {
        "prompt": [Feed(text, [5, 6, 7], likely=Likely(3))],
        "several nodes": [Feed(text, (), [5, 6], [ROOT, ROOT], likely=Likely(3))],
        "two requests": [Feed(text, [5], likely=Likely(3)), Feed(other, [6], likely=Likely(3))],
        "end of the window": [Feed(text, [5], likely=Likely(3))],
    }[case]
    for feed, scored in zip(feeds, model.forward(feeds), strict=True):
        assert list(scored.likely) == []
        assert len(scored.logits) == feed.num_logits
    model.close(text)
    model.close(other)


@torch.inference_mode()
def test_nothing_is_entered_where_logits_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    model = converted()
    text = read(model, [1, 2, 3])
    model.forward([Feed(text, [4], likely=Likely(2))])
    model.keep(text, [0])
    length = len(text)
    with monkeypatch.context() as patch:
        patch.setattr("draftgraph.backends.openvino.model._finite", lambda rows: False)
        with pytest.raises(LogitsError):
            model.forward([Feed(text, [5], likely=Likely(2))])
    assert (len(text), text.nodes) == (length, [])
    assert len(model.forward([Feed(text, [5], likely=Likely(2))])[0].likely) == 2
    model.close(text)


@torch.inference_mode()
def test_all_graphs_go_on_in_memory_that_grew() -> None:
    model = converted()
    text = read(model, [1, 2, 3])
    model.forward([Feed(text, [4], likely=Likely(3))])
    model.keep(text, [])
    others = [model.open(CELLS * (model.pool.capacity + 8))]
    others.append(read(model, [8] * 40))  # which makes room for the first as well
    scored = model.forward([Feed(text, [5], likely=Likely(3))])[0]
    expected = plain_rows("llama", [1, 2, 3, 4, 5, *scored.likely], 4)
    torch.testing.assert_close(scored.logits, expected, atol=1e-4, rtol=1e-4)
    for each in (text, *others):
        model.close(each)


def test_graphs_are_made_when_they_are_needed_and_smaller_ones_when_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    chains = Chains(None, None, 1, None)  # type: ignore[arg-type]

    made: list[tuple[int, bool]] = []

    def make(steps: int, draws: bool) -> int:
        made.append((steps, draws))
        chains._made[draws, steps] = f"graph of {steps}"  # type: ignore[assignment]
        return steps

    monkeypatch.setattr(chains, "_make", make)
    assert chains.of(4, False) == (5, "graph of 5")
    assert chains.of(5, False) == (5, "graph of 5")
    assert chains.of(8, False) == (8, "graph of 8")
    assert chains.of(6, False) == (8, "graph of 8")
    assert chains.of(3, True) == (4, "graph of 4")
    for _ in range(PATIENCE_STEPS):
        chains.of(4, False)
    for _ in range(2 * PATIENCE_STEPS):
        assert chains.of(4, False) == (4, "graph of 4")
    assert made == [(5, False), (8, False), (4, True), (4, False)], "none is made twice"


def test_large_models_are_read_pass_by_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeating, "MOST_BYTES", 1000)
    model = from_loaded(tiny_lm(window=64), None, None)[0]
    text = read(model, [1, 2, 3])
    with torch.inference_mode():
        assert list(model.forward([Feed(text, [4], likely=Likely(3))])[0].likely) == []
    model.close(text)


FOUR, ELEVEN, THREE = {"budget": 4}, {"budget": 11}, {"num_speculative_tokens": 3, "budget": 3}


@pytest.mark.parametrize(
    ("dtype", "options", "temperature"),
    [
        ("float32", FOUR, 0.0),
        ("float32", FOUR, 0.7),
        ("float32", ELEVEN, 0.7),
        ("float32", THREE, 0.0),
        ("bfloat16", ELEVEN, 0.0),
        ("bfloat16", THREE, 0.0),
    ],
)
def test_drafts_are_those_of_single_passes(
    dtype: str, options: dict[str, int], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts too; in bfloat16 best tokens of equal logits may change places, so that only the text is compared.

    It is so at temperature 0: a draw that another rounding moved is another text of the same law.
    """
    target = tiny_lm(window=256)
    engine = dg.Engine.from_pretrained(
        target, draft_model=perturbed(target, 0.12), backend="openvino", structure="chain", dtype=dtype, **options
    )
    params = dg.SamplingParams(max_new_tokens=90, temperature=temperature, seed=4, ignore_eos=True)
    together = engine.generate([9, 4, 9, 4, 7], params)
    chains = engine.drafter.model._chains
    monkeypatch.setattr(engine.drafter.model, "_chains", None)
    alone = engine.generate([9, 4, 9, 4, 7], params)
    assert chains is not None
    assert {draws for draws, _ in chains._made} == {temperature > 0.0}
    assert together.token_ids == alone.token_ids
    if dtype == "float32":
        assert [record.tokens for record in together.rounds] == [record.tokens for record in alone.rounds]
        assert together.stats.num_drafter_evaluations == alone.stats.num_drafter_evaluations
        assert [record.num_passes for record in together.rounds] == [record.num_passes for record in alone.rounds]
        assert np.allclose(together.rounds[0].scores, alone.rounds[0].scores, atol=1e-5)
