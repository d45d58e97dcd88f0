"""A data folder with a tiny pair and texts, as experiments expect it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import material
from pairs import save_pair

STORY = "Once upon a time, a fox lived in a wood near a river, and every day it looked for a new friend to play with. "


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    save_pair(folder / "models", noise=0.3)
    (folder / "prompts").mkdir()
    stories = [json.dumps({"text": (STORY[7 * i :] + STORY)[:90]}) for i in range(6)]
    (folder / "prompts" / "stories_dev90.jsonl").write_text("\n".join(stories), encoding="utf-8")
    return folder


@pytest.fixture
def tiny_material(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, whose one pair is called story-124k."""
    monkeypatch.setattr(material, "PAIRS", {"story-124k": ("target", "drafter")})
    return tiny_data
