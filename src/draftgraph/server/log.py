"""One JSON object per line and request, on stderr. Prompts and answers are in it only if the operator wants them."""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from typing import Any, TextIO


class Log:
    """Writes lines. prompts  whether texts of users may be written."""

    def __init__(self, prompts: bool, stream: TextIO | None = None) -> None:
        self.prompts, self._stream = prompts, stream or sys.stderr
        self._lock = threading.Lock()

    def write(self, level: str, event: str, **fields: Any) -> None:
        """A line with the time in UTC; fields that are None are left out."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        known = {name: value for name, value in fields.items() if value is not None}
        line = json.dumps({"time": stamp, "level": level, "event": event, **known}, ensure_ascii=True, default=str)
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more, which is no reason to fail
                pass

    def failure(self, error: BaseException, **fields: Any) -> None:
        """An error that nobody foresaw, with where it came from. Its message may quote a prompt, so that it is left out."""
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        said = str(error) if self.prompts else None
        self.write("error", "failure", error=type(error).__name__, message=said, where=where, **fields)
