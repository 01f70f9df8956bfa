"""A local directory as the tree that `--upload-dir` sends (`joblet.common.tree`): what is in it, and its bytes.

Everything that cannot be sent is refused by name before anything is: special files, set-user-ID bits, links that lead
out of the directory. Contents are read when the bytes are asked for, a piece at a time. Raises BadUsage.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joblet.common import tree
from joblet.common.contents import CHUNK_BYTES
from joblet.common.tree import Entry, Kind
from rnx.errors import BadUsage

_KINDS: Final = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
)
_EXECUTABLE_NOWHERE: Final = 0o644  # Windows has no permission bits worth sending


@dataclass(frozen=True, slots=True)
class Tree:
    """`entries` in the order of the archive, without LEAVE; `mode` is the directory's own."""

    root: Path
    mode: int
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Of all its bytes."""
        return sum(len(piece) for piece in self._headers()) + sum(entry.size for entry in self.entries)

    def chunks(self) -> Iterator[bytes]:
        """The archive. Raises BadUsage naming a file that cannot be read or is no longer what it was."""
        pending = bytearray()
        for piece in self._pieces():
            pending += piece
            while len(pending) >= CHUNK_BYTES:
                yield bytes(pending[:CHUNK_BYTES])
                del pending[:CHUNK_BYTES]
        if pending:
            yield bytes(pending)

    def _pieces(self) -> Iterator[bytes]:
        yield tree.MAGIC
        for entry in _with_leaves(self.entries):
            yield tree.header(entry)
            if entry.kind is Kind.LINK:
                yield _link_target(self.root / os.fsdecode(entry.path))
            elif entry.kind is Kind.FILE:
                yield from file_chunks(self.root / os.fsdecode(entry.path), entry.size)

    def _headers(self) -> Iterator[bytes]:
        yield tree.MAGIC
        yield from (tree.header(entry) for entry in _with_leaves(self.entries))


def scan(root: Path) -> Tree:
    """The tree below `root`. Names are compared by their bytes, so the same tree is always the same archive."""
    try:
        status = root.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise BadUsage(f"--upload-dir {root}: not a directory")
        entries = tuple(_walk(root, b""))
    except OSError as error:
        raise _unreadable(Path(error.filename or root), error) from error
    if len(entries) > tree.MAX_ENTRIES:
        raise BadUsage(f"--upload-dir {root}: {len(entries)} files, more than {tree.MAX_ENTRIES}")
    return Tree(root, _mode(root, status), entries)


def file_chunks(path: Path, size: int) -> Iterator[bytes]:
    """`size` bytes of a file. Raises BadUsage when it has fewer or more."""
    left = size
    try:
        with path.open("rb") as file:
            while left and (piece := file.read(min(CHUNK_BYTES, left))):
                left -= len(piece)
                yield piece
            if left or file.read(1):
                raise BadUsage(f"{path}: it was changed while it was being sent")
    except OSError as error:
        raise _unreadable(path, error) from error


def _walk(root: Path, below: bytes) -> Iterator[Entry]:
    with os.scandir(os.fsencode(root) + b"/" + below) as found:
        children = sorted(found, key=lambda child: child.name)
    for child in children:
        path = below + child.name
        entry = _entry(root, path, child.stat(follow_symlinks=False))
        yield entry
        if entry.kind is Kind.DIRECTORY:
            yield from _walk(root, path + b"/")


def _entry(root: Path, path: bytes, status: os.stat_result) -> Entry:
    where = root / os.fsdecode(path)
    why = tree.path_problem(path)
    if why:
        raise BadUsage(f"--upload-dir {root}: {tree.quoted(path)}: {why}")
    if stat.S_ISLNK(status.st_mode):
        target = _link_target(where)
        why = tree.link_problem(path, target)
        if why:
            raise BadUsage(f"--upload-dir {root}: {tree.quoted(path)}: {why}")
        return Entry(path, Kind.LINK, 0o777, len(target))
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, Kind.DIRECTORY, _mode(where, status))
    for is_kind, name in _KINDS:
        if is_kind(status.st_mode):
            raise BadUsage(f"--upload-dir {root}: {tree.quoted(path)}: it is {name}; only files, directories and links"
                           " can be uploaded")  # fmt: skip
    return Entry(path, Kind.FILE, _mode(where, status), status.st_size)


def _mode(path: Path, status: os.stat_result) -> int:
    if os.name != "posix":
        return 0o755 if stat.S_ISDIR(status.st_mode) else _EXECUTABLE_NOWHERE
    special = status.st_mode & (stat.S_ISUID | stat.S_ISGID)
    if special and not stat.S_ISDIR(status.st_mode):
        raise BadUsage(
            f"--upload-dir: {path}: it has the set-user-ID or set-group-ID bit (mode {status.st_mode & 0o7777:o})"
        )
    return status.st_mode & 0o777


def _link_target(path: Path) -> bytes:
    target = os.readlink(os.fsencode(path))  # noqa: PTH115 - as it is; a Path would write it anew
    return target if os.name == "posix" else target.replace(b"\\", b"/")


def _with_leaves(entries: tuple[Entry, ...]) -> Iterator[Entry]:
    """Each directory once more behind all that is in it."""
    open_directories: list[Entry] = []
    for entry in entries:
        while open_directories and not entry.path.startswith(open_directories[-1].path + b"/"):
            yield _leave(open_directories.pop())
        yield entry
        if entry.kind is Kind.DIRECTORY:
            open_directories.append(entry)
    while open_directories:
        yield _leave(open_directories.pop())


def _leave(directory: Entry) -> Entry:
    return Entry(directory.path, Kind.LEAVE, directory.mode)


def _unreadable(path: Path, error: OSError) -> BadUsage:
    return BadUsage(f"{os.fsdecode(path)}: {(error.strerror or str(error)).lower()}")
