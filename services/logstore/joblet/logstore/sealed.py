"""The sealed form of one job's log: its kept output and its index in one compressed, checksummed file.

It owns the bytes of such a file, not its place: the same bytes lie in the log's directory and in the archive. Written
once, as a whole, when the output has ended; never changed.

On disk, all numbers little endian:

    header, 8 bytes     the six letters JBLSEA, the version as two bytes (1)
    frames of output    the output from byte `first` to byte `end`, cut into pieces of `frame` bytes (the last one
                        shorter), each a zstd frame (RFC 8878) of its own
    frames of the index the file `index` (index.py), cut and compressed alike
    table, 8 per frame  u32 bytes of the frame as stored; u32 CRC-32 (IEEE) of what it unpacks to
    trailer, 56 bytes   u64 first; u64 end; u64 bytes of the index; u64 position of the table; u32 `frame`;
                        u32 CRC-32 of the table; the 8 bytes of the header again; u32 zero;
                        u32 CRC-32 of the 52 bytes before it

Frames lie one behind the other from byte 8 on, so the table gives the place of each, and reading from any byte of the
output costs one frame. What cannot be so was damaged after it was written: an error that names the position.
"""

import errno
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Protocol

import zstandard

from joblet.common.errors import Internal, Unavailable
from joblet.logstore.layout import Sealing

MAGIC = b"JBLSEA"
VERSION = 1
HEADER = MAGIC + struct.pack("<H", VERSION)
FRAME_SIZE = 256 * 1024  # bytes of output in a frame
LEVEL = 3  # zstd's default

_TRAILER = struct.Struct("<QQQQII8sI")
_CHECKSUM = struct.Struct("<I")
_ROW = struct.Struct("<II")
TRAILER_SIZE = _TRAILER.size + _CHECKSUM.size


class SealDamaged(Internal):
    """A sealed log cannot be read at `position` (bytes from the start of the file)."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(f"sealed log is damaged at byte {position}: {what}")
        self.position = position


class Bytes(Protocol):
    """Where a sealed log lies: a file here or an object in the archive."""

    @property
    def size(self) -> int: ...

    def read(self, position: int, count: int) -> bytes:
        """So many bytes; fewer only at the end."""
        ...


class FileBytes:
    """An open file, whose descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, position: int, count: int) -> bytes:
        return os.pread(self._fd, count, position)


@dataclass(frozen=True, slots=True)
class Trailer:
    """What the end of the file says. `first` and `end` are offsets of the output, all other numbers are bytes."""

    first: int
    end: int
    index_size: int
    table: int
    frame_size: int
    table_checksum: int

    @property
    def output_frames(self) -> int:
        return -(-(self.end - self.first) // self.frame_size)

    @property
    def frames(self) -> int:
        return self.output_frames - (-self.index_size // self.frame_size)

    def encode(self) -> bytes:
        checked = _TRAILER.pack(
            self.first, self.end, self.index_size, self.table, self.frame_size, self.table_checksum, HEADER, 0
        )
        return checked + _CHECKSUM.pack(zlib.crc32(checked))


class SealedLog:
    """Reads a sealed log. Blocks on the disk or the network; every call may raise SealDamaged."""

    def __init__(self, source: Bytes) -> None:
        self._source = source
        self._trailer = _read_trailer(source)
        self._rows = _read_table(source, self._trailer)
        self._places = list(accumulate((stored for stored, _ in self._rows), initial=len(HEADER)))
        if self._places[-1] != self._trailer.table:
            raise SealDamaged(self._trailer.table, "the frames do not reach the table")

    @property
    def first(self) -> int:
        """The first byte of the output that was kept."""
        return self._trailer.first

    @property
    def end(self) -> int:
        """Bytes of output that the job wrote."""
        return self._trailer.end

    def read(self, offset: int, limit: int) -> bytes:
        """Output from byte `offset`, one of the kept, to the end of its frame or `limit` bytes."""
        number, skip = divmod(offset - self.first, self._trailer.frame_size)
        return self._frame(number)[skip : skip + limit]

    def index(self) -> Iterator[bytes]:
        """The bytes of the index, piece by piece."""
        return map(self._frame, range(self._trailer.output_frames, self._trailer.frames))

    def _frame(self, number: int) -> bytes:
        stored, checksum = self._rows[number]
        begin, end = self._span(number)
        position = self._places[number]
        raw = self._source.read(position, stored)
        try:
            content = zstandard.ZstdDecompressor().decompress(raw, max_output_size=end - begin)
        except zstandard.ZstdError:
            content = b""
        if len(content) != end - begin or zlib.crc32(content) != checksum:
            what = "output" if number < self._trailer.output_frames else "index"
            raise SealDamaged(position, f"its bytes {begin} to {end} of the {what} have a wrong checksum")
        return content

    def _span(self, number: int) -> tuple[int, int]:
        """From where to where a frame goes in the output, or in the index."""
        trailer = self._trailer
        base, size = trailer.first, trailer.end
        if number >= trailer.output_frames:
            number, base, size = number - trailer.output_frames, 0, trailer.index_size
        begin = base + number * trailer.frame_size
        return begin, min(begin + trailer.frame_size, size)


def _read_trailer(source: Bytes) -> Trailer:
    position = source.size - TRAILER_SIZE
    if position < len(HEADER):
        raise SealDamaged(source.size, "it is cut short")
    if (header := source.read(0, len(HEADER))) != HEADER:
        raise SealDamaged(0, f"the header is not that of a sealed log of version {VERSION}: {header!r}")
    raw = source.read(position, TRAILER_SIZE)
    if raw[_TRAILER.size :] != _CHECKSUM.pack(zlib.crc32(raw[: _TRAILER.size])):
        raise SealDamaged(position, "the trailer has a wrong checksum, or the end is missing")
    first, end, index_size, table, frame_size, table_checksum, header, _ = _TRAILER.unpack_from(raw)
    trailer = Trailer(first, end, index_size, table, frame_size, table_checksum)
    if header != HEADER or not frame_size or first > end or table + trailer.frames * _ROW.size != position:
        raise SealDamaged(position, "the trailer does not fit the file")
    return trailer


def _read_table(source: Bytes, trailer: Trailer) -> list[tuple[int, int]]:
    raw = source.read(trailer.table, trailer.frames * _ROW.size)
    if zlib.crc32(raw) != trailer.table_checksum:
        raise SealDamaged(trailer.table, "the table of frames has a wrong checksum")
    return list(_ROW.iter_unpack(raw))


def seal(log: Sealing, stopping: threading.Event) -> None:
    """Writes the sealed form of a log that has ended to the empty file `log.into`, and to the disk.

    Raises Internal when the output or the index is shorter than it should be, OSError of the disk, and Unavailable as
    soon as `stopping` is set.
    """
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    table = bytearray()
    index_size = os.fstat(log.index).st_size
    position = _write(log.into, HEADER)
    for content in chain(_pieces(log.output, log.first, log.end), _pieces(log.index, 0, index_size)):
        if stopping.is_set():
            raise Unavailable("the logstore is stopping")
        frame = compressor.compress(content)
        table += _ROW.pack(len(frame), zlib.crc32(content))
        position += _write(log.into, frame)
    _write(log.into, table)
    _write(log.into, Trailer(log.first, log.end, index_size, position, FRAME_SIZE, zlib.crc32(table)).encode())
    os.fsync(log.into)


def _pieces(fd: int, begin: int, end: int) -> Iterator[bytes]:
    while begin < end:
        piece = os.pread(fd, min(FRAME_SIZE, end - begin), begin)
        if len(piece) != min(FRAME_SIZE, end - begin):
            raise Internal(f"a file has only {begin + len(piece)} of {end} bytes")
        yield piece
        begin += len(piece)


def _write(fd: int, data: bytes | bytearray) -> int:
    written = os.write(fd, data)
    if written != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return written
