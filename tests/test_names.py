"""The public names: imported when they are used, and otherwise as if they had been there all the time."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
from importlib import import_module

import pytest

import draftgraph as dg


def test_every_public_name_is_what_its_module_has():
    assert set(dg._HOMES) == set(dg.__all__) - {"DraftgraphError", "structures"}, "the one is light, the other a module"
    assert dg.structures is import_module("draftgraph.structures")
    for name, home in dg._HOMES.items():
        assert getattr(dg, name) is getattr(import_module(f"draftgraph.{home}"), name)
    assert set(dg.__all__) <= set(dir(dg))


def test_a_star_brings_all_of_them_and_nothing_else():
    names: dict[str, object] = {}
    exec("from draftgraph import *", names)
    assert set(names) - {"__builtins__"} == set(dg.__all__)


@pytest.mark.parametrize("collecting", [True, False])
def test_nothing_is_collected_while_they_are_imported_and_afterwards_as_before(collecting, monkeypatch):
    monkeypatch.setitem(dg._HOMES, "Absent", "nowhere")
    during = []
    monkeypatch.setattr(dg, "import_module", lambda name: during.append(gc.isenabled()) or import_module(name))
    before = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        dg.__getattr__("Outcome")
        with pytest.raises(ModuleNotFoundError):
            dg.__getattr__("Absent")
        assert (during, gc.isenabled()) == ([False, False], collecting)
    finally:
        (gc.enable if before else gc.disable)()


def test_they_survive_pickling():
    params = dg.SamplingParams(temperature=0.5, seed=7)
    assert pickle.loads(pickle.dumps(params)) == params
    for name in ("Config", "Engine", "Rule", "custom_generate", "prove", "rules"):
        assert pickle.loads(pickle.dumps(getattr(dg, name))) is getattr(dg, name)


def test_modules_are_attributes_and_other_names_are_errors():
    assert dg.errors is import_module("draftgraph.errors")
    with pytest.raises(AttributeError, match="no attribute 'engin'"):
        dg.engin  # noqa: B018
    with pytest.raises(ImportError):
        exec("from draftgraph import Engin")


LIGHT = """
import json, sys
import draftgraph, draftgraph.cli
from typer.testing import CliRunner
for arguments, code in json.loads(sys.argv[1]):
    result = CliRunner().invoke(draftgraph.cli.app, arguments)
    assert result.exit_code == code, (arguments, result.exit_code, result.output)
heavy = {"torch", "transformers", "numpy", "huggingface_hub", "tokenizers"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_version_typos_and_view_import_no_torch(tmp_path):
    import json

    from draftgraph.view import tracefile
    from traces import random_trace

    tracefile.save(random_trace(2, 5), tmp_path / "run.json")
    commands = (
        "generate",
        "beams",
        "chat",
        "serve",
        "table",
        "demo",
        "costs",
        "bench",
        "doctor",
        "judge",
        "pair-check",
        "predict",
        "prove",
        "rules",
        "train",
        "view",
    )
    calls = [[[], 2], [["--version"], 0], [["-h"], 0], [["--help"], 0], [["genrate", "x"], 2], [["generate"], 2]]
    calls += [[[command, help_option], 0] for command in commands for help_option in ("-h", "--help")]
    calls += [
        [["generate", "x", "--modle", "y"], 2],
        [["generate", "x", "--json", "--show"], 2],
        [["doctor", "--top-k", "x"], 2],
    ]
    calls += [
        [["view", str(tmp_path / "run.json")], 0],
        [["view", str(tmp_path / "run.json"), "--html", str(tmp_path / "a.html")], 0],
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(calls)], capture_output=True, check=False, timeout=240
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
