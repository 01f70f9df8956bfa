"""Gives memory back to the machine that a service needed for a while: for a crowd of clients, say.

glibc returns freed memory by itself only from the end of its heap, where some small block mostly keeps it; malloc_trim
(3) returns it from everywhere. That costs milliseconds, so it is done only after the process has grown. Other C
libraries have no such call.
"""

import asyncio
import ctypes
import os
from pathlib import Path
from typing import Final

LOOK_SECONDS: Final = 10.0
GROWN_BYTES: Final = 8 << 20
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Of this process, as the machine sees it (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


class Heap:
    """`trim` as often as you like; it does something when the process has grown since the last time."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._least_bytes = resident_bytes()

    def trim(self) -> None:
        resident = resident_bytes()
        self._least_bytes = min(self._least_bytes, resident)
        if self._trim is not None and resident > self._least_bytes + GROWN_BYTES:
            self._trim(0)
            self._least_bytes = resident_bytes()


async def keep_small() -> None:
    """Until cancelled. In a thread, since ctypes lets others run meanwhile."""
    heap = Heap()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        await asyncio.to_thread(heap.trim)
