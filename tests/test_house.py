"""The house rules hold, and the check that says so sees every kind of violation."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_house", ROOT / "tools" / "check_house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_house_rules_hold(check):
    assert check.violations(ROOT / "src" / "draftgraph") == []


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("types.py", "from draftgraph.verification import layer", "a layer above"),
        ("draft/graph.py", "def f():\n    from draftgraph.engine.engine import Engine", "a layer above"),
        ("sampling/warp.py", "import draftgraph", "a layer above"),
        ("sampling/warp.py", "from draftgraph import engine", "a layer above"),
        ("verification/base.py", "import transformers", "without a model"),
        ("verification/base.py", "from transformers.cache_utils import DynamicCache", "without a model"),
        ("surprise.py", "", "has no layer"),
        ("sampling/warp.py", "from . import errors", "relative import"),
        ("engine/round.py", "kind = 'Llama'", "'Llama'"),
        ("draft/model.py", "if name == 'qwen2': pass", "'qwen2'"),
        ("verification/base.py", "# as in EAGLE-2", "'EAGLE'"),
        ("sampling/warp.py", "x = 1\n" * 331, "331 lines"),
        ("engine/round.py", "x = 1\n" * 81, "81 lines"),
        ("draft/model.py", "from draftgraph.engine.config import Config", "a layer above"),
        ("engine/engine.py", "if isinstance(drafter, ModelDrafter): pass", "the class ModelDrafter"),
        ("lab/pair.py", "x = isinstance(model, (int, TorchModel))", "the class TorchModel"),
        ("draft/passes.py", "x = isinstance(model, CausalLM)", "the class CausalLM"),
        ("engine/engine.py", "from draftgraph.backends.fast import Fast", "the backend draftgraph.backends.fast"),
        (
            "lab/pair.py",
            "def f():\n    import draftgraph.backends.fast as fast",
            "the backend draftgraph.backends.fast",
        ),
        ("draft/model.py", "if self.structure == 'chain': pass", "the name 'chain'"),
    ],
)
def test_a_violation_is_seen(check, tmp_path, file, code, complaint):
    _write(tmp_path, file, code)
    found = check.violations(tmp_path)
    assert found
    assert complaint in found[0]
    assert found[0].startswith(f"{tmp_path / file}:")


def test_a_model_in_disguise_is_seen(check, tmp_path):
    """Purity holds for everything that a pure file imports in turn."""
    _write(tmp_path, "verification/base.py", "from draftgraph.sampling.rng import Noise")
    _write(tmp_path, "sampling/rng.py", "import transformers")
    assert any(
        "base.py" in line and "draftgraph.sampling.rng -> transformers" in line for line in check.violations(tmp_path)
    )


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (
            "types.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from draftgraph.engine.engine import Engine",
        ),
        ("draft/edges/rows.py", "# opt-in tables; an optimal, philosophical option"),
        ("draft/model.py", "from draftgraph.backends.base import Feed"),
        ("lab/prove/controls.py", "source = 'EAGLE'"),
        ("engine/assemble.py", "from draftgraph.backends.fast import Fast"),
        ("backends/probe.py", "from draftgraph.backends.fast import Fast"),
        ("cli.py", "import draftgraph as dg"),
        ("engine/config.py", "x = structure == 'auto' or isinstance(drafter, str | Drafter | PreTrainedModel)"),
    ],
)
def test_what_is_allowed_is_not_complained_about(check, tmp_path, file, code):
    _write(tmp_path, file, code)
    assert check.violations(tmp_path) == []


def _write(source: Path, file: str, code: str) -> None:
    """A file in a package that has the modules the examples import."""
    for name in (
        "__init__",
        "engine/__init__",
        "engine/engine",
        "sampling/rng",
        "verification/__init__",
        "verification/layer",
        "backends/base",
        "backends/fast",
        file.removesuffix(".py"),
    ):
        path = source / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()
    verbs = "\n".join(f"    def {verb}(self): ..." for verb in ("open", "forward", "keep", "close"))
    (source / "backends" / "base.py").write_text(f"class CausalLM(Protocol):\n{verbs}")
    (source / "backends" / "fast.py").write_text(f"class Fast:\n{verbs}")
    (source / file).write_text(code)
