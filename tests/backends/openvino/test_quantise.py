"""Quantised models: which are made, where they are kept, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino")
pytest.importorskip("nncf")

import draftgraph as dg
from draftgraph.backends.openvino import refusals
from draftgraph.backends.openvino.load import from_folder
from draftgraph.errors import ModelError, OptionError
from models import byte_tokenizer, perturbed, tiny_lm


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder, and a cache of its own."""
    monkeypatch.setenv("DRAFTGRAPH_CACHE", str(tmp_path / "cache"))
    tiny_lm(vocab=256, hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_every_precision_is_kept_and_told_apart(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, level = logging.getLoggerClass(), logging.getLogger("nncf").level
    ways: list[Any] = [(None, None), (None, "int8"), (None, "int4"), ("bfloat16", "int8")]
    models = [from_folder(folder, dtype, None, (), weights) for dtype, weights in ways]
    assert len({model.fingerprint for model in models}) == 4
    assert "int4 f32" in models[2].fingerprint
    assert len(list((tmp_path / "cache" / "openvino").iterdir())) == 4
    said = capsys.readouterr()
    assert not any(
        mark in said.out + said.err for mark in ("int8", "━", "Compression")
    )  # tables and bars of the package
    assert (logging.getLoggerClass(), logging.getLogger("nncf").level) == (kind, level or logging.INFO)


def test_a_later_start_reads_the_quantised_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = dg.Engine.from_pretrained(folder, weights="int8").generate([1, 2, 3], max_new_tokens=9).token_ids
    monkeypatch.setattr("draftgraph.backends.openvino.load.load_model", None)
    engine = dg.Engine.from_pretrained(folder, weights="int8", draft_model=folder, budget=3)
    assert engine.backends["drafter"] == "openvino: weights='int8' was asked for"
    assert engine.generate([1, 2, 3], max_new_tokens=9).token_ids == sample


def test_rows_that_are_no_multiples_of_a_group(folder: Path) -> None:
    tiny_lm(vocab=256, hidden_size=48, intermediate_size=96).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"multiples of 64; int8 takes any.*and leave weights='int4' out"):
        dg.Engine.from_pretrained(folder, weights="int4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"weights": "int3"}, "weights='int3' is not possible; write 'int8', 'int4'", id="another number"),
        pytest.param({"weights": "int8", "backend": "torch"}, "runs on OpenVINO alone", id="on torch"),
        pytest.param(
            {"draft_weights": "int3"},
            "draft_weights='int3' is not possible; write 'int8', 'int4', 'stored'",
            id="of a drafter",
        ),
        pytest.param(
            {"draft_weights": "int8", "backend": "torch"},
            "draft_weights='int8' runs on OpenVINO alone",
            id="both on torch",
        ),
        pytest.param(
            {"draft_weights": "int8"}, "is for a draft model that OpenVINO runs, and none was given", id="no drafter"
        ),
    ],
)
def test_what_is_not_possible(options: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(OptionError, match=message):
        dg.Engine.from_pretrained(folder, **options)


@pytest.mark.parametrize(
    ("weights", "draft_weights", "computes"),
    [
        (None, "int8", ("f32", "int8 f32")),
        ("int8", None, ("int8 f32", "int8 f32")),
        ("int8", "stored", ("int8 f32", "f32")),
        ("int4", "int8", ("int4 f32", "int8 f32")),
    ],
)
def test_a_drafter_is_quantised_as_it_was_asked_for(
    folder: Path, weights: str | None, draft_weights: str | None, computes: tuple[str, str]
) -> None:
    made = dg.Engine.from_pretrained(
        folder, draft_model=folder, weights=weights, draft_weights=draft_weights, backend="openvino", budget=3
    )
    assert (str(made.target.precision), str(made.drafter.model.precision)) == computes
    if draft_weights == "int8":
        assert made.backends["drafter"] == "openvino: draft_weights='int8' was asked for"


def test_a_quantised_drafter_changes_no_greedy_text_and_no_law_by_position(folder: Path) -> None:
    made = dg.Engine.from_pretrained(folder, draft_model=folder, draft_weights="int8", backend="openvino", budget=4)
    for options in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 4, "rule": "agree"}):
        drafted = made.generate([5, 6, 7], max_new_tokens=30, **options)
        assert drafted.token_ids == made.generate([5, 6, 7], max_new_tokens=30, budget=0, **options).token_ids
        assert drafted.stats.lossless
        assert drafted.stats.num_accepted_tokens > 0


def test_a_loaded_drafter_is_not_quantised_unasked(folder: Path) -> None:
    drafter = perturbed(tiny_lm(vocab=256, hidden_size=64, intermediate_size=128))
    with pytest.raises(OptionError, match="draft_weights='int8' is for models that are loaded here"):
        dg.Engine.from_pretrained(folder, draft_model=drafter, draft_weights="int8")


def test_loaded_models_are_converted_where_that_is_asked_for() -> None:
    model = tiny_lm(hidden_size=64, intermediate_size=128)
    with pytest.raises(OptionError, match="is loaded already; give its folder, or write backend='openvino'"):
        dg.Engine.from_pretrained(model, weights="int8")
    engine = dg.Engine.from_pretrained(
        model, draft_model=perturbed(model), weights="int8", backend="openvino", budget=4, rule="agree"
    )
    plain = dg.Engine(engine.target, engine.drafter, engine.config.with_options(budget=0), None, frozenset())
    options = {"max_new_tokens": 30, "temperature": 1.0, "seed": 2}
    assert engine.generate([5, 6], **options).token_ids == plain.generate([5, 6], **options).token_ids


def test_without_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "QUANTISER", "no_such_package")
    with pytest.raises(
        ModelError, match=r"not installed; pip install 'draftgraph\[quantised\]'.*leave weights='int8' out"
    ):
        dg.Engine.from_pretrained(folder, weights="int8")
