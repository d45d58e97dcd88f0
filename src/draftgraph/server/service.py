"""What all endpoints share: one engine, and how it is served."""

from __future__ import annotations

import time

from draftgraph.engine.engine import Engine
from draftgraph.errors import brief
from draftgraph.server.errors import ApiError
from draftgraph.server.gate import Gate
from draftgraph.server.log import Log
from draftgraph.server.metrics import Metrics
from draftgraph.server.settings import Settings
from draftgraph.server.token_texts import TokenTexts


class Service:
    """An engine and what stands between it and clients.

    Raises ApiError where a request cannot be served.
    """

    def __init__(self, engine: Engine, settings: Settings, log: Log) -> None:
        self.engine, self.settings, self.log = engine, settings, log
        self.gate = Gate(settings.max_requests, settings.drain_timeout)
        self.metrics = Metrics(settings.model, settings.metrics_prefix)
        self.texts = TokenTexts(engine.tokenizer)
        self.created = int(time.time())
        self.metrics.watch("num_requests_running", "Answers that are being generated.", lambda: engine.load.running)
        self.metrics.watch("num_requests_waiting", "Answers that wait for their turn.", lambda: engine.load.waiting)
        self.metrics.watch("kv_cache_usage_perc", "Part of the cache that is used, from 0 to 1.", self._cache_used)

    def _cache_used(self) -> float:
        load = self.engine.load
        return load.cells_used / max(load.cells_limit, 1)

    def check_model(self, name: str | None) -> None:
        """Refuse another model than the one that is served. None is that one."""
        if name not in (None, self.settings.model):
            raise ApiError(
                404,
                f"there is no model {brief(name)}; this server has {self.settings.model!r}",
                "model",
                "model_not_found",
            )

    def check_choices(self, count: int) -> None:
        most = self.settings.max_choices
        if count > most:
            raise ApiError(400, f"the request asks for {count} answers; at most {most} may be asked for at once", "n")
