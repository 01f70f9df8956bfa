"""The index of one job's output: which byte was there when, and whether the output has ended.

It owns the bytes of the file `index`, not the file's place on disk (layout.py does) and not the output itself. The
job's init appends to it, one entry per write(2); the logstore reads it and appends only the end that an init could not
write.

On disk, all numbers little endian:

    header, 16 bytes    the six letters JBLIDX, the version as two bytes (1), eight zero bytes; or, when the front
                        of the output was removed, version 2 and how much that is (indexheader.py)
    entry, 24 bytes     u64 bytes of output so far; u64 CLOCK_REALTIME in nanoseconds; u32 kind;
                        u32 CRC-32 (IEEE, as zlib computes it) of the 20 bytes before it
    entry, 24 bytes     ...

Kind 1 (data) says that the output had so many bytes at that time. Kind 2 (end) says that it will never have more; it
is the last entry of the file and the only way by which output ends. Byte counts never go down; times can, because the
clock can be set. A kind that is not known here is damage: a new kind needs a new version.

A writer or its machine can die in the middle of a write. What that leaves behind is the torn tail: less than one entry
at the end of the file, or one whole entry with a wrong checksum, followed by nothing but zero bytes (the file had grown
before its contents reached the disk); or a header cut short. Readers behave as if the torn tail were not there, and
`mend` cuts it off before an end is appended. A bad entry with anything else behind it cannot come from a torn write: it
is damage, and an error for whoever reads it.
"""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from joblet.common.errors import Internal
from joblet.logstore import indexheader
from joblet.logstore.indexheader import HEADER, HEADER_SIZE, MAGIC, VERSIONS

ENTRY_SIZE = 24
ENTRIES_AT_ONCE = 2048
READ_SIZE = ENTRY_SIZE * ENTRIES_AT_ONCE  # bytes asked for at once

_CHECKED = struct.Struct("<QQI")
_CHECKSUM = struct.Struct("<I")


class Kind(IntEnum):
    DATA = 1
    END = 2


@dataclass(frozen=True, slots=True)
class Entry:
    total_bytes: int
    time_ns: int
    kind: Kind


class IndexDamaged(Internal):
    """The index cannot be read on from `position` (bytes from the start of the file)."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(f"log index is damaged at byte {position}: {what}")
        self.position = position


def encode(entry: Entry) -> bytes:
    checked = _CHECKED.pack(entry.total_bytes, entry.time_ns, entry.kind)
    return checked + _CHECKSUM.pack(zlib.crc32(checked))


def is_whole(data: bytes) -> bool:
    """Whether these 24 bytes are an entry that was written completely."""
    return _CHECKSUM.pack(zlib.crc32(data[: _CHECKED.size])) == data[_CHECKED.size :]


class IndexReader:
    """Reads an index as it grows. `position` is where the next entry begins, `last` the newest entry seen so far.

    The file descriptor stays the caller's. Several readers may share one.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.position = HEADER_SIZE
        self.last: Entry | None = None
        self._header_seen = False

    @classmethod
    def at_tail(cls, fd: int) -> "IndexReader":
        """A reader that begins with the newest whole entry, however long the index is."""
        reader = cls(fd)
        reader.position = _position(max(0, count(fd) - 1))
        return reader

    @classmethod
    def at_byte(cls, fd: int, offset: int) -> "IndexReader":
        """A reader that begins with the entry for byte `offset` of the output, or with the end if that comes first."""
        reader = cls(fd)
        number = first(fd, lambda entry: entry.total_bytes > offset or entry.kind is Kind.END)
        reader.position = _position(number)
        reader.last = entry_at(fd, number - 1) if number else None
        return reader

    @property
    def ended(self) -> bool:
        return self.last is not None and self.last.kind is Kind.END

    def poll(self) -> list[Entry]:
        """The entries written since the last call; empty when there are none. Raises IndexDamaged."""
        entries = more = self.some()
        while len(more) == ENTRIES_AT_ONCE:
            more = self.some()
            entries += more
        return entries

    def some(self) -> list[Entry]:
        """The next entries, at most ENTRIES_AT_ONCE; empty when there are no more yet. Raises IndexDamaged."""
        if not self._header_seen:
            self._header_seen = header_is_complete(self.fd)
            if not self._header_seen:
                return []
        data = os.pread(self.fd, READ_SIZE, self.position)
        entries = []
        for begin in range(0, len(data) - ENTRY_SIZE + 1, ENTRY_SIZE):
            raw = data[begin : begin + ENTRY_SIZE]
            if not is_whole(raw):
                self._require_torn()
                break
            self.last = self._checked(*_CHECKED.unpack_from(raw))
            self.position += ENTRY_SIZE
            entries.append(self.last)
        return entries

    def _checked(self, total_bytes: int, time_ns: int, kind: int) -> Entry:
        if self.ended:
            raise IndexDamaged(self.position, "an entry follows the end")
        if self.last is not None and total_bytes < self.last.total_bytes:
            raise IndexDamaged(self.position, f"the output shrinks from {self.last.total_bytes} to {total_bytes} bytes")
        if kind not in (Kind.DATA, Kind.END):
            raise IndexDamaged(self.position, f"an entry of kind {kind}")
        return Entry(total_bytes, time_ns, Kind(kind))

    def _require_torn(self) -> None:
        """The entry at `position` has a wrong checksum: raises unless nothing but zero bytes follows it."""
        behind = self.position + ENTRY_SIZE
        while data := os.pread(self.fd, READ_SIZE, behind):
            if any(data):
                raise IndexDamaged(self.position, "wrong checksum")
            behind += len(data)


def count(fd: int) -> int:
    """How many entries there are, a torn tail not counted."""
    entries = max(0, os.fstat(fd).st_size - HEADER_SIZE) // ENTRY_SIZE
    while entries and not is_whole(os.pread(fd, ENTRY_SIZE, _position(entries - 1))):
        entries -= 1
    return entries


def entry_at(fd: int, number: int) -> Entry:
    """Entry `number`, from 0, of those that `count` counts. Raises IndexDamaged."""
    raw = os.pread(fd, ENTRY_SIZE, _position(number))
    if len(raw) < ENTRY_SIZE or not is_whole(raw):
        raise IndexDamaged(_position(number), "wrong checksum")
    total_bytes, time_ns, kind = _CHECKED.unpack_from(raw)
    if kind not in (Kind.DATA, Kind.END):
        raise IndexDamaged(_position(number), f"an entry of kind {kind}")
    return Entry(total_bytes, time_ns, Kind(kind))


def first(fd: int, wanted: Callable[[Entry], bool]) -> int:
    """The number of the first entry that is `wanted`, or how many entries there are when none is.

    By halving: a day of output has millions of entries. Exact where entries are first not wanted and then wanted, which
    byte counts guarantee; after a clock was set back, times do not, and the entry found is one of the candidates.
    """
    low, high = 0, count(fd)
    while low < high:
        middle = (low + high) // 2
        if wanted(entry_at(fd, middle)):
            high = middle
        else:
            low = middle + 1
    return low


def _position(number: int) -> int:
    return HEADER_SIZE + number * ENTRY_SIZE


def header_is_complete(fd: int) -> bool:
    """False when the header was cut short; raises IndexDamaged for a file that is no index of this version."""
    header = os.pread(fd, HEADER_SIZE, 0)
    if indexheader.first_of(header) is not None:
        return True
    if len(header) < HEADER_SIZE and HEADER.startswith(header):
        return False
    if not any(header) and os.fstat(fd).st_size <= HEADER_SIZE:
        return False
    if header.startswith(MAGIC) and len(header) == HEADER_SIZE:
        version = struct.unpack_from("<H", header, len(MAGIC))[0]
        if version not in VERSIONS:
            raise IndexDamaged(
                len(MAGIC), f"version {version} is not known (expected {' or '.join(map(str, VERSIONS))})"
            )
    raise IndexDamaged(0, "the header is not that of a log index")


def mend(fd: int) -> IndexReader:
    """Completes a header that was cut short and cuts a torn tail off; the file must have no other writer.

    `fd` is open for reading and appending. Returns a reader that has seen everything that is left.
    """
    if not header_is_complete(fd):
        os.ftruncate(fd, 0)
        append(fd, HEADER)
    reader = IndexReader.at_tail(fd)
    reader.poll()
    if os.fstat(fd).st_size > reader.position:
        os.ftruncate(fd, reader.position)
    return reader


def append(fd: int, data: bytes) -> None:
    """One write to a descriptor opened O_APPEND; raises OSError when the disk does not take all of it."""
    written = os.write(fd, data)
    if written != len(data):
        raise OSError(f"only {written} of {len(data)} bytes of the log index could be written")
