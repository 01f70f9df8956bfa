"""What `rnx run` uploads: deciding what travels inside the request and what is sent before it, and sending that.

Small files travel inside the request as long as they fit. A larger file, and every directory, is named in it by digest
and sent with Upload. The request goes first: a gateway that has all of it already starts the job, one that could never
run the job refuses it, and one that lacks something says so before anything has been sent. Sending may be repeated at
will: content that has arrived is not sent again.
"""

import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from joblet.common.errors import FailedPrecondition
from rnx import treescan
from rnx.errors import BadUsage, NoAnswer
from rnx.params import INLINE_BYTES
from rnx.treescan import Tree

if TYPE_CHECKING:
    from joblet.api.job_pb2 import FileUpload, GetJobStatusRes, RunJobReq
    from rnx.client import Client

NODE_BYTES_PER_SECOND: Final = 4 * 1024 * 1024  # at least so fast do uploads get from the gateway to a node
ENVELOPE_BYTES: Final = 300  # of a file in the request: its name, mode and size
BAR_AFTER_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Small:
    """A file that travels inside the request."""

    path: str
    mode: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Large:
    """A file or a directory that is sent before the request; `chunks` reads its bytes, each time anew."""

    path: str
    mode: int
    size: int
    is_directory: bool
    chunks: Callable[[], Iterator[bytes]]


Source = Small | Large


def plan(files: Iterable[Path], directories: Iterable[Path], room: int = INLINE_BYTES) -> list[Source]:
    """`room` is what the request has for files. Raises BadUsage by name for what cannot be sent, or would be there
    twice in the job."""
    sources: list[Source] = []
    room, targets = min(room, INLINE_BYTES), _Targets()
    for file in files:
        source = _file(file, room)
        room -= len(source.content) + ENVELOPE_BYTES if isinstance(source, Small) else 0
        targets.add(source.path.encode(), f"--upload {file}")
        sources.append(source)
    for directory in directories:
        found = treescan.scan(directory)
        target = _target_of(directory)
        targets.add_tree(target, found, f"--upload-dir {directory}")
        sources.append(Large(target, found.mode, found.size, True, found.chunks))
    return sources


def patience_seconds(sources: Iterable[Source]) -> float:
    """How long RunJob may take beyond its usual time: it answers when the node has the uploads."""
    return sum(source.size for source in sources if isinstance(source, Large)) // NODE_BYTES_PER_SECOND


def named(sources: Iterable[Source]) -> "list[FileUpload]":
    """The uploads of the request."""
    from joblet.api.job_pb2 import FileUpload

    return [
        FileUpload(path=source.path, mode=source.mode, size=len(source.content), content=source.content)
        if isinstance(source, Small)
        else FileUpload(
            path=source.path, mode=source.mode, size=source.size, isDirectory=source.is_directory,
            digest=_digest_of(source),
        )
        for source in sources
    ]  # fmt: skip


def run(client: "Client", request: "RunJobReq", sources: Sequence[Source]) -> "GetJobStatusRes":
    """The job that the request starts, with all that it uploads."""
    from rnx.client import CALL_SECONDS

    request.uploads.extend(named(sources))
    seconds = CALL_SECONDS + patience_seconds(sources)
    try:
        return _ask(client, request, seconds)
    except FailedPrecondition as error:
        if error.field != "uploads":
            raise
    for source, upload in zip(sources, request.uploads, strict=True):
        if isinstance(source, Large):
            _send(client, source, upload.digest)
    return _ask(client, request, seconds)


def _ask(client: "Client", request: "RunJobReq", timeout_seconds: float) -> "GetJobStatusRes":
    """Without an answer nobody here knows whether there is a job: that is said."""
    from rnx import waiting

    try:
        with waiting.unanswered_on_interrupt(request.requestId, lambda text: click.echo(text, err=True)):
            return client.call_repeatable(lambda stub: stub.RunJob, request, timeout_seconds=timeout_seconds).job
    except NoAnswer as error:
        hint = (
            f"the job may have been accepted, or not; `{waiting.again(request.requestId)}` gives it, or starts it now"
        )
        raise NoAnswer(error.message, hint=hint) from error


def _send(client: "Client", source: Large, digest: str) -> None:
    with _bar(source.size, f"Uploading {source.path}") as advance:
        client.upload(digest, lambda: _watched(source.chunks(), advance))


def _digest_of(source: Large) -> str:
    sha256 = hashlib.sha256()
    with _bar(source.size, f"Reading {source.path}") as advance:
        for piece in _watched(source.chunks(), advance):
            sha256.update(piece)
    return f"sha256:{sha256.hexdigest()}"


def _watched(chunks: Iterator[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    for piece in chunks:
        yield piece
        advance(len(piece))


@contextmanager
def _bar(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, if that is a terminal, once it has taken a second."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    begun, bar, waiting = time.monotonic(), None, 0

    def advance(count: int) -> None:
        nonlocal bar, waiting
        waiting += count
        if bar is None and time.monotonic() - begun > BAR_AFTER_SECONDS:
            bar = click.progressbar(length=length, label=label, file=sys.stderr, show_eta=True)
            bar.__enter__()
        if bar is not None:
            bar.update(waiting)
            waiting = 0

    try:
        yield advance
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)


def _file(file: Path, room: int) -> Source:
    """Raises BadUsage for what is no readable file."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadUsage(f"--upload {file}: not a regular file")
        name = _checked_name(file.name, f"--upload {file}")
        # Windows has no permission bits worth sending; 0 is the server's default, 0644.
        mode = status.st_mode & 0o777 if os.name == "posix" else 0
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
            raise BadUsage(f"--upload {file}: it has the set-user-ID or set-group-ID bit")
        if status.st_size <= room:
            content = file.read_bytes()
            if len(content) <= room:
                return Small(name, mode, content)
        size = status.st_size
        with file.open("rb"):
            return Large(name, mode, size, False, lambda: treescan.file_chunks(file, size))
    except OSError as error:
        raise BadUsage(f"--upload {file}: {(error.strerror or str(error)).lower()}") from error


def _target_of(directory: Path) -> str:
    """As with `cp -r`: a directory keeps its name, the contents of "." go into /work itself."""
    if directory.name == "..":
        raise BadUsage(f'--upload-dir {directory}: ".." is no name that the directory could have in the job')
    return _checked_name(directory.name, f"--upload-dir {directory}") if directory.name else "."


def _checked_name(name: str, what: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadUsage(
            f"{what}: its name is not UTF-8", hint="inside of an uploaded directory any name will do"
        ) from None
    return name


class _Targets:
    """The paths in the job that are taken."""

    def __init__(self) -> None:
        self._by: dict[bytes, str] = {}

    def add(self, path: bytes, what: str) -> None:
        if path in self._by:
            raise BadUsage(f"{what}: there is already a file of the name {path.decode(errors='backslashreplace')}"
                           f" ({self._by[path]})")  # fmt: skip
        self._by[path] = what

    def add_tree(self, target: str, found: Tree, what: str) -> None:
        if target != ".":
            self.add(target.encode(), what)
            return
        for entry in found.entries:
            self.add(entry.path, what)
