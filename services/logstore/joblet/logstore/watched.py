"""One job's log while somebody reads it: its output and index, and being woken when either of them changes."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from joblet.common.errors import Internal, OutOfRange, Unavailable
from joblet.common.units import NS_PER_SECOND
from joblet.logstore.chunk import CHUNK_SIZE, Chunk
from joblet.logstore.index import Entry
from joblet.logstore.inotify import Inotify
from joblet.logstore.output import OpenLog
from joblet.logstore.readers import Reader

LOOK_AGAIN_SECONDS = 60.0  # while a time is waited for: clocks are set


@dataclass(frozen=True, slots=True)
class WatchedLog:
    """Look at the log after `changed.clear()` and wait afterwards: what changes in between sets it again."""

    files: OpenLog
    changed: asyncio.Event
    _inotify: Inotify
    _reader: Reader

    @property
    def size(self) -> int:
        """Bytes of output at this moment."""
        return self.files.output.size

    @property
    def removed(self) -> bool:
        """Whether the log has been removed. Ask before the end is looked for: one that was deleted has an end."""
        return os.fstat(self.files.index).st_nlink == 0

    def check_stopping(self) -> None:
        """Raises Unavailable when the service stops."""
        if self._inotify.stopping:
            raise Unavailable("the logstore is stopping")

    async def read(self, position: int, limit: int) -> Chunk | None:
        """The next piece of the bytes from `position` to `limit`, which are known to have been written.

        Begins behind `position` when the beginning has been removed; None when all of it has.
        """
        self.check_stopping()
        output = self.files.output
        self._reader.position = position
        while (begin := max(position, output.first)) < limit:
            chunk = await output.chunk(begin, min(CHUNK_SIZE, limit - begin))
            if not chunk.payload_bytes:
                raise Internal(f"the output was cut to less than {limit} bytes while it was read")
            if output.first <= begin:  # still, so these were not removed while they were read
                return chunk
        return None

    async def wait(self, deadline_ns: int | None = None, *, removed: bool) -> None:
        """Until something changes or, if it comes first, about `deadline_ns` of the clock.

        Raises Unavailable when the log was `removed` without an end: it was empty, and the job has another one now.
        """
        self.check_stopping()
        if removed:
            raise Unavailable("the log was made anew", hint="read on from the same offset")
        if deadline_ns is None:
            await self.changed.wait()
            return
        seconds = (deadline_ns - time.time_ns()) / NS_PER_SECOND
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(max(seconds, 0.0), LOOK_AGAIN_SECONDS)):
                await self.changed.wait()


@contextlib.contextmanager
def watched(files: OpenLog, inotify: Inotify, reader: Reader) -> Iterator[WatchedLog]:
    with inotify.watching(*files.output.watched) as changed:
        yield WatchedLog(files, changed, inotify, reader)


def check_end(end: Entry | None, size: int, offset: int) -> None:
    """Raises Internal when the disk has less than the index promises, OutOfRange for an offset that never was."""
    expected = end.total_bytes if end is not None else 0
    if size < expected:
        raise Internal(f"{expected - size} bytes at the end of the output are missing on disk")
    if offset > size:
        raise OutOfRange(f"offset {offset} is beyond the end of the output ({size} bytes)")
