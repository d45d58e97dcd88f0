"""A model whose passes belong to one text each: its rows do not depend on what was read before, beside them, or by whom."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("openvino")

from draftgraph.backends.base import Feed, Likely
from draftgraph.backends.openvino.apart import ApartModel
from draftgraph.backends.openvino.bitwise import BitwiseModel
from draftgraph.backends.openvino.load import from_loaded
from draftgraph.backends.prefill import read
from draftgraph.backends.together import forward_each
from draftgraph.types import ROOT
from models import tiny_lm

TEXT = [5, 9, 5, 9, 7, 3]


@pytest.fixture(scope="module")
def apart() -> ApartModel:
    found = from_loaded(tiny_lm(window=512), "bfloat16", None)[0].apart()
    assert isinstance(found, ApartModel)
    return found


def rows(model: ApartModel, width: int, chain: bool) -> torch.Tensor:
    """Rows of a draft behind TEXT, or of a chain that is read in one pass."""
    text = model.open(64)
    read(model, text, TEXT)
    feed = Feed(text, [4], likely=Likely(3)) if chain else Feed(text, [4], [7] * width, [ROOT] * width)
    [scored] = forward_each(model, [feed])
    model.close(text)
    assert not isinstance(scored, Exception)
    return scored.logits


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_rows_do_not_depend_on_passes_before_or_of_the_other_model(apart: ApartModel, width: int, chain: bool) -> None:
    expected = rows(apart, width, chain)
    for before in (1, 2, 7, 40):
        rows(apart, before, False)
        rows(apart.base, before, False)  # type: ignore[arg-type]
        assert torch.equal(rows(apart, width, chain), expected)


def test_passes_are_as_wide_as_their_text_says(apart: ApartModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """However wide the last one was: elsewhere that is kept for a while."""
    widths: list[int] = []
    run = apart._compiled.run
    monkeypatch.setattr(
        apart._compiled, "run", lambda inputs: (widths.append(len(inputs["input_ids"])), run(inputs))[1]
    )
    apart.price_change(30.0)
    for width in (30, 1, 5, 1):
        rows(apart, width, False)
    assert widths[1::2] == [32, 2, 6, 2]


def test_texts_of_others_are_read_in_passes_of_their_own(apart: ApartModel) -> None:
    texts = [apart.open(64) for _ in range(3)]
    alone, together = [], []
    for found, step in ((alone, 1), (together, 3)):
        feeds = [Feed(text, TEXT[: 2 + number]) for number, text in enumerate(texts)]
        for start in range(0, 3, step):
            found += [scored.logits for scored in forward_each(apart, feeds[start : start + step])]  # type: ignore[union-attr]
        for text in texts:
            apart.close(text)
        texts = [apart.open(64) for _ in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_nothing_is_taken_from_texts_of_others(apart: ApartModel) -> None:
    first, second = apart.open(64), apart.open(64)
    read(apart, first, TEXT)
    apart.expect(second, len(TEXT))
    assert apart.share(second, first, len(TEXT)) == 0
    assert apart.apart() is apart
    assert isinstance(apart.bitwise(), BitwiseModel)
    assert apart.fingerprint != apart.base.fingerprint


def test_a_model_that_reads_no_chains_in_one_pass_is_read_in_passes_that_agree() -> None:
    model = from_loaded(tiny_lm(window=512), "bfloat16", None)[0]
    model._chains = None
    assert isinstance(model.apart(), BitwiseModel)
