"""A job's kept outputs as files here: what a stream of OutputChunk messages says, below one directory.

The names come from a job, so nothing is believed: paths that leave the directory and links that lead out of it are
refused by name, no link is followed on the way to a file, and what is at a file's place already is replaced, not
written through. A file appears under its name when all of it is there.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from joblet.common import tree
from joblet.common.errors import Internal
from rnx.errors import BadUsage

if TYPE_CHECKING:
    from joblet.api.job_pb2 import OutputChunk

_PART: Final = ".rnx-part"

Warn = Callable[[str], None]
Wrote = Callable[["OutputChunk"], None]


@dataclass(frozen=True, slots=True)
class Written:
    """How many files, directories and links there are now, and how many were refused."""

    count: int
    refused: int


def write(chunks: "Iterable[OutputChunk]", root: Path, warn: Warn, wrote: Wrote | None = None) -> Written:
    """`warn` is told what is refused, `wrote` the first chunk of all else. Raises BadUsage for what this machine cannot
    write, Internal for a stream that makes no sense."""
    root.mkdir(parents=True, exist_ok=True)
    directories: list[tuple[Path, OutputChunk]] = []
    count = refused = 0
    for first, payloads in _entries(chunks):
        path = path_of(first)
        why = tree.path_problem(path) or (first.linkTarget and tree.link_problem(path, first.linkTarget))
        if why:
            warn(f"{tree.quoted(path)}: {why}; left out")
            refused += 1
            for _ in payloads:
                continue
            continue
        _write_one(first, payloads, root, path, directories)
        count += 1
        if wrote is not None:
            wrote(first)
    for where, directory in reversed(directories):  # the innermost first: a mode may forbid to enter
        _finish(where, directory)
    return Written(count, refused)


def path_of(first: "OutputChunk") -> bytes:
    return first.rawPath or first.path.encode()


def contents(chunks: "Iterable[OutputChunk]", out: BinaryIO) -> None:
    """The bytes of the one file that the stream has. Raises BadUsage when it has another thing or more."""
    for number, (first, payloads) in enumerate(_entries(chunks)):
        if number or first.isDirectory or first.linkTarget:
            raise BadUsage("-o -: only one file can go to standard output")
        for payload in payloads:
            out.write(payload)
    out.flush()


def _entries(chunks: "Iterable[OutputChunk]") -> "Iterator[tuple[OutputChunk, Iterator[bytes]]]":
    """Each entry with its content, which must be read before the next one is asked for."""
    following = iter(chunks)
    first = next(following, None)
    while first is not None:
        yield first, _payloads(first, following)
        first = next(following, None)


def _payloads(first: "OutputChunk", following: "Iterator[OutputChunk]") -> Iterator[bytes]:
    left = first.size - len(first.payload)
    yield first.payload
    while left > 0:
        chunk = next(following, None)
        if chunk is None or chunk.path or not chunk.payload or len(chunk.payload) > left:
            raise Internal(f"the output {first.path} ended {left} bytes too early")
        left -= len(chunk.payload)
        yield chunk.payload


def _write_one(
    first: "OutputChunk",
    payloads: Iterator[bytes],
    root: Path,
    path: bytes,
    directories: "list[tuple[Path, OutputChunk]]",
) -> None:
    where = root / os.fsdecode(path)
    try:
        _make_parents(root, where)
        if first.isDirectory:
            _make_directory(where)
            directories.append((where, first))
        elif first.linkTarget:
            _remove_file(where)
            os.symlink(first.linkTarget, os.fsencode(where))
        else:
            _write_file(where, first, payloads)
    except OSError as error:
        raise BadUsage(f"{where}: {(error.strerror or str(error)).lower()}") from error


def _write_file(where: Path, first: "OutputChunk", payloads: Iterator[bytes]) -> None:
    with _part(where) as part:
        with part.open("xb") as file:
            for payload in payloads:
                file.write(payload)
        _finish(part, first)
        _make_room(where)
        part.replace(where)


@contextmanager
def _part(where: Path) -> Iterator[Path]:
    """A place for a file that is not whole yet, in the same directory; whatever was left there goes."""
    part = where.with_name(f"{where.name[:200]}{_PART}")
    part.unlink(missing_ok=True)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _finish(where: Path, first: "OutputChunk") -> None:
    where.chmod(first.mode)
    os.utime(where, ns=(first.mtimeNs, first.mtimeNs))


def _make_parents(root: Path, where: Path) -> None:
    """Directories on the way that are not there; a link is no directory."""
    missing = []
    parent = where.parent
    while parent != root:
        missing.append(parent)
        parent = parent.parent
    for directory in reversed(missing):
        _make_directory(directory)


def _make_directory(where: Path) -> None:
    try:
        where.mkdir(mode=0o755)
    except FileExistsError:
        if not stat.S_ISDIR(where.lstat().st_mode):
            raise
        if not os.access(where, os.W_OK | os.X_OK):
            where.chmod(where.stat().st_mode | 0o700)


def _make_room(where: Path) -> None:
    """A directory at a file's place is in the way, anything else is replaced."""
    if where.is_dir() and not where.is_symlink():
        raise IsADirectoryError(None, "is a directory", str(where))


def _remove_file(where: Path) -> None:
    _make_room(where)
    where.unlink(missing_ok=True)
