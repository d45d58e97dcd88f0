"""Does the server answer every request of a long run rightly, in constant memory?

    python -m experiments.serve_load --requests 10000 --connections 32

Starts `draftgraph serve` with the bundled pair in a process of its own. A fixed set of small requests is asked again and
again over all connections: greedy and seeded, streamed and whole, with stops and without. Every answer is compared with what
an engine generates for that request alone: text, reason to end, number of tokens. Lost is whatever gets no answer, or an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import draftgraph as dg
from draftgraph.data import bundled_pair
from draftgraph.lab.bench.prompts import BUNDLED, read_prompts
from draftgraph.view.sheet import Cell
from experiments.experiment import ROOT, Experiment, at_least, table

DRAFTING = {"budget": 8, "num_speculative_tokens": 4}
"""Fixed, so that a seed gives the same text alone and in company."""
JOBS = 60
ANSWER_SECONDS = 300.0
MEMORY_POINTS = 10


@dataclass(frozen=True)
class Job:
    """A request, and what an engine alone answers: text, reason to end, number of tokens."""

    body: dict[str, Any]
    expected: tuple[str, str, int]


@dataclass
class Tally:
    """What became of all requests. first  seconds to the first token of streams. memory  MiB of the server, now and then."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.right + len(self.wrong) + len(self.lost)


def make_jobs(backend: str) -> list[Job]:
    """The requests, each with the answer of an engine alone."""
    target, drafter = bundled_pair()
    engine = dg.Engine.from_pretrained(target, draft_model=drafter, backend=backend, **DRAFTING)
    prompts = [entry.turns[0] for entry in read_prompts(BUNDLED).entries]
    chance = random.Random(0)
    jobs = []
    for number in range(JOBS):
        options: dict[str, Any] = {"max_tokens": chance.randint(4, 24), "temperature": 0.0}
        if number % 2:
            options |= {"temperature": 0.8, "seed": number, "top_p": 0.95}
        if number % 5 == 0:
            options["stop"] = ["\n", "("]
        prompt = prompts[number % len(prompts)][: chance.randint(20, 300)]
        asked = {("max_new_tokens" if name == "max_tokens" else name): value for name, value in options.items()}
        own = engine.generate(prompt, **asked)
        body = {"model": "bundled", "prompt": prompt, "stream": number % 3 == 0, **options}
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        jobs.append(Job(body, (own.text, str(own.finish_reason), len(own.token_ids))))
    return jobs


@contextmanager
def server(backend: str, threads: int, connections: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a running server, and its process."""
    words = [
        "serve",
        "--port",
        "0",
        "--backend",
        backend,
        "--threads",
        str(threads),
        "--max-requests",
        str(2 * connections),
    ]
    words += [f"--{name.replace('_', '-')}={value}" for name, value in DRAFTING.items()]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "draftgraph.cli", *words],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.search(r" at (http://\S+)/v1", line)
            if found:
                yield found[1], process
                break
        else:
            raise SystemExit("the server did not start; run `draftgraph serve` to see why")
    finally:
        process.kill()
        process.wait()


async def load(url: str, pid: int, jobs: Sequence[Job], requests: int, connections: int) -> Tally:
    """Ask `requests` times over so many connections at once."""
    tally = Tally()
    numbers = iter(range(requests))
    order = random.Random(1)
    every = max(requests // MEMORY_POINTS, 1)

    async def connection() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS, trust_env=False) as client:
            for _ in numbers:
                await ask(client, order.choice(jobs), tally)
                if tally.count % every == 0:
                    tally.memory.append((tally.count, resident(pid)))

    await asyncio.gather(*(connection() for _ in range(connections)))
    return tally


async def ask(client: httpx.AsyncClient, job: Job, tally: Tally) -> None:
    begun = time.perf_counter()
    try:
        said = await (streamed if job.body["stream"] else whole)(client, job, tally)
    except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
        tally.lost.append(f"{type(error).__name__}: {error}"[:200])
        return
    tally.seconds.append(time.perf_counter() - begun)
    tally.tokens += said[2]
    if said == job.expected:
        tally.right += 1
    else:
        tally.wrong.append(f"{said} instead of {job.expected}"[:400])


async def whole(client: httpx.AsyncClient, job: Job, tally: Tally) -> tuple[str, str, int]:
    answer = await client.post("/v1/completions", json=job.body)
    told = answer.json()
    choice = told["choices"][0]
    return choice["text"], choice["finish_reason"], told["usage"]["completion_tokens"]


async def streamed(client: httpx.AsyncClient, job: Job, tally: Tally) -> tuple[str, str, int]:
    """Raises ValueError for a stream that does not end as it should."""
    begun, text, reason, count, last = time.perf_counter(), "", "", 0, ""
    async with client.stream("POST", "/v1/completions", json=job.body) as answer:
        async for line in answer.aiter_lines():
            last = line or last
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[len("data: ") :])
            for choice in chunk["choices"]:
                if not text:
                    tally.first.append(time.perf_counter() - begun)
                text, reason = text + choice["text"], choice["finish_reason"] or reason
            count = chunk["usage"]["completion_tokens"] if chunk["usage"] else count
    if last != "data: [DONE]":
        raise ValueError(f"a stream ended with {last[:100]!r}")
    return text, reason, count


def resident(pid: int) -> float:
    """MiB of a process that are in memory."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment("serve_load", "The server under load", __doc__, "300 requests")
    add = experiment.parser.add_argument
    add("--requests", type=at_least(1), default=10_000, help="in all")
    add("--connections", type=at_least(1), default=32, help="at a time")
    add("--backend", default="auto", help="of the server and of the engine that its answers are compared with")
    options = experiment.start(arguments)
    requests = 300 if options.quick else options.requests
    jobs = make_jobs(options.backend)
    with server(options.backend, options.threads, options.connections) as (url, process):
        asyncio.run(load(url, process.pid, jobs, options.connections, options.connections))  # nothing is cold any more
        begun = time.perf_counter()
        tally = asyncio.run(load(url, process.pid, jobs, requests, options.connections))
        seconds = time.perf_counter() - begun
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    print(experiment.save(report(tally, seconds, options, code), **results(tally, seconds, code)))
    if tally.wrong or tally.lost or code:
        raise SystemExit(1)


def results(tally: Tally, seconds: float, code: int) -> dict[str, Any]:
    return {
        "requests": tally.count,
        "right": tally.right,
        "wrong": tally.wrong[:20],
        "lost": tally.lost[:20],
        "seconds": seconds,
        "tokens": tally.tokens,
        "memory_mib": tally.memory,
        "exit_code": code,
    }


def report(tally: Tally, seconds: float, options: argparse.Namespace, code: int) -> list[Any]:
    rows: list[Sequence[Cell]] = [
        ["requests", str(tally.count)],
        ["connections", str(options.connections)],
        ["wrong answers", str(len(tally.wrong))],
        ["lost answers", str(len(tally.lost))],
        ["requests per second", f"{tally.count / seconds:.1f}"],
        ["tokens per second", f"{tally.tokens / seconds:.0f}"],
        ["seconds to the first token, median (95 %)", _spread(tally.first)],
        ["seconds per request, median (95 %)", _spread(tally.seconds)],
        ["exit code after SIGTERM", str(code)],
    ]
    memory = ", ".join(f"{mib:.0f} after {count}" for count, mib in tally.memory)
    return [table(("what", "figure"), rows), f"Memory of the server in MiB (resident): {memory}."]


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "not measured"
    highest = statistics.quantiles(values, n=20, method="inclusive")[-1]
    return f"{statistics.median(values):.3f} ({highest:.3f})"


if __name__ == "__main__":
    main()
