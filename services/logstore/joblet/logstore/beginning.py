"""Where the output begins that a reader asked for by a number of lines or by a time.

The lines are counted backwards from the end of what is there, a block at a time, so that the last ten lines of a
gigabyte cost one block; output that has been removed has no lines. The time is searched for in the index by halving.
Both may meet a cold disk: they are done in a thread.
"""

import asyncio
import time
from dataclasses import dataclass

from joblet.common.errors import Internal
from joblet.logstore.index import Entry, Kind, count, entry_at, first
from joblet.logstore.output import Output
from joblet.logstore.selection import Selection
from joblet.logstore.watched import WatchedLog

BLOCK_SIZE = 1 << 20  # bytes; one is in memory at a time

_NEWLINE = b"\n"


@dataclass(frozen=True, slots=True)
class Beginning:
    """The offset of the first byte wanted. `lines` are those of `tail_lines` that there are; `reached` says that the
    time asked for has come, so that everything behind the offset is wanted."""

    offset: int
    lines: int = 0
    reached: bool = True


async def beginning(log: WatchedLog, selection: Selection) -> Beginning:
    """Waits for a time that has not come if the log is followed."""
    found = Beginning(selection.offset)
    if selection.since_ns is not None:
        found = await _since(log, selection.since_ns, follow=selection.follow)
    if selection.tail_lines is not None:
        end = await _present_end(log, selection.until_ns)
        last = await tail(log.files.output, end, selection.tail_lines)
        found = Beginning(max(found.offset, last.offset), last.lines, found.reached)
    return found


async def _since(log: WatchedLog, since_ns: int, *, follow: bool) -> Beginning:
    """Output that has no entry yet gets one with the time at which that is made: it is younger than all that has."""
    while True:
        log.changed.clear()
        removed = log.removed
        size, now_ns = log.size, time.time_ns()
        last, reached = await asyncio.to_thread(before, log.files.index, since_ns)
        ended = last is not None and last.kind is Kind.END
        if reached or ended or now_ns >= since_ns:
            return Beginning(last.total_bytes if last is not None else 0, reached=reached or now_ns >= since_ns)
        if not follow:
            return Beginning(size, reached=False)
        await log.wait(since_ns, removed=removed)


async def _present_end(log: WatchedLog, until_ns: int | None) -> int:
    size = log.size
    if until_ns is None or time.time_ns() < until_ns:
        return size
    last, _ = await asyncio.to_thread(before, log.files.index, until_ns)
    return min(size, last.total_bytes) if last is not None else 0


def before(index: int, time_ns: int) -> tuple[Entry | None, bool]:
    """The last entry from before a time, and whether there is one from later."""
    number = first(index, lambda entry: entry.time_ns >= time_ns)
    last = entry_at(index, number - 1) if number else None
    return last, number < count(index) and entry_at(index, number).time_ns >= time_ns


async def tail(output: Output, end: int, lines: int) -> Beginning:
    """Where the last `lines` lines of the bytes before `end` begin; a last line without a newline counts as well."""
    if not lines:
        return Beginning(end)
    wanted = lines + 1  # the newline before those lines ...
    if end > output.first and await asyncio.to_thread(output.read, end - 1, 1) != _NEWLINE:
        wanted = lines  # ... which is one less when the last line has none of its own
    while end > (kept := output.first):
        begin = max(kept, end - BLOCK_SIZE)
        newlines, found = await asyncio.to_thread(_search, output, begin, end - begin, wanted)
        if found is not None:
            return Beginning(found, lines)
        wanted -= newlines
        end = begin
    return Beginning(end, lines + 1 - wanted)


def _search(output: Output, begin: int, size: int, wanted: int) -> tuple[int, int | None]:
    """How many newlines a block has, and the offset behind the one that is `wanted`, counted from its end."""
    block = bytearray()
    while len(block) < size:
        piece = output.read(begin + len(block), size - len(block))
        if not piece:
            raise Internal(f"the output was cut to less than {begin + size} bytes while it was read")
        block += piece
    newlines = block.count(_NEWLINE)
    if newlines < wanted:
        return newlines, None
    position = size
    for _ in range(wanted):
        position = block.rindex(_NEWLINE, 0, position)
    return newlines, begin + position + 1
