"""Weights of fewer bits, by the package `nncf`. Activations are then quantised as they come, which is OpenVINO's default."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
from typing import Any

from draftgraph.backends.openvino.precision import Precision
from draftgraph.backends.openvino.refusals import QUANTISER, UnfitError
from draftgraph.backends.openvino.runtime import quantiser
from draftgraph.errors import first_line

GROUP = 64
"""Weights of a row that share a scale, with 4 bits."""


def made_with(precision: Precision) -> dict[str, str]:
    """The version that a quantised graph depends on; nothing for weights as they are stored."""
    return {} if precision.weights == "stored" else {QUANTISER: importlib.metadata.version(QUANTISER)}


def quantise(graph: Any, precision: Precision) -> None:
    """Quantise the weights of a graph in place, if its precision says so.

    int8: 8 bits with an offset per row. int4: 4 bits, symmetric, in groups of GROUP; embedding and head keep 8.

    Raises UnfitError for weights that cannot be divided so.
    """
    if precision.weights == "stored":
        return
    nncf = quantiser()
    modes = {
        "int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
        "int4": {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": GROUP, "ratio": 1.0},
    }
    logger = logging.getLogger(QUANTISER)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it draws a bar, and whoever converts says so already
            nncf.compress_weights(graph, **modes[precision.weights])
    except (MemoryError, OSError):
        raise
    except Exception as error:
        hint = (
            f": rows of its matrices must be multiples of {GROUP}; int8 takes any"
            if precision.weights == "int4"
            else ""
        )
        raise UnfitError(
            f"its weights cannot be quantised to {precision.weights} ({first_line(error)}){hint}"
        ) from error
    finally:
        logger.setLevel(level)
