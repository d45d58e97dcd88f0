"""What several processes do to one entry of the cache at the same moment."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from draftgraph.backends.openvino import store

pytest.importorskip("openvino")

from draftgraph.backends.openvino.load import from_folder
from draftgraph.backends.openvino.paged import read_paged
from models import tiny_lm


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one model."""
    folder = tmp_path_factory.mktemp("store")
    tiny_lm(vocab=256).save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAFTGRAPH_CACHE", str(folder / "cache"))
        from_folder(folder / "model", None, None)
    return folder / "cache"


@pytest.fixture
def place(converted: Path, tmp_path: Path) -> Path:
    """Where the model is kept, in a cache of the test's own."""
    shutil.copytree(converted, tmp_path / "cache")
    [found] = (tmp_path / "cache" / "openvino").iterdir()
    return found


@pytest.fixture
def entry(place: Path) -> store.Entry:
    return store.read_entry(place, json.loads((place / store.ENTRY).read_text())["made_with"])


@pytest.fixture
def graph(place: Path) -> Any:
    return read_paged(place / store.GRAPH)


@pytest.mark.parametrize("found", ["nothing", "what is of no use"])
def test_the_entry_of_the_first_one_stays(
    found: str, place: Path, entry: store.Entry, graph: Any, tmp_path: Path
) -> None:
    """Others may be reading it by then."""
    if found == "nothing":
        place.rename(tmp_path / "elsewhere")
    useless = store.there(place)
    assert (useless is None) == (found == "nothing")
    seen: set[int | None] = set()

    def write() -> None:
        store.write_entry(place, entry, graph.clone(), useless)
        seen.add(store.there(place))

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen - {None, useless}) == len(seen) == 1
    assert list(place.parent.iterdir()) == [place]
    assert store.read_entry(place, entry.made_with) == entry


def test_an_entry_of_other_weights_is_replaced(place: Path, entry: store.Entry, graph: Any) -> None:
    store.write_entry(place, replace(entry, weights="other"), graph, None)
    assert store.read_entry(place, entry.made_with).weights == "other"
