"""What is kept of ended jobs' /work: a tree (`joblet.common.tree`) for each job, made by its init (`collect.c`).

init leaves `outputs` in the job's state directory when it has all, `outputs.tmp` when it was killed or took too long:
then what is whole of it is kept, and the job's message says that it is not all. Nothing that a job can write is
followed or opened here: these files are the executor's own.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from joblet.api import job_pb2
from joblet.common import tree
from joblet.common.contents import CHUNK_BYTES
from joblet.common.errors import InvalidArgument, NotFound
from joblet.common.ids import is_job_id
from joblet.common.tree import Entry, Kind
from joblet.executor.launch import OutputLimits

WHOLE: Final = "outputs"
PARTIAL: Final = "outputs.tmp"
PAGE_FILES: Final = 1000
_FOOTER_BYTES: Final = 8  # behind END: where it begins
_SHOWN: Final = 3


class Outputs:
    """The directory of all jobs' outputs."""

    def __init__(self, directory: Path, limits: OutputLimits) -> None:
        self._directory = directory
        self._limits = limits
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @staticmethod
    def expect(state_dir: Path) -> None:
        """Marks a job that declared outputs: should there be none at its end, that is noticed."""
        (state_dir / PARTIAL).touch(mode=0o600)

    def seconds(self, state_dir: Path) -> float:
        """How long a job's end may take for its outputs."""
        return self._limits.seconds if self.expected(state_dir) else 0.0

    def expected(self, state_dir: Path) -> bool:
        return (state_dir / PARTIAL).exists() or (state_dir / WHOLE).exists()

    def take(self, job_id: str, state_dir: Path) -> str:
        """Moves what init collected here; what of it is missing, in words. Again after a crash: the same."""
        whole, partial, kept = state_dir / WHOLE, state_dir / PARTIAL, self._directory / job_id
        if whole.exists():
            whole.replace(kept)
        elif partial.exists():
            _cut_to_whole_entries(partial)
            partial.replace(kept)
        if not kept.exists():
            return ""
        self.sweep()
        with kept.open("rb") as archive:
            return _missing(archive)

    def sweep(self) -> None:
        """Removes what is too old, then the oldest of what is too much."""
        found = sorted(
            (entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(self._directory)
        )
        room = self._limits.total_bytes - sum(size for _, size, _ in found)
        oldest = time.time() - self._limits.age_seconds
        for mtime, size, path in found:
            if mtime < oldest or room < 0:
                Path(path).unlink(missing_ok=True)
                room += size

    def remove(self, job_id: str) -> None:
        self._path(job_id).unlink(missing_ok=True)

    def page(self, job_id: str, token: str) -> job_pb2.ListJobOutputsRes:
        """Raises NotFound when nothing is kept, InvalidArgument for a bad token."""
        if token and not (token.isascii() and token.isdigit() and len(token) < 19):
            raise InvalidArgument("invalid pageToken: expected the nextPageToken of an earlier page", field="pageToken")
        answer, end = job_pb2.ListJobOutputsRes(), 0
        with self._open(job_id) as archive:
            for entry in _things(archive, int(token or 0)):
                if len(answer.files) == PAGE_FILES:
                    answer.nextPageToken = str(end)
                    break
                end = entry.end
                answer.files.add(
                    path=_text(entry.path), mode=entry.mode, size=entry.size if entry.kind is Kind.FILE else 0,
                    isDirectory=entry.kind is Kind.DIRECTORY, mtimeNs=entry.mtime_ns,
                    linkTarget=_text(_content(archive, entry)) if entry.kind is Kind.LINK else "",
                )  # fmt: skip
        return answer

    async def read(self, job_id: str, path: str) -> AsyncIterator[job_pb2.OutputChunk]:
        """`path` and what is below it, or everything. Raises NotFound."""
        wanted = os.fsencode(path.rstrip("/"))
        found = not wanted
        with self._open(job_id) as archive:
            for entry in _things(archive, 0):
                if wanted and entry.path != wanted and not entry.path.startswith(wanted + b"/"):
                    continue
                found = True
                async for chunk in _chunks(archive, entry):
                    yield chunk
        if not found:
            raise NotFound(
                f"no such output of job {job_id}: {tree.quoted(wanted)}", hint="rnx job get --list shows all"
            )

    def _open(self, job_id: str) -> BinaryIO:
        try:
            return self._path(job_id).open("rb")
        except FileNotFoundError:
            raise NotFound(f"no outputs are kept of job {job_id}") from None

    def _path(self, job_id: str) -> Path:
        if not is_job_id(job_id):
            raise InvalidArgument(f"invalid job id: {job_id!r}", field="uuid")
        return self._directory / job_id


def _things(archive: BinaryIO, start: int) -> Iterator[Entry]:
    """Files, directories and links from an entry's end on."""
    for entry in tree.entries(archive, start):
        if entry.kind is Kind.END:
            return
        if entry.kind is not Kind.LEAVE:
            yield entry


async def _chunks(archive: BinaryIO, entry: Entry) -> AsyncIterator[job_pb2.OutputChunk]:
    text = _text(entry.path)
    first = job_pb2.OutputChunk(
        path=text, mode=entry.mode, isDirectory=entry.kind is Kind.DIRECTORY, mtimeNs=entry.mtime_ns,
        rawPath=b"" if text.encode() == entry.path else entry.path,
    )  # fmt: skip
    if entry.kind is not Kind.FILE:
        first.linkTarget = _content(archive, entry)
        yield first
        return
    first.size = left = entry.size
    at = entry.content
    first.payload = await asyncio.to_thread(os.pread, archive.fileno(), min(left, CHUNK_BYTES), at)
    yield first
    while (left := entry.end - (at := at + CHUNK_BYTES)) > 0:
        yield job_pb2.OutputChunk(
            payload=await asyncio.to_thread(os.pread, archive.fileno(), min(left, CHUNK_BYTES), at)
        )


def _content(archive: BinaryIO, entry: Entry) -> bytes:
    return os.pread(archive.fileno(), entry.size, entry.content)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _missing(archive: BinaryIO) -> str:
    """What END says, in words; empty when nothing is missing."""
    size = archive.seek(0, os.SEEK_END)
    begins = int.from_bytes(os.pread(archive.fileno(), _FOOTER_BYTES, size - _FOOTER_BYTES), "little")
    end = next(tree.entries(archive, begins))
    if end.mtime_ns == 0:
        return ""
    parts = _content(archive, end).split(b"\0")[:-1]
    shown = [
        f"{tree.quoted(path)}: {why.decode()}" if path else why.decode()
        for why, path in zip(parts[::2], parts[1::2], strict=True)
    ]
    more = ", ..." if end.mtime_ns > _SHOWN else ""
    return f"outputs left out: {end.mtime_ns} ({'; '.join(shown[:_SHOWN])}{more})"


def _cut_to_whole_entries(path: Path) -> None:
    """Half a tree becomes one that ends behind its last whole entry and says so."""
    with path.open("r+b") as archive:
        whole = len(tree.MAGIC)
        with contextlib.suppress(InvalidArgument):
            for entry in tree.entries(archive):
                if entry.kind is Kind.END:
                    break
                whole = entry.end
        archive.truncate(whole)
        archive.seek(0)
        if archive.read(len(tree.MAGIC)) != tree.MAGIC:
            archive.seek(0)
            archive.write(tree.MAGIC)
        archive.seek(whole)
        reason = b"collecting was cut off, everything behind the last one kept is missing\0" + b"\0"
        archive.write(tree.header(Entry(b"", Kind.END, 0, len(reason), 1)) + reason)
        archive.write(whole.to_bytes(_FOOTER_BYTES, "little"))
