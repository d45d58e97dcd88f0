"""On a real Ray of two cores: an offline job whose driver is killed, and a server of which a replica is killed under load.

It takes minutes, most of which Ray needs to start. Skipped where Ray is not installed (`make ray` installs it and runs this).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from draftgraph.data import bundled_pair

pytest.importorskip("ray")
LIMIT_SECONDS = 600
ROOT = Path(__file__).resolve().parents[2]
TARGET, DRAFTER = map(str, bundled_pair())
BEGIN = f"""
import collections, json, os, socket, subprocess, sys, threading, time
import ray
from draftgraph.integrations.ray import application, generate_rows
PAIR = dict(target={TARGET!r}, draft_model={DRAFTER!r}, engine=dict(budget=8, backend="torch"))
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, log_to_driver=False)
"""
JOB = """
rows = [{"prompt": f"def f{i}(", "id": i} for i in range(12)]
def progress(done, total):
    if done >= int(sys.argv[2]):
        os._exit(9)
params = dict(max_new_tokens=8, temperature=1.0)
generate_rows(rows, sys.argv[1], **PAIR, params=params, seed=3, replicas=2, cpus_per_replica=0.5, batch_size=3, progress=progress)
"""
SERVE = """
import httpx
from ray import serve
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(application(PAIR["target"], PAIR["draft_model"], model="pair", engine=PAIR["engine"], num_replicas=2,
                      ray_actor_options={"num_cpus": 0.5}, graceful_shutdown_timeout_s=5))
asked = dict(model="pair", prompt="def f(", max_tokens=12, temperature=0)
def client():
    return httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=120, trust_env=False)
with client() as one:
    want = one.post("/completions", json=asked).json()["choices"][0]["text"]
    with one.stream("POST", "/completions", json=asked | {"stream": True}) as stream:
        lines = [line for line in stream.iter_lines() if line]
seen = collections.Counter(streamed=lines[-1] == "data: [DONE]" and len(lines) > 2)
over = threading.Event()
def until(reached, seconds):
    end = time.monotonic() + seconds
    while not reached() and time.monotonic() < end:
        time.sleep(0.05)
def work():
    with client() as one:
        while not over.is_set():
            answer = one.post("/completions", json=asked)
            right = answer.status_code == 200 and answer.json()["choices"][0]["text"] == want
            seen["right" if right else f"status {answer.status_code}"] += 1
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
until(lambda: seen["right"] >= 10, 120)
seen["before"] = seen["right"]
listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, timeout=30).stdout.splitlines()
replicas = [int(line.split()[0]) for line in listed if "ray::Serve" "Replica" in line]
os.kill(replicas[0], 9)
until(lambda: seen["right"] >= seen["before"] + 40, 120)
over.set()
for thread in threads:
    thread.join(150)
seen["hung"] = sum(thread.is_alive() for thread in threads)
print(json.dumps(seen), flush=True)
os._exit(0)
"""


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A driver in a process of its own. Whatever it has started is ended with it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + textwrap.dedent(program), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(program, process.returncode, out, err)


@pytest.mark.timeout(2 * LIMIT_SECONDS)
def test_a_job_whose_driver_is_killed_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert run(JOB, str(out), "3").returncode == 9
    kept = (tmp_path / "out.jsonl.rows").read_text()
    assert kept.count("\n") >= 4
    done = run(JOB, str(out), "99")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(12))
    assert all(row["error"] == "" and len(row["token_ids"]) == 8 for row in rows)
    for line in kept.splitlines()[1:]:
        row = json.loads(line)
        assert rows[row["number"]]["text"] == row["text"]


@pytest.mark.timeout(2 * LIMIT_SECONDS)
def test_a_replica_that_is_killed_costs_an_error_at_most_and_no_answer_is_wrong() -> None:
    done = run(SERVE)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen.pop("streamed")
    assert seen.pop("hung") == 0
    assert seen["right"] > seen.pop("before") > 0
    assert set(seen) - {"right"} <= {"status 500", "status 503"}
    assert sum(count for name, count in seen.items() if name != "right") <= 4  # those that the replica had begun
