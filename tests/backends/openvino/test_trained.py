"""Trained drafters beside targets on OpenVINO: hidden states from the graph, exact texts, exact laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import draftgraph as dg
from draftgraph.backends.base import BITWISE
from eagle3_folders import write_eagle3
from feature_drafters import write_drafter
from laws import p_value
from models import tiny_lm
from test_sampling_law import LENGTH, PROMPT, exact, target

pytest.importorskip("openvino")
WRITERS: dict[str, Any] = {"own": write_drafter, "EAGLE-3": write_eagle3}


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    tiny_lm(layers=4, window=256).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("bitwise", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_greedy_texts_are_those_of_plain_decoding(kind: str, bitwise: bool, over: Path, tmp_path: Path) -> None:
    folder = WRITERS[kind](tmp_path, tiny_lm(layers=4, window=256))
    options: dict[str, Any] = {"backend": "openvino", "bitwise": bitwise}
    drafted = dg.Engine.from_pretrained(over, draft_model=folder, budget=6, **options)
    plain = dg.Engine.from_pretrained(over, budget=0, **options)
    assert drafted.backends["target"].startswith("openvino")
    assert (drafted.target.numerics == BITWISE) is bitwise
    drafted.target.most_rows = 7
    for seed in range(2):
        prompt = torch.randint(1, 64, (1 + 9 * seed,), generator=torch.Generator().manual_seed(seed)).tolist()
        result = drafted.generate(prompt, max_new_tokens=24, temperature=0.0)
        assert result.token_ids == plain.generate(prompt, max_new_tokens=24, temperature=0.0).token_ids
        assert result.stats.num_drafter_evaluations > 0


def test_the_fastest_backend_is_taken_by_itself_and_gives_the_hidden_states_that_torch_does(
    over: Path, tmp_path: Path
) -> None:
    folder = write_drafter(tmp_path, tiny_lm(layers=4, window=256))
    options: dict[str, Any] = {"budget": 5, "structure": "tree"}
    engine = dg.Engine.from_pretrained(over, draft_model=folder, **options)
    torchs = dg.Engine.from_pretrained(over, draft_model=folder, backend="torch", **options)
    assert engine.backends["target"] == "openvino: the fastest backend on this CPU"
    asked: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.0}
    ours, theirs = engine.generate([5, 9, 3], **asked), torchs.generate([5, 9, 3], **asked)
    assert ours.stats.num_accepted_tokens > 0
    assert ours.stats.acceptance_histogram == theirs.stats.acceptance_histogram


@pytest.mark.parametrize("kind", WRITERS)
def test_the_engines_law_is_the_targets(kind: str, tmp_path: Path) -> None:
    target().save_pretrained(tmp_path / "target")
    options: dict[str, Any] = {} if kind == "own" else {"layout": "speculators", "ids": [0]}
    folder = WRITERS[kind](tmp_path / "drafter", target(), **options)
    engine = dg.Engine.from_pretrained(tmp_path / "target", draft_model=folder, budget=4, backend="openvino")
    warped: dict[str, Any] = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.3}
    texts = [
        tuple(engine.generate(PROMPT, max_new_tokens=LENGTH, seed=5, sample=number, **warped).token_ids)
        for number in range(300)
    ]
    assert p_value(texts, exact("warped")) > 1e-4


def test_a_loaded_target_lends_its_own_ends(tmp_path: Path) -> None:
    lm = tiny_lm(layers=4)
    folder = write_drafter(tmp_path, lm)
    engine = dg.Engine.from_pretrained(lm, draft_model=folder, backend="openvino", budget=5)
    plain = dg.Engine.from_pretrained(lm, budget=0)
    asked: dict[str, Any] = {"max_new_tokens": 20, "temperature": 0.0}
    assert engine.generate([5, 9, 3], **asked).token_ids == plain.generate([5, 9, 3], **asked).token_ids
