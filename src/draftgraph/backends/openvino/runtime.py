"""The package `openvino`, imported where it is needed first, and without its telemetry.

Imported by itself, it tells its vendor of the import, and of models that are converted. Whoever imports it before draftgraph
does decides that himself.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

_TELEMETRY = "openvino_telemetry"
_IMPORTING = threading.Lock()


def runtime() -> Any:
    """The module `openvino`."""
    with _IMPORTING:
        if "openvino" not in sys.modules and _TELEMETRY not in sys.modules:
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # as if it were not installed
            try:
                import openvino
            finally:
                del sys.modules[_TELEMETRY]
        import openvino

    return openvino
