"""Small files of the kernel: reading, writing and the formats they come in (Documentation/admin-guide/cgroup-v2.rst).

One write(2) is one command to the kernel, so nothing here buffers. Errors are OSErrors that name the file.
"""

import os
from collections.abc import Iterator

_CHUNK_BYTES = 65536
_VALUE_BYTES = 16384


def read(path: str) -> str:
    """The whole file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_fd(fd, path)
    finally:
        os.close(fd)


def value(path: str) -> str:
    """As `read`, a file that the kernel writes in one piece, as it does those with one value: only what fills the
    buffer may go on."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _at_once(fd, path)
    finally:
        os.close(fd)


def _at_once(fd: int, path: str) -> str:
    try:
        data = part = os.pread(fd, _VALUE_BYTES, 0)
        while len(part) == _VALUE_BYTES:
            data += (part := os.pread(fd, _VALUE_BYTES, len(data)))
    except OSError as error:
        error.filename = path
        raise
    return data.decode()


def read_fd(fd: int, path: str) -> str:
    """The whole file behind `fd` from where it stands; `path` is for the error only."""
    parts = []
    try:
        while part := os.read(fd, _CHUNK_BYTES):
            parts.append(part)
    except OSError as error:
        error.filename = path
        raise
    return b"".join(parts).decode()


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def exchange(path: str, text: str) -> str:
    """Writes `text` and reads the value: what the kernel made of it."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
        return _at_once(fd, path)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def number(text: str) -> int:
    """An integer, or 0 for "max" and "-1", the kernel's words for no limit."""
    text = text.strip()
    return 0 if text in ("max", "-1") else int(text)


def keyed(text: str) -> dict[str, int]:
    """Flat keyed: lines of "KEY NUMBER"."""
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


def by_device(text: str) -> dict[tuple[int, int], dict[str, str]]:
    """v2 io.max and io.stat: lines of "MAJOR:MINOR KEY=VALUE ...". A device without values has an empty dictionary."""
    devices = {}
    for line in text.splitlines():
        name, *values = line.split()
        if all("=" in value for value in values):
            devices[device(name)] = dict(value.split("=", 1) for value in values)
    return devices


def operations(text: str) -> Iterator[tuple[tuple[int, int], str, int]]:
    """v1 blkio statistics: lines of "MAJOR:MINOR Operation NUMBER"; the closing "Total NUMBER" is left out."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            yield device(words[0]), words[1], int(words[2])


def rates(text: str) -> dict[tuple[int, int], int]:
    """v1 blkio.throttle.*: lines of "MAJOR:MINOR NUMBER"."""
    return {device(name): int(value) for name, value in (line.split() for line in text.splitlines())}


def device(text: str) -> tuple[int, int]:
    """ "254:0" as (254, 0)."""
    major, minor = text.strip().split(":")
    return int(major), int(minor)
