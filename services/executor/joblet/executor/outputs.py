"""What is kept of ended jobs' /work: a tree (`joblet.common.tree`) for each job, made by its init (`collect.c`).

init leaves `outputs` in the job's state directory when it has all, `outputs.tmp` when it was killed or took too long:
then what is whole of it is kept, and the job's message says that it is not all. Nothing that a job can write is
followed or opened here: these files are the executor's own.

Each attempt of a job that is retried is a job here, and has outputs of its own. Together they may be what one job may
keep: when there are more, those of the oldest attempts go, and the message of the attempt that came last says so.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from joblet.api import job_pb2
from joblet.common import tree
from joblet.common.contents import CHUNK_BYTES
from joblet.common.errors import InvalidArgument, NotFound, OutOfRange
from joblet.common.ids import is_job_id
from joblet.common.tree import Entry, Kind
from joblet.executor.job import Earlier
from joblet.executor.launch import OutputLimits

WHOLE: Final = "outputs"
PARTIAL: Final = "outputs.tmp"
EXPECTED: Final = "outputs.expected"
_MARKS: Final = frozenset({WHOLE, PARTIAL, EXPECTED})
PAGE_FILES: Final = 1000
PAGE_BYTES: Final = 1 << 20
"""About; a message of the public API has room for it."""
_ENTRIES_AT_ONCE: Final = 200  # looked at before others of the event loop have their turn
_FOOTER_BYTES: Final = 8  # behind END: where it begins
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the state directory of a job that declared outputs says of them, as JSON, until the job is over."""

    earlier: tuple[Earlier, ...] = ()
    removed: tuple[int, ...] = ()  # numbers of attempts whose outputs make room for this one's

    @classmethod
    def read(cls, state_dir: Path) -> "_Expected":
        try:
            fields = json.loads((state_dir / EXPECTED).read_text())
        except FileNotFoundError:
            return cls()
        return cls(tuple(Earlier(*attempt) for attempt in fields["earlier"]), tuple(fields["removed"]))

    def write(self, state_dir: Path) -> None:
        """At once: a reader finds the old text or the new one."""
        earlier = [[attempt.number, attempt.job_id] for attempt in self.earlier]
        new = state_dir / f"{EXPECTED}.new"
        new.touch(mode=0o600)
        new.write_text(json.dumps({"earlier": earlier, "removed": self.removed}))
        new.replace(state_dir / EXPECTED)


class Outputs:
    """The directory of all jobs' outputs."""

    def __init__(self, directory: Path, limits: OutputLimits) -> None:
        self._directory = directory
        self._limits = limits
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @staticmethod
    def expect(state_dir: Path, earlier: Iterable[Earlier] = ()) -> None:
        """Marks a job that declared outputs: should there be none at its end, that is noticed. `earlier` are its
        attempts that this node had before."""
        _Expected(tuple(earlier)).write(state_dir)
        (state_dir / PARTIAL).touch(mode=0o600)

    def seconds(self, state_dir: Path) -> float:
        """How long a job's end may take for its outputs."""
        return self._limits.seconds if self.expected(state_dir) else 0.0

    def expected(self, state_dir: Path) -> bool:
        # In one look: every job's end comes here, and most have declared none.
        with contextlib.suppress(FileNotFoundError):
            return not _MARKS.isdisjoint(os.listdir(state_dir))
        return False

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
        removed = self._make_room(job_id, state_dir)
        self.sweep()
        with kept.open("rb") as archive:
            missing = _missing(archive)
        return "; ".join(text for text in (missing, removed) if text)

    def _make_room(self, job_id: str, state_dir: Path) -> str:
        """Removes the outputs of the oldest attempts as long as all together are too much; which, in words."""
        expected = _Expected.read(state_dir)
        if not expected.removed:  # else a crash came between the decision and the end that tells it
            expected = replace(expected, removed=self._too_much(job_id, expected.earlier))
            if expected.removed:
                expected.write(state_dir)
        for attempt in expected.earlier:
            if attempt.number in expected.removed:
                self.remove(attempt.job_id)
        if not expected.removed:
            return ""
        numbers = ", ".join(map(str, expected.removed))
        return f"outputs removed of attempt {numbers}: with those of later ones they are more than one job may keep"

    def _too_much(self, job_id: str, earlier: Collection[Earlier]) -> tuple[int, ...]:
        """The numbers of the attempts whose outputs have no place beside later ones'."""
        total_bytes, total_files = self._amount(job_id) if earlier else (0, 0)
        removed = []
        for attempt in sorted(earlier, key=lambda attempt: attempt.number, reverse=True):
            try:
                size, files = self._amount(attempt.job_id)
            except NotFound:  # it had none, or has grown old
                continue
            total_bytes, total_files = total_bytes + size, total_files + files
            if total_bytes > self._limits.one_bytes or total_files > self._limits.files:
                removed.append(attempt.number)
        return tuple(sorted(removed))

    def _amount(self, job_id: str) -> tuple[int, int]:
        """How many bytes and things are kept, as far as they can be read, counted as collect.c does. Or NotFound."""
        size = count = 0
        with self._open(job_id) as archive, contextlib.suppress(InvalidArgument):
            for entry in tree.entries(archive):
                if entry.kind is Kind.END:
                    break
                size, count = entry.end - len(tree.MAGIC), count + (entry.kind is not Kind.LEAVE)
        return size, count

    def sweep(self) -> None:
        """Removes what is too old, then the oldest of what is too much."""
        found = sorted(self._kept())
        room = self._limits.total_bytes - sum(size for _, size, _ in found)
        oldest = time.time() - self._limits.age_seconds
        for mtime, size, path in found:
            if mtime < oldest or room < 0:
                Path(path).unlink(missing_ok=True)
                room += size

    def _kept(self) -> Iterator[tuple[float, int, str]]:
        """Time, size and path; what goes meanwhile is passed over."""
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    yield status.st_mtime, status.st_size, entry.path

    def remove(self, job_id: str) -> None:
        self._path(job_id).unlink(missing_ok=True)

    def sizes(self, job_ids: Iterable[str]) -> dict[str, int]:
        """Of those jobs that have outputs, how many bytes these take on the disk."""
        found = {}
        for job_id in job_ids:
            with contextlib.suppress(FileNotFoundError):
                found[job_id] = self._path(job_id).stat().st_size
        return found

    def page(self, job_id: str, token: str) -> job_pb2.ListJobOutputsRes:
        """Raises NotFound when nothing is kept, InvalidArgument for a bad token."""
        if token and not (token.isascii() and token.isdigit() and len(token) < 19):
            raise InvalidArgument("invalid pageToken: expected the nextPageToken of an earlier page", field="pageToken")
        answer, end, room = job_pb2.ListJobOutputsRes(), 0, PAGE_BYTES
        with self._open(job_id) as archive:
            for entry in _things(archive, int(token or 0)):
                if len(answer.files) == PAGE_FILES or room <= 0:
                    answer.nextPageToken = str(end)
                    break
                end = entry.end
                file = answer.files.add(
                    path=_text(entry.path), mode=entry.mode, size=entry.size if entry.kind is Kind.FILE else 0,
                    isDirectory=entry.kind is Kind.DIRECTORY, mtimeNs=entry.mtime_ns,
                    linkTarget=_text(_content(archive, entry)) if entry.kind is Kind.LINK else "",
                )  # fmt: skip
                room -= file.ByteSize()
        return answer

    async def read(self, job_id: str, path: str, offset: int = 0) -> AsyncIterator[job_pb2.OutputChunk]:
        """`path` and what is below it, or everything, from the `next` of an earlier chunk on. Raises NotFound,
        InvalidArgument and OutOfRange for an offset that no chunk has named."""
        wanted = os.fsencode(path.rstrip("/"))
        found = not wanted or offset > 0
        with self._open(job_id) as archive:
            start = 0
            if offset:
                start, rest = await asyncio.to_thread(_going_on, archive, offset)
                async for chunk in _pieces(archive, rest.start, rest.stop):
                    yield chunk
            for number, entry in enumerate(_things(archive, start)):
                if number % _ENTRIES_AT_ONCE == 0:
                    await asyncio.sleep(0)
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


def _going_on(archive: BinaryIO, offset: int) -> tuple[int, range]:
    """Where the entries begin that come behind `offset`, and what is left before that of the file it lies in."""
    for entry in tree.entries(archive):
        if entry.kind is Kind.END:
            raise OutOfRange(f"offset {offset} is behind the end of the outputs")
        if entry.end == offset:
            return offset, range(0)
        if entry.end > offset:
            if entry.kind is Kind.FILE and offset >= entry.content:
                return entry.end, range(offset, entry.end)
            break
    raise InvalidArgument(f"invalid offset: {offset} is not the next of any chunk", field="offset")


async def _chunks(archive: BinaryIO, entry: Entry) -> AsyncIterator[job_pb2.OutputChunk]:
    text = _text(entry.path)
    first = job_pb2.OutputChunk(
        path=text, mode=entry.mode, isDirectory=entry.kind is Kind.DIRECTORY, mtimeNs=entry.mtime_ns,
        rawPath=b"" if text.encode() == entry.path else entry.path, next=entry.end,
    )  # fmt: skip
    if entry.kind is not Kind.FILE:
        first.linkTarget = _content(archive, entry)
        yield first
        return
    first.size = entry.size
    first.next = min(entry.end, entry.content + CHUNK_BYTES)
    first.payload = await _piece(archive, entry.content, first.next)
    yield first
    async for chunk in _pieces(archive, first.next, entry.end):
        yield chunk


async def _pieces(archive: BinaryIO, begin: int, end: int) -> AsyncIterator[job_pb2.OutputChunk]:
    """The bytes of a file from `begin` to `end`."""
    while begin < end:
        behind = min(end, begin + CHUNK_BYTES)
        yield job_pb2.OutputChunk(payload=await _piece(archive, begin, behind), next=behind)
        begin = behind


async def _piece(archive: BinaryIO, begin: int, end: int) -> bytes:
    return await asyncio.to_thread(os.pread, archive.fileno(), end - begin, begin)


def _content(archive: BinaryIO, entry: Entry) -> bytes:
    return os.pread(archive.fileno(), entry.size, entry.content)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _missing(archive: BinaryIO) -> str:
    """What END says, in words; empty when nothing is missing. Raises ValueError when there is no END."""
    size = archive.seek(0, os.SEEK_END)
    begins = int.from_bytes(os.pread(archive.fileno(), _FOOTER_BYTES, size - _FOOTER_BYTES), "little")
    end = next(tree.entries(archive, begins), None)
    if end is None or end.kind is not Kind.END:
        raise InvalidArgument("not a tree of outputs: it has no end")
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
