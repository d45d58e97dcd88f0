"""Real pretrained pairs: published greedy text, reproduced with every drafter and structure."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers import AutoTokenizer as Tokenizers

import draftgraph as dg

STRUCTURES = {name: name for name in ("chain", "tree", "graph", "gsd")} | {
    "branching": dg.structures.Tree((3, 2, 1, 1))
}
CODE = ("def read_file(path):\n    ", "import os\nimport sys\n\nclass Parser:\n", "for i in range(10):\n    print(")


@pytest.fixture(scope="session")
def load(shared: Path) -> Callable[[str], PreTrainedModel]:
    return cache(
        lambda name: AutoModelForCausalLM.from_pretrained(shared / "models" / name, dtype=torch.float32).eval()
    )


@pytest.fixture(scope="session")
def stories(shared: Path) -> PreTrainedTokenizerBase:
    return Tokenizers.from_pretrained(shared / "models" / "stories260K")


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("drafter", ["stories260K-draft-124k", "stories260K-draft-29k", None])
def test_story(
    structure: str, drafter: str | None, shared: Path, load: Callable[[str], PreTrainedModel],
    stories: PreTrainedTokenizerBase,
) -> None:  # fmt: skip
    if drafter is None and structure in ("gsd", "branching"):
        pytest.skip("text is looked up, not grown to a shape")
    golden = (shared / "models" / "stories260K" / "golden_greedy.txt").read_text().strip()
    engine = dg.Engine.from_pretrained(
        load("stories260K"), draft_model=drafter and load(drafter), tokenizer=stories, budget=16,
        structure=STRUCTURES[structure],
    )  # fmt: skip
    result = engine.generate([1], dg.SamplingParams(max_new_tokens=240, stop_token_ids=(1,)))
    text = result.text.strip()
    compared = min(len(text), len(golden))
    assert text[:compared] == golden[:compared]
    assert compared > 500
    assert result.stats.mean_acceptance_length > (1.0 if drafter is None else 1.5)


@pytest.mark.parametrize("rule", ["layer", "agree"])
def test_code(rule: str, shared: Path, load: Callable[[str], PreTrainedModel]) -> None:
    folder = shared / "models" / "code10m"
    options = {"tokenizer": Tokenizers.from_pretrained(folder), "rule": rule}
    params = dg.SamplingParams(max_new_tokens=48)
    plain = dg.Engine.from_pretrained(load("code10m"), budget=0, **options)
    engine = dg.Engine.from_pretrained(load("code10m"), draft_model=load("code10m-draft-1m"), **options)
    rounds = 0
    for prompt in CODE:
        expected, drafted = plain.generate(prompt, params), engine.generate(prompt, params)
        assert (drafted.text, drafted.token_ids) == (expected.text, expected.token_ids)
        assert expected.stats.num_draft_tokens == 0
        rounds += drafted.stats.num_rounds
    assert rounds < 0.6 * 48 * len(CODE)
