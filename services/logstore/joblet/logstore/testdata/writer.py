"""For tests: does with a job's output what the job's init does, without anything else of it.

    python writer.py OUTPUT_FD INDEX_FD < pipe

Moves bytes from the pipe to the output by splice(2), appends an index entry at the first output after a silence and
then at most every 10 ms, and the end when the pipe is closed. Shares no code with the logstore on purpose.
"""

import os
import select
import struct
import sys
import time
import zlib

INTERVAL_SECONDS = 0.010


def append(index: int, total: int, kind: int) -> None:
    entry = struct.pack("<QQI", total, time.time_ns(), kind)
    os.write(index, entry + struct.pack("<I", zlib.crc32(entry)))


def main(output: int, index: int) -> None:
    total = indexed = 0
    next_entry = 0.0
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while True:
        waiting = total > indexed
        timeout = max(0.0, next_entry - time.monotonic()) * 1000 if waiting else None
        if poll.poll(timeout):
            moved = os.splice(0, output, 1 << 20)
            if not moved:
                break
            total += moved
        if total > indexed and time.monotonic() >= next_entry:
            append(index, total, 1)
            indexed = total
            next_entry = time.monotonic() + INTERVAL_SECONDS
    append(index, total, 2)


main(int(sys.argv[1]), int(sys.argv[2]))
