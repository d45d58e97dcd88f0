"""What Prometheus reads: counts and times of all requests, under vLLM's names with a prefix of our own.

Dashboards for vLLM work with the prefix "vllm". A round that emits several tokens counts as so many equal times between tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from draftgraph.request.result import Event, Result

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one server.

    model   the value of the label model_name. prefix  what names begin with, before a colon.
    """

    def __init__(self, model: str, prefix: str) -> None:
        self._registry, self._model, self._prefix = CollectorRegistry(), model, prefix
        self._rounds = self._make(Counter, "spec_decode_num_drafts", "Rounds of drafting and verifying.")
        self._drafted = self._make(Counter, "spec_decode_num_draft_tokens", "Drafted tokens that the target verified.")
        self._accepted = self._make(Counter, "spec_decode_num_accepted_tokens", "Drafted tokens that were emitted.")
        self._depths = self._family(
            Counter,
            "spec_decode_num_accepted_tokens_per_pos",
            "Accepted tokens by their depth in the draft.",
            "position",
        )
        self._read = self._make(Counter, "prompt_tokens", "Tokens of prompts of finished requests.")
        self._cached = self._make(Counter, "prefix_cache_hits", "Of these, tokens that were not read again.")
        self._generated = self._make(Counter, "generation_tokens", "Generated tokens.")
        self._finished = self._family(
            Counter, "request_success", "Finished requests by their reason.", "finished_reason"
        )
        self._refused = self._family(Counter, "request_error", "HTTP requests answered by an error.", "status")
        self._to_first = self._make(
            Histogram, "time_to_first_token_seconds", "Until the first token.", buckets=_SECONDS
        )
        self._between = self._make(Histogram, "inter_token_latency_seconds", "Between tokens.", buckets=_SECONDS)
        self._whole = self._make(Histogram, "e2e_request_latency_seconds", "Of finished requests.", buckets=_SECONDS)

    def watch(self, name: str, said: str, value: Callable[[], float]) -> None:
        """A gauge that is asked whenever somebody reads."""
        self._make(Gauge, name, said).set_function(value)

    def event(self, event: Event, seconds: float, is_first: bool) -> None:
        """Enter a round that came `seconds` after the one before it, or after the request."""
        count = len(event.token_ids)
        self._generated.inc(count)
        if is_first:
            self._to_first.observe(seconds)
        for _ in range(0 if is_first else count):
            self._between.observe(seconds / count)
        accepted = sum(event.drafted)
        self._rounds.inc()
        self._accepted.inc(accepted)
        if event.round is not None:
            self._drafted.inc(len(event.round.tokens))
        for depth in range(accepted):
            self._depths.labels(self._model, str(depth)).inc()

    def finished(self, result: Result, seconds: float) -> None:
        self._read.inc(result.stats.num_prompt_tokens)
        self._cached.inc(result.stats.num_cached_prompt_tokens)
        self._finished.labels(self._model, result.finish_reason).inc()
        self._whole.observe(seconds)

    def error(self, status: int) -> None:
        self._refused.labels(self._model, str(status)).inc()

    def render(self) -> bytes:
        text: bytes = generate_latest(self._registry)
        return text

    def _family(self, kind: Any, name: str, said: str, *labels: str, **options: Any) -> Any:
        return kind(f"{self._prefix}:{name}", said, ("model_name", *labels), registry=self._registry, **options)

    def _make(self, kind: Any, name: str, said: str, **options: Any) -> Any:
        return self._family(kind, name, said, **options).labels(self._model)
