"""OpenVINO is imported where it is needed only, and without its telemetry."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("openvino")

SCRIPT = """
import sys
import draftgraph.engine.engine
assert "openvino" not in sys.modules
from draftgraph.backends.openvino.runtime import runtime
assert runtime().__name__ == "openvino"
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


def test_nothing_is_told_to_anybody() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=600)
