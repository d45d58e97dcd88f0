"""The examples of docs/grammars.md run as they stand, one after the other."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from draftgraph.data import bundled_pair

GRAMMARS = Path(__file__).parents[1] / "docs" / "grammars.md"


def test_the_examples_of_grammars_run() -> None:
    pytest.importorskip("llguidance")
    target, drafter = map(AutoModelForCausalLM.from_pretrained, bundled_pair())  # loaded: nothing is converted
    names: dict[str, object] = {"target": target, "drafter": drafter}
    blocks = re.findall(r"```python\n(.*?)```", GRAMMARS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    assert blocks[-1].startswith("import xgrammar")
    for block in blocks[:-1] if importlib.util.find_spec("xgrammar") is None else blocks:
        exec(compile(block, str(GRAMMARS), "exec"), names)
