"""What `draftgraph serve` does: loads, listens, says where, serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from draftgraph.cli.options import Chosen, Drafting
from draftgraph.cli.program import tell
from draftgraph.cli.work.engines import load_engine, make_config, place
from draftgraph.engine.chat import has_template
from draftgraph.engine.engine import Engine
from draftgraph.errors import OptionError
from draftgraph.files import BrokenFileError, read_text
from draftgraph.view.status import status

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "pydantic")
BUNDLED = "bundled"
"""The name of the bundled pair."""


@dataclass(frozen=True)
class Serving:
    """How to serve, as it was written. name  of the model, for clients."""

    host: str
    port: int
    api_key: str | None
    name: str | None
    chat_template: Path | None
    log_prompts: bool
    metrics_prefix: str
    max_requests: int
    max_batch: int
    memory_mib: int | None
    max_body_mib: int
    request_timeout: float
    drain_timeout: float


def serve_engine(chosen: Chosen, drafting: Drafting, more: Mapping[str, Any], serving: Serving) -> None:
    """Serve until a signal ends it; `more` are fields of `Config`.

    Raises OptionError for what cannot be served, before a model is loaded where possible.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise OptionError(f"serving needs {', '.join(missing)}; write pip install 'draftgraph[server]'")
    from draftgraph.server.log import Log
    from draftgraph.server.program import listen, run
    from draftgraph.server.service import Service
    from draftgraph.server.settings import MEBIBYTE, Settings

    settings = Settings(
        model=serving.name or _name(chosen),
        api_key=serving.api_key,
        host=serving.host,
        port=serving.port,
        max_body_bytes=serving.max_body_mib * MEBIBYTE,
        max_requests=serving.max_requests,
        request_timeout=serving.request_timeout,
        drain_timeout=serving.drain_timeout,
        log_prompts=serving.log_prompts,
        metrics_prefix=serving.metrics_prefix,
    )
    template = None if serving.chat_template is None else _template(serving.chat_template)
    place(chosen)
    config = make_config(drafting, **more)
    with listen(settings.host, settings.port) as listening:
        memory = "auto" if serving.memory_mib is None else serving.memory_mib * MEBIBYTE
        engine = load_engine(chosen, config, quiet=False, max_batch=serving.max_batch, memory=memory)
        _prepare(engine, template)
        port = listening.getsockname()[1]
        _announce(engine, settings.model, settings.host, port, settings.api_key is not None)
        if not settings.is_loopback and settings.api_key is None:
            tell(
                f"warning: everybody who reaches {settings.host} can use this server; write --api-key, or --host 127.0.0.1"
            )
        run(Service(engine, settings, Log(settings.log_prompts)), listening)


def _name(chosen: Chosen) -> str:
    """What clients call the model: its hub name, or the last part of its path."""
    source = chosen.pair[0]
    if isinstance(source, Path):
        return BUNDLED
    return Path(source).name if Path(source).exists() else source


def _template(file: Path) -> str:
    try:
        return read_text(file)
    except (OSError, BrokenFileError) as error:
        raise OptionError(f"--chat-template cannot read {str(file)!r}: {error}; give a Jinja file in UTF-8") from None


def _prepare(engine: Engine, template: str | None) -> None:
    """Whatever the first request would wait for."""
    if engine.tokenizer is None:
        raise OptionError("a server reads and writes texts, and the model has no tokenizer; put one into its folder")
    if template is not None:
        engine.tokenizer.chat_template = template
    if engine.config.budget == "auto":
        with status("timing this pair on this machine, once", False):
            engine.warm_up()


def _announce(engine: Engine, name: str, host: str, port: int, has_key: bool) -> None:
    """One line where it is, and a request to try."""
    from draftgraph.server.app import drafter_of

    shown = f"[{host}]" if ":" in host else {"0.0.0.0": "127.0.0.1"}.get(host, host)
    base = f"http://{shown}:{port}"
    chats = has_template(engine.tokenizer)
    path = "/v1/chat/completions" if chats else "/v1/completions"
    said = '"messages": [{"role": "user", "content": "Hello"}]' if chats else '"prompt": "def add(a, b):"'
    key = ' -H "Authorization: Bearer $DRAFTGRAPH_API_KEY"' if has_key else ""
    typer.echo(f"serving {name} at {base}/v1, drafts from {drafter_of(engine)}, on {engine.target.name}")
    typer.echo(f"try: curl {base}{path}{key} -H 'Content-Type: application/json' -d '{{{said}, \"max_tokens\": 32}}'")
