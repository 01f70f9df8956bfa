# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH116
# (pathlib has no calls that are relative to a directory's descriptor)
"""The directory of log files: one directory per job, named by the job's id, holding its output and its index.

    DIR/<job id>/output    the job's bytes exactly as it wrote them, from byte 0; nothing else is ever in this file
    DIR/<job id>/sealed    instead of `output` some time after the end: compressed and checksummed (format: sealed.py)
    DIR/<job id>/index     which byte was there when, and the end of the output (format: index.py)
    DIR/<job id>/archived  when `sealed` has been copied to the archive: to which one
    DIR/spare-<hex>/...    no job's log yet (spares.py)

The logstore creates the files and hands descriptors of them to the executor, which passes them to the job's init, the
only writer. `index` comes into being by a rename, after `output`: a log exists when its index does. Deleting goes the
other way round. A process killed in between leaves a directory without an index, which `sweep` removes at the next
start. `sealed` comes by a rename, too, when all of it is on the disk, and `output` goes after that: at every moment
there is one of them, and when there are both they say the same.

Nothing here is reached through a path that others could have changed: everything is opened relative to a descriptor of
its directory, without following symbolic links, and only job ids that have the form of an id become names. Directories
have mode 0700, files 0600. All calls block on the disk; the server makes them in threads. What could come into each
other's way is done by one at a time: making, naming, ending and deleting logs. Sealing concerns logs that have ended,
and its caller keeps it apart from deleting.
"""

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from joblet.common.errors import FailedPrecondition, InvalidArgument, JobNotFound
from joblet.common.ids import is_job_id
from joblet.logstore import indexheader
from joblet.logstore.directory import INDEX, OUTPUT, exists, new_index, open_file, opened, opened_directory, status
from joblet.logstore.hole import punch_hole
from joblet.logstore.index import Entry, IndexReader, Kind, append, encode, mend
from joblet.logstore.indexheader import BLOCK_SIZE
from joblet.logstore.spares import Spares

SEALED = "sealed"
SEALED_UNBORN = "sealed.new"
ARCHIVED = "archived"
INDEX_UNBORN = "index.new"

_STAT_BLOCK_SIZE = 512  # bytes in st_blocks, stat(2)


@dataclass(frozen=True, slots=True)
class LogFiles:
    """Descriptors of one job's two files; whoever gets them closes them."""

    output: int
    index: int
    sealed: bool = False
    """`output` is the sealed file."""

    def close(self) -> None:
        os.close(self.output)
        os.close(self.index)


@dataclass(frozen=True, slots=True)
class LogSize:
    total_bytes: int
    ended: bool


@dataclass(frozen=True, slots=True)
class LogState:
    """What there is of one log, and what was done with it."""

    job_id: str
    total_bytes: int  # that the job wrote
    first: int  # byte that is kept
    disk_bytes: int
    ended_ns: int | None  # CLOCK_REALTIME
    sealed: bool
    archive: str  # its URL when there is a copy in it, else empty
    waiting: bool  # the job waits for room on the disk


@dataclass(frozen=True, slots=True)
class Sealing:
    """Descriptors of a log that is being sealed, and what of it. Whoever gets them closes them."""

    output: int
    index: int
    into: int
    first: int
    end: int

    def close(self) -> None:
        for fd in (self.output, self.index, self.into):
            os.close(fd)


class LogDirectory:
    """All logs of this node, and the `spares`. The directory is created (0700) when it is missing."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._changing = threading.Lock()
        self.spares = Spares(self._fd, self._changing)

    def close(self) -> None:
        os.close(self._fd)

    def open_for_writing(self, job_id: str) -> LogFiles:
        """Descriptors for the job's init: `output` O_WRONLY (splice(2) refuses O_APPEND), `index` O_APPEND.

        Creates the log when it is not there yet; asked again it gives the same files. FailedPrecondition when the
        output has ended.
        """
        with self._changing:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_name(job_id), 0o700, dir_fd=self._fd)
            with self._job_directory(job_id) as directory, ExitStack() as undo:
                if exists(directory, INDEX) and _index(directory).ended:
                    raise FailedPrecondition(f"the output of job {job_id} has ended")
                output = open_file(directory, OUTPUT, os.O_WRONLY | os.O_CREAT)
                undo.callback(os.close, output)
                if not exists(directory, INDEX):
                    _create_index(directory)
                index = open_file(directory, INDEX, os.O_WRONLY | os.O_APPEND)
                undo.pop_all()
                return LogFiles(output, index)

    def name_spare(self, spare: str, job_id: str) -> None:
        """The spare becomes the job's log. Asked again it does nothing: the spare is gone and the log is there.

        A log of an earlier attempt, which never wrote, is replaced. FailedPrecondition when it did or has ended, or
        when there is neither the spare nor a log.
        """
        name = _name(job_id)
        with self._changing:
            try:
                self.spares.rename(spare, name, lambda: self._remove_unwritten(job_id))
            except FileNotFoundError:
                if not exists(self._fd, name):
                    raise FailedPrecondition(f"there is no spare log {spare}") from None

    def open_for_reading(self, job_id: str) -> LogFiles:
        with self._job_directory(job_id) as directory, ExitStack() as undo:
            try:
                index = open_file(directory, INDEX, os.O_RDONLY)
                undo.callback(os.close, index)
                # In this order: `sealed` is there before `output` goes.
                output, sealed = _open_first(directory, OUTPUT, SEALED)
            except FileNotFoundError:
                raise JobNotFound(job_id) from None
            undo.pop_all()
            return LogFiles(output, index, sealed)

    def size(self, job_id: str) -> LogSize:
        state = self.state(job_id)
        return LogSize(state.total_bytes, state.ended_ns is not None)

    def state(self, job_id: str) -> LogState:
        """Raises JobNotFound, IndexDamaged."""
        with self._job_directory(job_id) as directory:
            try:
                with opened(directory, INDEX, os.O_RDONLY) as index:
                    reader = IndexReader.at_tail(index)
                    reader.poll()
                    first, index_blocks = indexheader.first(index), os.fstat(index).st_blocks
                sealed = not exists(directory, OUTPUT)
                output = status(directory, SEALED if sealed else OUTPUT)
            except FileNotFoundError:
                raise JobNotFound(job_id) from None
            end = reader.last if reader.ended else None
            return LogState(
                job_id,
                total_bytes=end.total_bytes if sealed and end is not None else output.st_size,
                first=first,
                disk_bytes=(output.st_blocks + index_blocks) * _STAT_BLOCK_SIZE,
                ended_ns=None if end is None else end.time_ns,
                sealed=sealed,
                archive=_read_text(directory, ARCHIVED),
                waiting=end is None and bool(output.st_mode & stat.S_ISVTX),
            )

    def job_ids(self) -> list[str]:
        return [name for name in sorted(os.listdir(self._fd)) if is_job_id(name)]

    def room(self) -> int:
        """Bytes of the filesystem that a job can still write."""
        filesystem = os.fstatvfs(self._fd)
        return filesystem.f_bfree * filesystem.f_frsize

    def finish(self, job_id: str) -> int:
        """Appends the end that a killed init could not append, and returns the size of the output in bytes.

        Only for a log whose init is gone. Does nothing to a log that has ended already.
        """
        with self._changing, self._job_directory(job_id) as directory, ExitStack() as stack:
            try:
                index = stack.enter_context(opened(directory, INDEX, os.O_RDWR | os.O_APPEND))
                reader = mend(index)
                if reader.ended and reader.last is not None:
                    return reader.last.total_bytes
                size = os.fstat(stack.enter_context(opened(directory, OUTPUT, os.O_RDONLY))).st_size
            except FileNotFoundError:
                raise JobNotFound(job_id) from None
            append(index, encode(Entry(size, time.time_ns(), Kind.END)))
            return size

    def discard(self, job_id: str, is_wanted: Callable[[], bool]) -> None:
        """Removes the log, if there is one, of a job that has never run. FailedPrecondition when something has been
        written to it, or its end, or when it is not wanted any more; nobody gets the log between that and the removal.
        """
        with self._changing, contextlib.suppress(JobNotFound):
            if not is_wanted():
                raise FailedPrecondition("who asked for it is gone")
            self._remove_unwritten(job_id)

    def delete(self, job_id: str) -> None:
        """Removes a job's output. Who reads it at that moment reads on. FailedPrecondition before the output's end."""
        with self._changing:
            if not self.size(job_id).ended:
                raise FailedPrecondition(f"the output of job {job_id} is still being written")
            self._remove(job_id)

    def remove_front(self, job_id: str, first: int) -> int:
        """Gives the room of all output before byte `first` back; `first` is rounded down to a block.

        Returns the bytes removed. What is removed is never readable again, in this log or a sealed one of it. Only for
        a log that is not sealed.
        """
        with (
            self._job_directory(job_id) as directory,
            opened(directory, INDEX, os.O_RDWR) as index,
            opened(directory, OUTPUT, os.O_WRONLY) as output,
        ):
            before, after = indexheader.first(index), first - first % BLOCK_SIZE
            if after <= before:
                return 0
            os.pwrite(index, indexheader.header(after), 0)
            os.fdatasync(index)
            punch_hole(output, after)
            return after - before

    def begin_sealing(self, job_id: str) -> Sealing:
        """Raises FailedPrecondition before the end of the output, JobNotFound also for a log that is sealed already."""
        with self._job_directory(job_id) as directory, ExitStack() as undo:
            try:
                output = open_file(directory, OUTPUT, os.O_RDONLY)
                undo.callback(os.close, output)
                index = open_file(directory, INDEX, os.O_RDONLY)
                undo.callback(os.close, index)
            except FileNotFoundError:
                raise JobNotFound(job_id) from None
            end = _index(directory)
            if not end.ended or end.last is None:
                raise FailedPrecondition(f"the output of job {job_id} has not ended")
            into = open_file(directory, SEALED_UNBORN, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            undo.pop_all()
            return Sealing(output, index, into, indexheader.first(index), end.last.total_bytes)

    def commit_sealing(self, job_id: str) -> None:
        """What was written to `Sealing.into`, all of it on the disk, takes the place of the output."""
        with self._job_directory(job_id) as directory:
            os.rename(SEALED_UNBORN, SEALED, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
            os.unlink(OUTPUT, dir_fd=directory)

    def abandon_sealing(self, job_id: str) -> None:
        with self._job_directory(job_id) as directory, contextlib.suppress(FileNotFoundError):
            os.unlink(SEALED_UNBORN, dir_fd=directory)

    def sealed_path(self, job_id: str) -> Path:
        """Where the sealed file lies, to be copied."""
        return self._path / _name(job_id) / SEALED

    def mark_archived(self, job_id: str, url: str) -> None:
        """A mark cut short names no archive: the log is copied once more then."""
        with (
            self._job_directory(job_id) as directory,
            opened(directory, ARCHIVED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd,
        ):
            os.write(fd, url.encode())

    def sweep(self) -> list[str]:
        """Removes what an interrupted creation or deletion left behind, before anybody is served; returns the ids."""
        swept = []
        for name in self.job_ids():
            with self._job_directory(name) as directory:
                complete = exists(directory, INDEX)
                _finish_sealing(directory)
            if not complete:
                self._remove(name)
                swept.append(name)
        return swept

    def _remove_unwritten(self, job_id: str) -> None:
        """Whoever reads it at that moment sees that it is gone (WatchedLog.removed)."""
        with self._job_directory(job_id) as directory:
            if exists(directory, INDEX):
                if _index(directory).ended:
                    raise FailedPrecondition(f"the output of job {job_id} has ended")
                if status(directory, OUTPUT).st_size:
                    raise FailedPrecondition(f"job {job_id} has written output already")
        self._remove(job_id)

    def _remove(self, job_id: str) -> None:
        with self._job_directory(job_id) as directory:
            for name in (INDEX, INDEX_UNBORN, OUTPUT, SEALED_UNBORN, SEALED, ARCHIVED):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)
        os.rmdir(_name(job_id), dir_fd=self._fd)

    @contextmanager
    def _job_directory(self, job_id: str) -> Iterator[int]:
        with ExitStack() as stack:
            try:
                directory = stack.enter_context(opened_directory(self._fd, _name(job_id)))
            except FileNotFoundError:
                raise JobNotFound(job_id) from None
            yield directory


def _name(job_id: str) -> str:
    """The id itself, which becomes a file name here and nowhere else."""
    if not is_job_id(job_id):
        raise InvalidArgument(f"invalid job id: {job_id[:64]!r}", field="job_id")
    return job_id


def _open_first(directory: int, name: str, other: str) -> tuple[int, bool]:
    """One of two files, for reading, and whether it is the other one."""
    try:
        return open_file(directory, name, os.O_RDONLY), False
    except FileNotFoundError:
        return open_file(directory, other, os.O_RDONLY), True


def _finish_sealing(directory: int) -> None:
    """`sealed` is complete when it is there, `sealed.new` may not be."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SEALED_UNBORN, dir_fd=directory)
    if exists(directory, SEALED):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(OUTPUT, dir_fd=directory)


def _index(directory: int) -> IndexReader:
    """Has seen the newest entry."""
    with opened(directory, INDEX, os.O_RDONLY) as fd:
        reader = IndexReader.at_tail(fd)
        reader.poll()
        return reader


def _read_text(directory: int, name: str) -> str:
    """Empty when there is no such file."""
    try:
        with opened(directory, name, os.O_RDONLY) as fd:
            return os.read(fd, 4096).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _create_index(directory: int) -> None:
    os.close(new_index(directory, INDEX_UNBORN, os.O_TRUNC))
    os.rename(INDEX_UNBORN, INDEX, src_dir_fd=directory, dst_dir_fd=directory)
