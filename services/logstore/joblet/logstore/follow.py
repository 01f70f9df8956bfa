"""Follows one job's output from where a reader wants it to its end.

What is there and what comes later are not two phases: the watch is set first, and then every turn asks the index
whether the output has ended, asks fstat(2) how much there is, sends up to there, and waits for the watch. The order
matters. The end is looked for before the size is read, so a size read after an end is the final one; a byte written
after the size was read wakes the watch that was set before.

A follower is an offset and two descriptors. It holds no output but the message that is being sent.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from joblet.logstore.beginning import beginning
from joblet.logstore.chunk import Chunk, empty_chunk
from joblet.logstore.index import IndexReader
from joblet.logstore.inotify import Inotify
from joblet.logstore.output import OpenLog
from joblet.logstore.readers import Reader
from joblet.logstore.selection import Selection
from joblet.logstore.timed import follow_timed
from joblet.logstore.watched import WatchedLog, check_end, watched


async def follow(files: OpenLog, inotify: Inotify, reader: Reader, selection: Selection) -> AsyncGenerator[Chunk, None]:
    """The output that is selected, in order, nothing twice and nothing left out but what retention has removed: after
    that a chunk's offset is larger than where the one before it ended.

    Where it begins is told first, by a chunk without payload, if the reader cannot know it. Raises OutOfRange when the
    output ends before the offset asked for, Internal when the disk holds less than the index promises, Unavailable when
    the service stops (read on from the next offset then). Close it (aclosing) to free the watch.
    """
    with watched(files, inotify, reader) as log:
        begin = (await beginning(log, selection)).offset
        if selection.searched:
            yield empty_chunk(begin)
        chunks = follow_timed(log, selection, begin) if selection.timed else _follow(log, selection, begin)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk


async def _follow(log: WatchedLog, selection: Selection, begin: int) -> AsyncGenerator[Chunk, None]:
    """As much as there is at any moment, without regard to times."""
    index = IndexReader.at_tail(log.files.index)
    position = begin
    while True:
        log.changed.clear()
        removed = log.removed
        index.poll()
        size = log.size
        while position < size:
            chunk = await log.read(position, size)
            position = size if chunk is None else chunk.end
            if chunk is not None:
                yield chunk
        if index.ended:
            check_end(index.last, size, begin)
            return
        if not selection.follow:
            return
        await log.wait(removed=removed)
