"""Follows a job's output along its index: what has an entry is sent, with the entries' times or up to a given time.

An entry says how much output there was at its time, so the bytes between two entries were written at the time of the
second one or up to 10 ms before. Bytes that have no entry yet wait for it, 10 ms at most.
"""

import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import takewhile

from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api.job_pb2 import DataChunk, OutputTime
from joblet.common.units import NS_PER_SECOND
from joblet.logstore.chunk import Chunk
from joblet.logstore.index import Entry, IndexReader, Kind
from joblet.logstore.selection import Selection
from joblet.logstore.watched import WatchedLog, check_end

GRACE_NS = 100_000_000  # after `until_ns`: for an entry that was made before it and is still being written


async def follow_timed(log: WatchedLog, selection: Selection, begin: int) -> AsyncGenerator[Chunk, None]:
    """The output from byte `begin` on; `follow` says what is raised."""
    until_ns = selection.until_ns
    index = IndexReader.at_byte(log.files.index, begin)
    position = begin
    while True:
        log.changed.clear()
        removed = log.removed
        size, now_ns = log.size, time.time_ns()
        batch = index.some()
        is_last = not batch and not selection.follow
        if is_last:
            batch = [Entry(size, now_ns, Kind.DATA)]  # what has no entry yet: it would be made now
        entries = deque(takewhile(lambda entry: until_ns is None or entry.time_ns < until_ns, batch))
        is_last = is_last or len(entries) < len(batch)
        limit = min(size, entries[-1].total_bytes) if entries else position
        while position < limit:
            chunk = await log.read(position, limit)
            position = limit if chunk is None else chunk.end
            if chunk is not None:
                yield _with_times(chunk, entries) if selection.timestamps else chunk
        if is_last:
            return
        if index.ended:
            check_end(index.last, size, begin)
            return
        if not batch:
            if until_ns is not None and now_ns >= until_ns + GRACE_NS:
                return
            await log.wait(None if until_ns is None else until_ns + GRACE_NS, removed=removed)


def _with_times(chunk: Chunk, entries: deque[Entry]) -> Chunk:
    """The message with its times behind it: serialized messages one after the other are one message."""
    times = DataChunk(times=_times(chunk.offset, chunk.end, entries))
    return Chunk(chunk.message + times.SerializeToString(), chunk.offset, chunk.payload_bytes)


def _times(begin: int, end: int, entries: deque[Entry]) -> Iterable[OutputTime]:
    """When the bytes from `begin` to `end` were written; drops the entries that are behind."""
    for first, time_ns in _spans(begin, end, entries):
        seconds, nanos = divmod(time_ns, NS_PER_SECOND)
        yield OutputTime(position=first - begin, time=Timestamp(seconds=seconds, nanos=nanos))


def _spans(begin: int, end: int, entries: deque[Entry]) -> Iterator[tuple[int, int]]:
    while entries[0].total_bytes <= begin:
        entries.popleft()
    for entry in entries:
        if entry.total_bytes > begin:
            yield begin, entry.time_ns
            begin = entry.total_bytes
        if begin >= end:
            return
