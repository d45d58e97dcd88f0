"""Pages of a file that were read are given back, and read again as they were."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from draftgraph.backends.openvino.pages import given_back, let_go

LENGTH = 1 << 22


def resident(path: Path) -> int:
    """KiB of the file that this process holds."""
    found, lines = 0, Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    inside = False
    for line in lines:
        if line[0] in "0123456789abcdef" and "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")
def test_what_is_given_back_is_read_again_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "weights with a space.bin"
    content = bytes(range(256)) * (LENGTH // 256)
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), LENGTH, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        with given_back(path):
            assert mapped[:] == content
        assert resident(path) == 0
        assert mapped[:] == content
        assert resident(path) > 0
        assert let_go(path) == LENGTH
        assert mapped[LENGTH - 3 :] == content[-3:]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")
def test_what_was_written_to_a_mapping_stays(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(LENGTH))
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    with path.open("rb") as file, mmap.mmap(file.fileno(), LENGTH, mmap.MAP_PRIVATE, writable) as mapped:
        mapped[5] = 7
        assert let_go(path) == 0
        assert mapped[5] == 7


def test_a_file_that_nobody_maps(tmp_path: Path) -> None:
    with given_back(tmp_path / "absent.bin"):
        assert let_go(tmp_path / "absent.bin") == 0
