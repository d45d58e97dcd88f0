"""What transformers logs of a checkpoint that does not fit its model, which whoever loads it says in one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unreported() -> Iterator[None]:
    """Without the pages about weights that are missing or of another size. Other lines of the logger come through."""

    def kept(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        return not ("seem corrupted" in said or ("LOAD REPORT" in said and ("MISSING" in said or "MISMATCH" in said)))

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(kept)
    try:
        yield
    finally:
        logger.removeFilter(kept)
