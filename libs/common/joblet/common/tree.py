"""A directory tree as one sequence of bytes: what `rnx --upload-dir` sends and what a job's kept outputs lie in.

Made to be unpacked by a few lines of C that need no allocation (`jobinit/tree.c`), and so that there is one way to
write a tree: entries stand in the order of a walk that sorts names by their bytes, a directory before what is in it and
once more, as LEAVE, behind it. The same tree is therefore the same bytes, and has the same digest.

    magic    "JBTREE1\\n"
    entry    u32 mode (permission bits), u32 kind, u64 size, i64 mtime (ns, 0 in uploads), u32 length of path,
             path, NUL, then `size` bytes: the content of a FILE, the target of a LINK, nothing for others

Everything is little endian. Paths are bytes: relative, without empty, "." or ".." components. A LINK stays inside: its
target is relative, ".." stands only at its beginning and does not climb above the tree's root; directories above an
entry are real ones, so this holds by induction, whatever other links there are.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO, Final

from joblet.common.errors import InvalidArgument

MAGIC: Final = b"JBTREE1\n"
MAX_ENTRIES: Final = 1 << 18
MAX_PATH_BYTES: Final = 4095
MAX_NAME_BYTES: Final = 255
_HEADER: Final = struct.Struct("<IIQqI")


class Kind(IntEnum):
    FILE = 0
    DIRECTORY = 1
    LINK = 2
    LEAVE = 3
    """Nothing more comes of this directory: its mode, which may forbid entering it, holds from here on."""
    END = 9
    """Only in outputs, the last: that nothing is missing, or what."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`content` is where its bytes begin in the archive."""

    path: bytes
    kind: Kind
    mode: int
    size: int = 0
    mtime_ns: int = 0
    content: int = 0

    @property
    def end(self) -> int:
        return self.content + self.size


@dataclass(frozen=True, slots=True)
class Summary:
    """What an archive holds. `content_bytes` are those of its files."""

    entries: int
    content_bytes: int


def header(entry: Entry) -> bytes:
    """What stands before the content."""
    start = _HEADER.pack(entry.mode, entry.kind, entry.size, entry.mtime_ns, len(entry.path))
    return start + entry.path + b"\0"


def entries(archive: BinaryIO, start: int = 0) -> Iterator[Entry]:
    """All entries from the offset `start` (0, or an Entry's end) on. Raises InvalidArgument for what is no archive."""
    end = archive.seek(0, 2)
    archive.seek(0)
    if archive.read(len(MAGIC)) != MAGIC:
        raise InvalidArgument("not a tree: it does not begin with JBTREE1")
    at = max(start, len(MAGIC))
    while at < end:
        archive.seek(at)
        entry = _read(archive, at)
        if entry.end > end:
            raise InvalidArgument("not a tree: an entry is cut short")
        yield entry
        at = entry.end


def check(archive: BinaryIO) -> Summary:
    """Everything that makes a tree safe to unpack. Raises InvalidArgument naming the path."""
    directories = {b""}  # those not left yet
    seen: set[bytes] = set()
    content_bytes = 0
    for count, entry in enumerate(entries(archive)):
        if count == MAX_ENTRIES:
            raise InvalidArgument(f"invalid uploads: a tree of more than {MAX_ENTRIES} files", field="uploads")
        if entry.kind is Kind.LEAVE:
            _leave(entry, directories)
            continue
        _check_place(entry, directories, seen)
        seen.add(entry.path)
        if entry.kind is Kind.DIRECTORY:
            directories.add(entry.path)
        elif entry.kind is Kind.LINK:
            archive.seek(entry.content)
            why = link_problem(entry.path, archive.read(entry.size))
            if why:
                raise bad(entry.path, why)
        content_bytes += entry.size
    return Summary(len(seen), content_bytes)


def _leave(entry: Entry, directories: set[bytes]) -> None:
    if not entry.path or entry.path not in directories or entry.size or entry.mode & ~0o777:
        raise bad(entry.path, "a directory is left that was not entered")
    directories.remove(entry.path)


def _check_place(entry: Entry, directories: set[bytes], seen: set[bytes]) -> None:
    why = path_problem(entry.path)
    if why:
        raise bad(entry.path, why)
    if entry.path in seen:
        raise bad(entry.path, "it is there twice")
    if entry.path.rpartition(b"/")[0] not in directories:
        raise bad(entry.path, "its directory does not come before it, or has been left")
    if entry.mode & ~0o777:
        raise bad(entry.path, f"mode {entry.mode:o} has more than permission bits")
    if entry.kind is Kind.END or (entry.kind is Kind.DIRECTORY and entry.size):
        raise bad(entry.path, f"an entry of kind {entry.kind.name} with {entry.size} bytes has no place here")


def path_problem(path: bytes) -> str:
    """Why `path` could leave its directory or cannot exist; empty when nothing is wrong."""
    if not path:
        return "the path is empty"
    if b"\0" in path:
        return "the path contains NUL"
    if path.startswith(b"/"):
        return "the path is absolute"
    parts = path.split(b"/")
    if b".." in parts:
        return 'the path contains ".."'
    if b"" in parts or b"." in parts:
        return 'the path contains an empty part or "."'
    if len(path) > MAX_PATH_BYTES or any(len(part) > MAX_NAME_BYTES for part in parts):
        return "the path is too long"
    return ""


def link_problem(path: bytes, target: bytes) -> str:
    """Why a link at `path` may lead out of its tree; empty when it stays inside."""
    if not target or b"\0" in target or len(target) > MAX_PATH_BYTES:
        return "the link's target is empty, too long or contains NUL"
    if target.startswith(b"/"):
        return f"the link leads to the absolute path {quoted(target)}"
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    climbs = 0
    while climbs < len(parts) and parts[climbs] == b"..":
        climbs += 1
    if climbs > path.count(b"/"):
        return f"the link leads out of the directory: {quoted(target)}"
    if b".." in parts[climbs:]:
        return f'the link has ".." behind a name, so it may lead anywhere: {quoted(target)}'
    return ""


def bad(path: bytes, why: str) -> InvalidArgument:
    return InvalidArgument(f"invalid uploads: {quoted(path)}: {why}", field="uploads")


def quoted(path: bytes) -> str:
    """In quotes, with everything escaped that could garble a terminal or a log line, cut to 200 characters."""
    text = path.decode("utf-8", "backslashreplace")[:200]
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) + '"'


def _read(archive: BinaryIO, at: int) -> Entry:
    fixed = archive.read(_HEADER.size)
    if len(fixed) < _HEADER.size:
        raise InvalidArgument("not a tree: an entry is cut short")
    mode, kind, size, mtime_ns, length = _HEADER.unpack(fixed)
    if kind not in Kind.__members__.values() or length > MAX_PATH_BYTES:
        raise InvalidArgument(f"not a tree: an entry of kind {kind} with a path of {length} bytes")
    if kind == Kind.LINK and size > MAX_PATH_BYTES:  # it is read at once
        raise InvalidArgument(f"not a tree: a link with a target of {size} bytes")
    path = archive.read(length + 1)
    if len(path) != length + 1 or path[-1] != 0:
        raise InvalidArgument("not a tree: a path is cut short")
    return Entry(path[:-1], Kind(kind), mode, size, mtime_ns, at + _HEADER.size + length + 1)
