"""A real server in a process of its own, on a free port, as users start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import httpx
import openai

import draftgraph as dg
import held
from draftgraph.data import bundled_pair

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = """{%- for message in messages %}# {{ message.role }}: {{ message.content }}
{%- for call in message.tool_calls or [] %} calls {{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}
{% endfor %}{%- if tools %}# tools: {{ tools | tojson }}
{% endif %}{%- if loud %}# LOUD
{% endif %}{%- if add_generation_prompt %}# assistant: {% endif %}"""
"""A chat template for the bundled pair, which has none: Python comments, which it has read many of."""
LIMIT_SECONDS = 300
DRAFTING = {"budget": 12, "num_speculative_tokens": 6, "backend": "torch"}
"""How servers and engines of these tests draft: nothing depends on a clock."""


@dataclass
class Served:
    """A running server. hold  lets it stand still. log  what it has written to stderr so far."""

    process: subprocess.Popen[str]
    url: str
    hold: held.Hold
    log: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=LIMIT_SECONDS, trust_env=False)

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, http_client=self.http)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def mark(self) -> int:
        """The number of lines of the log, after those of all requests that have been answered."""
        path = f"/mark/{uuid.uuid4().hex}"
        self.http.get(path)
        held.until(lambda: any(path in line for line in self.log))
        return len(self.log)

    def ended(self, path: str, since: int) -> int:
        """How many requests to `path` are over, by the log from line `since` on."""
        return sum(f'"path": "{path}"' in line for line in self.log[since:])


@contextmanager
def served(*options: str, template: Path | None = None, cache: Path | None = None) -> Iterator[Served]:
    """`draftgraph serve` with the bundled pair, ready for requests."""
    drafting = [f"--{name.replace('_', '-')}={value}" for name, value in DRAFTING.items()]
    words = ["serve", "--port", "0", "--threads", "1", *drafting, *options]
    if template is not None:
        template.write_text(TEMPLATE, encoding="utf-8")
        words += ["--chat-template", str(template)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    folder = tempfile.TemporaryDirectory()
    hold = held.Hold(Path(folder.name) / "hold")
    process = subprocess.Popen(
        [sys.executable, held.__file__, str(hold.file), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    server = Served(process, "", hold)
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: server.log.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        for line in process.stdout:
            found = re.search(r" at (http://\S+)/v1", line)
            if found:
                server.url = found[1]
                break
        assert server.url, "".join(server.log)
        yield server
    finally:
        server.http.close()
        process.kill()
        process.wait()
        reader.join(LIMIT_SECONDS)
        process.stdout.close()
        process.stderr.close()
        folder.cleanup()


@cache
def engine() -> dg.Engine:
    """An engine that is drafted as the server's."""
    target, drafter = bundled_pair()
    made = dg.Engine.from_pretrained(target, draft_model=drafter, **DRAFTING)
    made.tokenizer.chat_template = TEMPLATE
    return made
