"""A graph that was kept computes bit for bit what it did before, and its file stays mapped as long as one constant is there."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

ov = pytest.importorskip("openvino")

from converted import lm  # noqa: E402
from draftgraph.backends.openvino.graphs import graph_of  # noqa: E402
from draftgraph.backends.openvino.model import About, OpenVinoModel  # noqa: E402
from draftgraph.backends.openvino.paged import constant_of, read_paged, to_paged  # noqa: E402
from draftgraph.backends.openvino.pages import mappings, trim  # noqa: E402
from draftgraph.backends.openvino.precision import Precision  # noqa: E402
from draftgraph.backends.openvino.trial import trial  # noqa: E402


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("activations", ["f32", "bf16"])
def test_a_graph_that_was_kept_computes_what_it_did(family: str, activations: str, tmp_path: Path) -> None:
    about, precision = About("tiny", "Tiny", 64, 1500, "", ""), Precision(activations)
    traced = graph_of(lm(family), ())
    ov.save_model(traced, tmp_path / "traced.xml", compress_to_fp16=False)  # a file rounds numbers of nodes
    graph = ov.Core().read_model(tmp_path / "traced.xml")
    to_paged(graph, precision)
    expected = trial(OpenVinoModel(graph, about, precision, 1))
    to_paged(traced, precision)
    ov.save_model(traced, tmp_path / "graph.xml", compress_to_fp16=False)
    seen = trial(OpenVinoModel(read_paged(tmp_path / "graph.xml"), about, precision, 1))
    assert torch.equal(seen, expected)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mappings are read from /proc/self/maps")
def test_one_constant_keeps_the_file_mapped(tmp_path: Path) -> None:
    graph = graph_of(lm(), ())
    to_paged(graph, Precision())
    ov.save_model(graph, tmp_path / "graph.xml", compress_to_fp16=False)
    read = read_paged(tmp_path / "graph.xml")
    held = constant_of(read)
    del read
    gc.collect()
    trim()
    assert mappings(tmp_path / "graph.bin")
    assert held.data.size
    del held
    gc.collect()
    assert not mappings(tmp_path / "graph.bin")
