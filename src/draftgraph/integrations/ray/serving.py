"""The server as a Serve application: replicas, autoscaling by requests that are under way, health, rolling updates, streaming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from draftgraph.engine.engine import Engine
from draftgraph.server.log import Log
from draftgraph.server.settings import Settings

BUSY = 32
"""Requests under way per replica at which Serve starts another one: those that an engine decodes together."""
PATIENCE_SECONDS = 600.0
"""What a replica gets to load its models, and to end its requests when it is replaced."""


def application(
    target: str,
    draft_model: str | None = None,
    *,
    model: str | None = None,
    engine: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
    **deployment: Any,
) -> Any:
    """A Serve application with OpenAI's API: `ray.serve.run(application("path/or/hub-name"))`, or `serve run module:app`.

    target, draft_model, engine  as in `Engine.from_pretrained`; `engine` holds its further arguments.
    model          the name that clients ask for; the target's by default.
    settings       further fields of `draftgraph.server.settings.Settings`. Host and port are those of Serve's proxy.
    chat_template  a Jinja template, for models without one.
    deployment     options of `ray.serve.deployment`: num_replicas, autoscaling_config, ray_actor_options, ... By default one to
                   four replicas, by the number of requests under way.

    A replica is healthy once its models are loaded and its costs are known. One that is replaced ends what it has begun.
    """
    from ray import serve

    chosen = Settings(model=model or target, **(settings or {}))
    making = dict(engine or {})

    def build() -> Any:
        """Called in every replica when it starts."""
        from draftgraph.server.app import make_app
        from draftgraph.server.service import Service

        made = Engine.from_pretrained(target, draft_model=draft_model, **making)
        if chat_template is not None:
            made.tokenizer.chat_template = chat_template  # type: ignore[union-attr]  # a server's model has a tokenizer
        if made.config.budget == "auto":
            made.warm_up()
        return make_app(Service(made, chosen, Log(chosen.log_prompts)))

    options: dict[str, Any] = {
        "name": "draftgraph",
        "max_ongoing_requests": chosen.max_requests,
        "graceful_shutdown_timeout_s": PATIENCE_SECONDS,
    }
    if "num_replicas" not in deployment:
        options["autoscaling_config"] = {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": BUSY}
    return serve.deployment(serve.ingress(build)(), **(options | deployment)).bind()
