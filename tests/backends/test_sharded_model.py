"""A target that is shared out over two ranks says what it says in one process, and a rank that dies ends the job.

Weights are float64: the ranks' parts are added up in another order, which may turn a near-tie of float32 over.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

import draftgraph as dg
import shared_out
from draftgraph.backends.sharded_model import refuse_unfit
from draftgraph.backends.shards import refuse_beside
from draftgraph.errors import ModelError, OptionError
from models import perturbed, tiny_lm

with_gloo = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch was built without gloo")
LIMIT_SECONDS = 600


def port() -> int:
    """One that nobody takes before the ranks do: it is below those that the system gives to whoever asks for any."""
    first = 20000 + os.getpid() % 10000
    for number in range(first, first + 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("", number))
            return number
    raise AssertionError("no port is free")


def job(name: str, folder: Path) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of two ranks, which are started as torchrun does."""
    joined = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, shared_out.__file__, name, str(folder)],
            env=os.environ | joined | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    end, found = time.monotonic() + LIMIT_SECONDS, []
    try:
        for process in started:
            out, errors = process.communicate(timeout=max(1.0, end - time.monotonic()))
            found.append((process.returncode, out, errors))
    finally:
        for process in started:
            process.kill()
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders of a target and a drafter."""
    folder = tmp_path_factory.mktemp("shards")
    target = tiny_lm(vocab=96, window=256).double()
    target.save_pretrained(folder / "target")
    perturbed(target, 0.05).save_pretrained(folder / "drafter")
    return folder


@with_gloo
def test_texts_are_those_of_one_process_and_rank_0_alone_goes_on(pair: Path) -> None:
    (code, out, errors), follower = job("equal", pair)
    assert (code, *follower[:2]) == (0, 0, ""), errors + follower[2]
    said = json.loads(out)
    options: dict[str, Any] = {"dtype": "float64", "backend": "torch", "budget": 12}
    alone = dg.Engine.from_pretrained(pair / "target", draft_model=pair / "drafter", **options)
    expected = shared_out.texts(alone)
    assert said["found"] == expected | {"second": expected["greedy"]}
    assert expected["shared"][1:] == [70, 70, 70]
    assert said["why"] == "torch: its weights are shared out over 2 ranks"
    patterns = [
        "OptionError: .*serve '.*target' until the program ends; load the model once",
        "OptionError: .*shared out over 2 ranks and cannot be a draft model",
        "OptionError: .*backend='openvino' was asked for; leave one out",
        "OptionError: .*'keys:0'.*read 'hidden:…' instead",
        "ModelError: .*start the program anew",
        "LogitsError: .*NaN",
    ]
    for pattern, message in zip(patterns, said["refused"], strict=True):
        assert re.match(pattern, message)


@with_gloo
def test_a_follower_that_dies_is_an_error_of_rank_0_now_and_later(pair: Path) -> None:
    (code, out, errors), follower = job("follower_dies", pair)
    assert (code, follower[0]) == (0, -9), errors
    first, second = out.splitlines()
    assert first == second
    assert re.match(r"ModelError: a pass of the 2 ranks was not finished .*start the program anew", first)


@with_gloo
def test_followers_end_with_an_error_where_rank_0_dies(pair: Path) -> None:
    leader, (code, _, errors) = job("leader_dies", pair)
    assert (leader[0], code) == (9, 1)
    assert "ModelError: rank 0 has died, and rank 1 ends with it" in errors


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({}, r"tp_plan='auto' .* this is one alone; .*torchrun --nproc-per-node 2"),
        ({"tp_plan": "rows"}, r"tp_plan='rows' is not possible; write 'auto'"),
        ({"device": "cpu"}, r"gives every rank its own device; leave device='cpu' out"),
    ],
    ids=["no ranks", "another plan", "a device"],
)
def test_a_plan_that_cannot_be_followed_is_refused(options: dict[str, Any], pattern: str, pair: Path) -> None:
    with pytest.raises(OptionError, match=pattern):
        dg.Engine.from_pretrained(pair / "target", **{"tp_plan": "auto"} | options)


@pytest.mark.parametrize(
    ("beside", "pattern"),
    [
        (("openvino", None, False), "backend='openvino' was asked for; leave one out"),
        (("auto", "int8", False), "weights='int8' was asked for; leave one out"),
        (("auto", None, True), "borrows the target's embeddings and head"),
    ],
    ids=["openvino", "quantised", "trained drafter"],
)
def test_what_does_not_go_with_shards_is_refused(beside: tuple[str, str | None, bool], pattern: str) -> None:
    with pytest.raises(OptionError, match=pattern):
        refuse_beside(*beside)


def test_an_adapter_is_no_folder_to_share_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "base", "peft_type": "LORA"}')
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError, match=r"is an adapter; leave tp_plan out"):
        dg.Engine.from_pretrained(tmp_path, tp_plan="auto")


def in_three(model: Any) -> None:
    model._tp_size = 3


def with_experts_apart(model: Any) -> None:
    in_three(model)
    model.config.distributed_config = SimpleNamespace(tp_size=2, ep_size=2)


def quantised(model: Any) -> None:
    model.config.quantization_config = {"bits": 4}


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (in_three, r"num_attention_heads=4 and num_key_value_heads=2, which 3 ranks cannot share equally"),
        (with_experts_apart, r"is shared out by ep_size as well"),
        (quantised, r"has an adapter, or quantised weights"),
    ],
)
def test_shards_that_cannot_be_led_are_refused(change: Callable[[Any], None], pattern: str) -> None:
    model = tiny_lm()
    change(model)
    with pytest.raises(ModelError, match=pattern):
        refuse_unfit(model)
