"""From which byte on a job's output is kept: what retention removed from its front, as the header of the index says.

Version 1 of the header ends in eight zero bytes: all of the output is kept. Once something was removed the header is

    16 bytes            the six letters JBLIDX; the version as two bytes (2); the blocks of 4096 bytes removed from the
                        front as six bytes; the lower 16 bits of the CRC-32 (IEEE) of the 14 bytes before; little endian

It is written over the old one, where it needs no room on a full disk, in one write(2) of one sector, before anything is
removed. So whoever has read bytes and finds afterwards that the header still keeps them has read what the job wrote,
and not the zeros of a hole.
"""

import os
import struct
import zlib

MAGIC = b"JBLIDX"
VERSIONS = (1, 2)
HEADER = MAGIC + struct.pack("<H", VERSIONS[0]) + bytes(8)
HEADER_SIZE = 16
BLOCK_SIZE = 4096  # what is removed is whole blocks

_REMOVED_VERSION = struct.pack("<H", VERSIONS[1])


def header(first: int) -> bytes:
    """The header that says that output is kept from byte `first` on, a multiple of BLOCK_SIZE."""
    if first == 0:
        return HEADER
    checked = MAGIC + _REMOVED_VERSION + (first // BLOCK_SIZE).to_bytes(6, "little")
    return checked + _checksum(checked)


def first_of(raw: bytes) -> int | None:
    """The first byte kept; None when these bytes are not a whole header."""
    if raw == HEADER:
        return 0
    checked, checksum = raw[:14], raw[14:]
    if not checked.startswith(MAGIC + _REMOVED_VERSION) or checksum != _checksum(checked):
        return None
    return int.from_bytes(checked[8:], "little") * BLOCK_SIZE


def first(index: int) -> int:
    """The first byte of output kept, of an open index; 0 as long as it has no whole header."""
    return first_of(os.pread(index, HEADER_SIZE, 0)) or 0


def _checksum(checked: bytes) -> bytes:
    return struct.pack("<H", zlib.crc32(checked) & 0xFFFF)
