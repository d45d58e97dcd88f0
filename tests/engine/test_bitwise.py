"""A seed gives its text in any company where the target's rows do not depend on it, whatever the drafter rounds."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

pytest.importorskip("openvino")

import draftgraph as dg
from draftgraph.backends.base import BITWISE, EXACT, NEAR_TIES
from draftgraph.backends.torch_model import TorchModel
from draftgraph.engine.bitwise import steady
from draftgraph.engine.config import Config
from draftgraph.errors import OptionError
from models import perturbed, tiny_lm

PROMPTS = [[5, 9, 5, 9], [7, 3, 9, 7, 3], [11], [*range(1, 60)] * 2, [*range(1, 60)] * 2 + [4], [40, 2] * 140]
"""Two of them begin alike, and one is read in pieces."""
SEEDED: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.0, "seed": 3}


@cache
def pair() -> tuple[PreTrainedModel, PreTrainedModel]:
    target = tiny_lm(window=512)
    return target, perturbed(target, 0.1)


@cache
def engine(weights: str | None = None) -> dg.Engine:
    if weights is not None:
        pytest.importorskip("nncf")
    target, drafter = pair()
    return dg.Engine.from_pretrained(
        target, draft_model=drafter, backend="openvino", dtype="bfloat16", weights=weights, budget=5
    )


def exact_beside_rounded(**options: Any) -> dg.Engine:
    target, drafter = pair()
    coarse = tiny_lm(window=512)
    coarse.load_state_dict(drafter.state_dict())
    coarse = coarse.to(torch.bfloat16)
    return dg.Engine.from_pretrained(target, draft_model=coarse, backend="openvino", budget=5, **options)


def alone_and_together(made: dg.Engine, **options: Any) -> tuple[list[list[int]], list[list[int]]]:
    alone = [made.generate(prompt, **(SEEDED | options)).token_ids for prompt in PROMPTS]
    return alone, [result.token_ids for result in made.generate(PROMPTS, **(SEEDED | options))]


@pytest.mark.parametrize("rule", ["auto", "token", "walk"])
@pytest.mark.parametrize("weights", [None, "int8"])
def test_a_seed_gives_its_text_in_any_company(weights: str | None, rule: str) -> None:
    made = engine(weights)
    assert made.target.numerics == BITWISE
    made = dg.Engine(made.target, made.drafter, made.config.with_options(rule=rule), None, frozenset())
    alone, together = alone_and_together(made)
    assert together == alone
    assert len({tuple(text) for text in alone}) > 1


@pytest.mark.parametrize("structure", ["auto", "chain", "tree"])
@pytest.mark.parametrize("small", [True, False])
def test_an_exact_target_beside_a_rounded_drafter(small: bool, structure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small drafter reads chains in one pass, apart from others; a larger one is read for all, in passes that agree."""
    monkeypatch.setattr("draftgraph.backends.openvino.model.is_small", lambda graph: small)
    made = exact_beside_rounded(structure=structure)
    assert made.target.numerics == EXACT
    assert made.drafter.model.numerics == NEAR_TIES
    assert made.drafter.steady.joins is not small
    alone, together = alone_and_together(made)
    assert together == alone


@pytest.mark.parametrize(
    ("options", "follows"),
    [
        pytest.param({"temperature": 0.0}, False, id="greedily"),
        pytest.param({"rule": "agree"}, False, id="by position"),
        pytest.param({}, True, id="drawn"),
        pytest.param({"seed": None}, False, id="drawn without a seed"),
    ],
)
def test_only_seeded_texts_that_follow_their_drafts_are_drafted_in_steady_passes(
    options: dict[str, Any], follows: bool
) -> None:
    made, seen = engine(), set()
    steadied, plain = made.drafter.steady.forward, made.drafter.model.forward
    try:
        made.drafter.steady.forward = lambda *given: seen.add(True) or steadied(*given)
        made.drafter.model.forward = lambda *given: seen.add(False) or plain(*given)
        made.generate(PROMPTS[0], **(SEEDED | options))
    finally:
        del made.drafter.steady.forward, made.drafter.model.forward
    assert seen == {follows}


def test_a_drafter_that_cannot_be_steady_drafts_as_it_does() -> None:
    target, drafter = pair()
    rounded = TorchModel(perturbed(drafter).to(torch.bfloat16))
    assert steady(rounded, TorchModel(target), Config(budget=5)) is rounded
    with pytest.raises(OptionError, match="depend on the texts beside them"):
        rounded.apart()
    assert engine().drafter.steady is not engine().drafter.model
    unsteady = Config(budget=5, bitwise=False)
    assert steady(engine().drafter.model, engine().drafter.model, unsteady) is engine().drafter.model
