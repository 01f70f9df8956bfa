"""One job's output as readers see it: the same offsets, whether it is being written, sealed, or in the archive."""

import asyncio
import os
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from joblet.logstore import indexheader
from joblet.logstore.chunk import Chunk, chunk_of, read_chunk
from joblet.logstore.layout import LogFiles
from joblet.logstore.sealed import FileBytes, SealedLog


class Output(Protocol):
    """`watched` are the descriptors that change when there is more output; whoever opens one closes it."""

    @property
    def watched(self) -> tuple[int, ...]: ...

    @property
    def first(self) -> int:
        """The first byte that is kept. Bytes read before it moved past them are the job's."""
        ...

    @property
    def size(self) -> int:
        """Bytes that the job has written so far."""
        ...

    def read(self, position: int, limit: int) -> bytes:
        """Up to `limit` bytes, none only at the end. Blocks."""
        ...

    async def chunk(self, position: int, limit: int) -> Chunk:
        """The same as a message."""
        ...

    def close(self) -> None: ...


class PlainOutput:
    """The file that the job's init writes to."""

    def __init__(self, fd: int, index: int) -> None:
        self._fd = fd
        self._index = index
        self.watched = (fd, index)

    @property
    def first(self) -> int:
        return indexheader.first(self._index)

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, position: int, limit: int) -> bytes:
        return os.pread(self._fd, limit, position)

    async def chunk(self, position: int, limit: int) -> Chunk:
        return await read_chunk(self._fd, position, limit)

    def close(self) -> None:
        os.close(self._fd)


class SealedOutput:
    """A sealed log, whose file is `fd` when it lies here. Frames are unpacked in `threads`, one at a time."""

    watched = ()

    def __init__(self, log: SealedLog, threads: Executor | None, fd: int | None = None) -> None:
        self._log = log
        self._threads = threads
        self._fd = fd
        self.first = log.first
        self.size = log.end

    def read(self, position: int, limit: int) -> bytes:
        return self._log.read(position, limit)

    async def chunk(self, position: int, limit: int) -> Chunk:
        payload = await asyncio.get_running_loop().run_in_executor(self._threads, self.read, position, limit)
        return chunk_of(payload, position)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)


@dataclass(frozen=True, slots=True)
class OpenLog:
    """What a reader holds of one log; whoever gets it closes it."""

    output: Output
    index: int

    def close(self) -> None:
        self.output.close()
        os.close(self.index)


def open_log(files: LogFiles) -> OpenLog:
    """The log of files opened for reading, which are its own from now on. Blocks. Raises SealDamaged."""
    if not files.sealed:
        return OpenLog(PlainOutput(files.output, files.index), files.index)
    with ExitStack() as undo:
        undo.callback(files.close)
        output = SealedOutput(SealedLog(FileBytes(files.output)), None, files.output)
        undo.pop_all()
        return OpenLog(output, files.index)


def open_archived(log: SealedLog, threads: Executor) -> OpenLog:
    """The log of an object in the archive; its index is held in memory. Blocks."""
    with ExitStack() as undo:
        index = os.memfd_create("index")
        undo.callback(os.close, index)
        for piece in log.index():
            os.write(index, piece)
        undo.pop_all()
        return OpenLog(SealedOutput(log, threads), index)
