"""Files of unknown origin: read whole or not at all, and written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path

MOST_BYTES = 1 << 28
"""Larger files are refused; a trace of ten thousand tokens has a tenth of it."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_FLAGS = ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY")


class BrokenFileError(ValueError):
    """What a file says cannot be used, and why. Whoever asked for the file adds its name and a remedy."""


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises OSError with the cause as its `strerror`: absent, unreadable, a folder, a pipe, a device, or too large.
    """
    try:  # a pipe without a writer would be waited for, hence O_NONBLOCK
        descriptor = os.open(path, sum((getattr(os, name, 0) for name in _FLAGS), os.O_RDONLY))
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error)) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise OSError(errno.EINVAL, f"it is {kind}, not a file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, and at most {most} are read")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:  # some files do not say their size
        raise OSError(errno.EFBIG, f"it has more than {most} bytes")
    return content


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    Raises OSError as `read_bytes` does, and BrokenFileError for bytes that are not UTF-8.
    """
    return decode(read_bytes(path, most))


def decode(content: bytes) -> str:
    """UTF-8 as text, without its byte order mark. Raises BrokenFileError for anything else."""
    if content.startswith(_UTF16):
        raise BrokenFileError("it is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenFileError(f"it is not UTF-8 (byte {error.start}: {error.reason})") from None


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file, a text as UTF-8, such that nobody ever sees half of it: beside its place, then moved there.

    Raises OSError if the folder, the disk or the name does not allow it; an older file of that name is then still whole.
    """
    try:
        place = file.resolve()
    except (RuntimeError, ValueError) as error:  # links in a circle; a zero byte in the name
        raise OSError(errno.EINVAL, str(error)) from None
    if os.path.lexists(place) and not os.path.isfile(place):
        raise OSError(errno.EINVAL, "it is there, and not a file")
    half = place.with_name(f".{place.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with half.open("wb") as out:
            out.write(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))
            out.flush()
            os.fsync(out.fileno())
        half.replace(place)
    finally:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)
