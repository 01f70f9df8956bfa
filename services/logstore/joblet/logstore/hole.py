"""Gives the room of the beginning of a file back to the filesystem, without changing an offset: fallocate(2)."""

import ctypes
import os
import tempfile
from pathlib import Path

from joblet.common.errors import StartError

# linux/falloc.h
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def punch_hole(fd: int, end: int) -> None:
    """Bytes 0 to `end` of the file take no room any more and read as zeros. Raises OSError."""
    if _libc.fallocate64(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, end) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def require_holes(directory: Path) -> None:
    """Raises StartError when the filesystem there cannot do this. Needs no room: the disk may be full."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            punch_hole(file.fileno(), 4096)
    except OSError as error:
        raise StartError(
            f"the size of running jobs' logs cannot be limited in {directory}: {error.strerror}",
            hint="use a filesystem with FALLOC_FL_PUNCH_HOLE, such as ext4, xfs, btrfs or tmpfs",
        ) from None
