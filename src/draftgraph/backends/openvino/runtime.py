"""The packages `openvino` and `nncf`, imported where they are needed first, and without their telemetry.

Imported by itself, it tells its vendor of the import, and of models that are converted. Whoever imports it before draftgraph
does decides that himself.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from typing import Any

_TELEMETRY = "openvino_telemetry"
_IMPORTING = threading.Lock()


def runtime() -> Any:
    """The module `openvino`."""
    return _imported("openvino")


def quantiser() -> Any:
    """The module `nncf`. What it does to the loggers of others is undone."""
    runtime()
    kind = logging.getLoggerClass()
    try:
        return _imported("nncf")
    finally:
        logging.setLoggerClass(kind)


def _imported(name: str) -> Any:
    with _IMPORTING:
        if name in sys.modules or _TELEMETRY in sys.modules:
            return importlib.import_module(name)
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # as if it were not installed
        try:
            return importlib.import_module(name)
        finally:
            del sys.modules[_TELEMETRY]
