"""Hidden states on disk: they are what the target says, a killed run goes on with them, and nothing of them stays."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.features import stored
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.batches import make_batch
from draftgraph.lab.train.features.ending import ending_of
from draftgraph.lab.train.features.loop import Training
from draftgraph.lab.train.features.networks import NETWORKS
from draftgraph.lab.train.features.reading import LiveReading
from draftgraph.lab.train.features.recipe import Recipe, Span
from draftgraph.lab.train.features.stored import StoredReading
from feature_drafters import tiny_net
from models import FAMILIES, tiny_lm

FREE = namedtuple("FREE", "free")


def target(family: str = "llama", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return (
        tiny_lm(family, vocab=24, logit_gain=1.5, layers=4 if family == "llama" else 2).requires_grad_(False).to(dtype)
    )


def some_answers(count: int = 30) -> list[Answer]:
    random = np.random.default_rng(0)
    return [Answer(random.integers(1, 24, 6 + 7 * i % 23).astype(np.int32), 3, (0.0, 0.8)[i % 2]) for i in range(count)]


def a_reading(
    folder: Path, over: PreTrainedModel, taps: tuple[str, ...] | None = None
) -> tuple[StoredReading, list[str]]:
    """Of some answers, in parts of about 60 rows; with what it tells."""
    net, _ = tiny_net(over)
    told: list[str] = []
    live = LiveReading(over, net.head, net.shape.taps if taps is None else taps)
    features = 0 if taps == () else net.features
    return StoredReading(folder / "states", some_answers(), live, features, told.append), told


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "PART_ROWS", 60)
    monkeypatch.setattr(stored, "SPARE_BYTES", 0)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_follow_from_what_the_decoder_has_put_out(family: str) -> None:
    over = tiny_lm(family)
    ending = ending_of(over)
    assert ending is not None
    tokens = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    states = over.get_decoder()(tokens).last_hidden_state
    torch.testing.assert_close(ending.logits(states), over(tokens).logits)
    assert "forward" not in over.get_decoder().__dict__


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_what_is_kept_is_what_the_target_says(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """In any group, whatever it was read in: late rows, padded rows and answers of every length."""
    over = target(family, dtype)
    reading, told = a_reading(tmp_path, over)
    reading.fill()
    assert len(list(reading.folder.iterdir())) > 4
    assert any(line.startswith("hidden states take 0.00 GB") for line in told)
    answers = some_answers()
    for group in (answers[::7], answers[3:5], [answers[-1]]):
        batch = make_batch(group, torch.device("cpu"))
        rows = batch.rows(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            live, kept = reading.live.read(group, batch), reading.read(group, batch)
            chances, again = reading.live.chances(group, batch), reading.chances(group, batch)
        near: dict[str, Any] = {"rtol": 0.03, "atol": 0.05, "check_dtype": False}
        for name in ("logits", "features", "embedded"):
            found, said = (getattr(read, name).flatten(0, 1) for read in (kept, live))
            torch.testing.assert_close(found[rows], said[rows], **near)
        torch.testing.assert_close(again, chances, **near)
        assert bool((kept.features[0, len(group[0].ids) :] == 0).all())


def test_chances_are_those_of_the_following_token_at_the_temperature_of_its_answer() -> None:
    over = target()
    group = [Answer(answer.ids, answer.prompt, at) for answer, at in zip(some_answers(3), (0.0, 0.6, 1.3), strict=True)]
    batch = make_batch(group, torch.device("cpu"))
    found = LiveReading(over, tiny_net(over)[0].head, ()).chances(group, batch).view(3, -1)
    expected = torch.zeros_like(found)
    for text, answer in enumerate(group[1:], 1):
        ids = torch.from_numpy(answer.ids.astype(np.int64))
        laws = (over(ids[None]).logits[0] / answer.temperature).log_softmax(-1)
        for row in range(answer.prompt, len(ids) - 1):
            expected[text, row] = laws[row, ids[row + 1]]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_networks_that_read_keys_and_values_find_them_on_disk(tmp_path: Path) -> None:
    over = target()
    taps = NETWORKS["glide"].taps(4)
    live = LiveReading(over, tiny_net(over)[0].head, taps)
    answers = some_answers()
    batch = make_batch(answers[:4], torch.device("cpu"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said = live.read(answers[:4], batch)
    reading = StoredReading(tmp_path / "states", answers, live, said.features.shape[-1])
    reading.fill()
    found = reading.read(answers[:4], batch)
    rows = batch.rows(0)
    torch.testing.assert_close(
        found.features.flatten(0, 1)[rows], said.features.flatten(0, 1)[rows], rtol=0.03, atol=0.05, check_dtype=False
    )


def trained(folder: Path, kept: bool) -> dict[str, torch.Tensor]:
    """The weights of a short training, from disk or from the target."""
    over = target()
    net, tokens = tiny_net(over)
    reading = StoredReading(
        folder / "states", some_answers(), LiveReading(over, net.head, net.shape.taps), net.features
    )
    training = Training(
        net.train().requires_grad_(True), over, tokens, some_answers()[:24], some_answers()[24:], Recipe(rows=128, warmup=2),
        Span(updates=8), folder / "state.pt", reading=reading if kept else None,
    )  # fmt: skip
    training.run()
    assert [entry["score"] for entry in training.history]
    return {name: weight.detach() for name, weight in training.trained.items()}


def test_training_from_disk_is_training_from_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = trained(tmp_path / "live", kept=False)
    reads = LiveReading.read
    monkeypatch.setattr(LiveReading, "read", lambda *given: pytest.fail("the target is read again"))
    kept = trained(tmp_path / "kept", kept=True)
    monkeypatch.setattr(LiveReading, "read", reads)
    begun = dict(tiny_net(target())[0].named_parameters())
    for name, weight in live.items():
        moved = (weight - begun[name]).norm()
        assert float((kept[name] - weight).norm()) < 0.1 * float(moved), name


def test_a_killed_reading_goes_on_with_the_parts_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = target()
    written: list[Path] = []
    whole = stored.write_bytes

    def dying(file: Path, content: bytes) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        whole(file, content)
        written.append(file)

    monkeypatch.setattr(stored, "write_bytes", dying)
    with pytest.raises(KeyboardInterrupt):
        a_reading(tmp_path, over)[0].fill()
    first = [file.read_bytes() for file in written]
    (tmp_path / "states" / ".00003.bin.77.part").write_bytes(b"half")  # what kill -9 leaves
    written[1].write_bytes(first[1][:-1])
    monkeypatch.setattr(stored, "write_bytes", lambda file, content: (again.append(file), whole(file, content)))
    again: list[Path] = []
    reading, _ = a_reading(tmp_path, over)
    reading.fill()
    assert written[1] in again
    assert written[0] not in again
    assert [file.read_bytes() for file in written] == first
    assert all(file.suffix == ".bin" for file in reading.folder.iterdir())
    assert len(reading.placed) == len(some_answers())


def test_states_of_another_network_are_not_taken_for_these(tmp_path: Path) -> None:
    over = target()
    reading, _ = a_reading(tmp_path, over)
    reading.fill()
    names = {file.name for file in reading.folder.iterdir()}
    other, _ = a_reading(tmp_path, over, taps=())
    other.fill()
    assert not names & {file.name for file in other.folder.iterdir()}


def test_a_full_disk_says_so_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, _ = a_reading(tmp_path, target())
    calls: list[int] = []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match=r"cannot write .*states/00002-.*No space left.*run the same command"):
        reading.fill()
    monkeypatch.undo()
    assert len(list(reading.folder.iterdir())) == 2


def test_without_room_the_target_is_read_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, told = a_reading(tmp_path, target())
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: FREE(1000))
    reading.fill()
    assert any("where 0.00 GB are free: the target is read anew" in line for line in told)
    assert not list(reading.folder.iterdir())
    group = some_answers()[:3]
    batch = make_batch(group, torch.device("cpu"))
    torch.testing.assert_close(reading.read(group, batch).logits, reading.live.read(group, batch).logits)


def test_targets_whose_logits_need_more_than_hidden_states_are_read_every_time(tmp_path: Path) -> None:
    over = target()
    usual = over.forward

    def forward(input_ids: torch.Tensor, **options: Any) -> Any:
        found = usual(input_ids=input_ids, **options)
        found.logits = found.logits + input_ids[..., None]
        return found

    over.forward = forward  # type: ignore[method-assign]
    assert ending_of(over) is None
    reading, told = a_reading(tmp_path, over)
    reading.fill()
    assert told == ["hidden states of this target cannot be kept: it is read anew in every epoch"]
    assert not reading.folder.exists()
