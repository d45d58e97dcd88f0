"""What making an engine imports: modelling code of transformers takes two seconds, and not every backend runs it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("transformers.modeling_utils", "transformers.generation.utils", "torch._dynamo", "openvino", "nncf")


def test_an_engine_is_there_before_any_modelling_code() -> None:
    code = f"import sys, draftgraph as dg; dg.Engine.from_pretrained; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "[]"
