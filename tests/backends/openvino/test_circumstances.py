"""What was found of a graph is believed under the same circumstances only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from draftgraph.backends.openvino import circumstances as module
from draftgraph.backends.openvino.circumstances import circumstances, found_once

TRIAL = torch.linspace(-3.0, 3.0, 24).reshape(4, 6)
ANSWERS = (2, 5, 0)
LINUX = pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="processors are told by /proc/cpuinfo")


def looking(found: int, looks: list[int]) -> Callable[[], int]:
    def look() -> int:
        looks.append(found)
        return found

    return look


@LINUX
def test_the_same_bits_in_the_same_place_are_the_same_circumstances() -> None:
    assert circumstances(TRIAL) == circumstances(TRIAL.clone()) is not None


@LINUX
def test_one_bit_of_one_logit_makes_others() -> None:
    other = TRIAL.clone()
    other[2, 3] = torch.nextafter(other[2, 3], torch.tensor(9.0))
    assert circumstances(other) != circumstances(TRIAL)


@LINUX
@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "OV_CPU_SOMETHING"])
def test_a_variable_that_chooses_kernels_makes_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = circumstances(TRIAL)
    monkeypatch.setenv(name, "AVX2")
    assert circumstances(TRIAL) != before


@LINUX
def test_another_processor_or_number_of_threads_makes_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = circumstances(TRIAL)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        assert circumstances(TRIAL) != before
    monkeypatch.setattr(module, "_processor", lambda: ["model name : another"])
    assert circumstances(TRIAL) != before


def test_where_the_processor_cannot_be_told_it_is_looked_every_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_processor", lambda: None)
    known, looks = circumstances(TRIAL), list[int]()
    assert known is None
    assert [found_once(tmp_path, known, ANSWERS, looking(2, looks)) for _ in range(2)] == [2, 2]
    assert len(looks) == 2
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("found", [2, 0])
def test_it_is_looked_once(found: int, tmp_path: Path) -> None:
    looks: list[int] = []
    for _ in range(2):
        assert found_once(tmp_path, "known", ANSWERS, looking(found, looks)) == found
    assert looks == [found]
    assert found_once(tmp_path, "other", ANSWERS, looking(5, looks)) == 5
    assert looks == [found, 5]


@pytest.mark.parametrize("broken", ["", "yes", "3", "true", "2.0", "[2]", "2" * 100], ids=lambda text: text[:8])
def test_a_broken_file_is_not_believed(broken: str, tmp_path: Path) -> None:
    looks: list[int] = []
    found_once(tmp_path, "known", ANSWERS, looking(2, looks))
    [file] = tmp_path.iterdir()
    file.write_text(broken)
    assert found_once(tmp_path, "known", ANSWERS, looking(5, looks)) == 5
    assert found_once(tmp_path, "known", ANSWERS, looking(2, looks)) == 5
    assert looks == [2, 5]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    looks: list[int] = []
    for _ in range(2):
        assert found_once(tmp_path / "gone", "known", ANSWERS, looking(2, looks)) == 2
    assert len(looks) == 2
