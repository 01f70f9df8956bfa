# ruff: noqa: PTH116
# (pathlib has no calls that are relative to a directory's descriptor)
"""Files of a log relative to the descriptor of their directory: opened and looked at without following links."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from joblet.logstore.index import append
from joblet.logstore.indexheader import HEADER

OUTPUT = "output"
INDEX = "index"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC


def open_file(directory: int, name: str, flags: int) -> int:
    """Made with mode 0600 when `flags` ask for that."""
    return os.open(name, flags | _FILE, 0o600, dir_fd=directory)


@contextmanager
def opened(directory: int, name: str, flags: int) -> Iterator[int]:
    fd = open_file(directory, name, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_directory(parent: int, name: str) -> Iterator[int]:
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def status(directory: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def exists(directory: int, name: str) -> bool:
    try:
        status(directory, name)
    except FileNotFoundError:
        return False
    return True


def new_index(directory: int, name: str, flags: int) -> int:
    """An index without entries, open for appending."""
    fd = open_file(directory, name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | flags)
    try:
        append(fd, HEADER)
    except BaseException:
        os.close(fd)
        raise
    return fd
