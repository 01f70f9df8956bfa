"""Follows one job's output from an offset to its end.

What is there and what comes later are not two phases: the watch is set first, and then every turn asks the index
whether the output has ended, asks fstat(2) how much there is, sends up to there, and waits for the watch. The order
matters. The end is looked for before the size is read, so a size read after an end is the final one; a byte written
after the size was read wakes the watch that was set before.

A follower is an offset and two descriptors. It holds no output but the message that is being sent.
"""

import os
from collections.abc import AsyncGenerator
from enum import Enum

from joblet.common.errors import Internal, OutOfRange, Unavailable
from joblet.logstore.chunk import CHUNK_SIZE, Chunk, read_chunk
from joblet.logstore.index import IndexReader
from joblet.logstore.inotify import Inotify
from joblet.logstore.layout import LogFiles


class Until(Enum):
    END = "the end of the output, whenever that comes"
    NOW = "what is there at this moment"


async def follow(files: LogFiles, inotify: Inotify, offset: int, until: Until) -> AsyncGenerator[Chunk, None]:
    """The output from byte `offset` on, in order, nothing twice and nothing left out.

    Raises OutOfRange when the output ends before `offset`, Internal when the disk holds less than the index promises,
    Unavailable when the service stops (read on from the next offset then). Close it (aclosing) to free the watch.
    """
    index = IndexReader.at_tail(files.index)
    position = offset
    with inotify.watching(files.output, files.index) as changed:
        while True:
            changed.clear()
            index.poll()
            size = os.fstat(files.output).st_size
            while position < size:
                _check_stopping(inotify)
                chunk = await read_chunk(files.output, position, min(CHUNK_SIZE, size - position))
                if not chunk.payload_bytes:
                    raise Internal(f"the output was cut to less than {size} bytes while it was read")
                position += chunk.payload_bytes
                yield chunk
            if index.ended:
                _check_end(index, size, offset)
                return
            if until is Until.NOW:
                return
            _check_stopping(inotify)
            await changed.wait()


def _check_end(index: IndexReader, size: int, offset: int) -> None:
    expected = index.last.total_bytes if index.last is not None else 0
    if size < expected:
        raise Internal(f"{expected - size} bytes at the end of the output are missing on disk")
    if offset > size:
        raise OutOfRange(f"offset {offset} is beyond the end of the output ({size} bytes)")


def _check_stopping(inotify: Inotify) -> None:
    if inotify.stopping:
        raise Unavailable("the logstore is stopping")
