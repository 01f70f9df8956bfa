# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH116
# (pathlib has no calls that are relative to a directory's descriptor)
"""The directory of log files: one directory per job, named by the job's id, holding its two files.

    DIR/<job id>/output    the job's bytes exactly as it wrote them, from byte 0; nothing else is ever in this file
    DIR/<job id>/index     which byte was there when, and the end of the output (format: index.py)

The logstore creates the files and hands descriptors of them to the executor, which passes them to the job's init, the
only writer. `index` comes into being by a rename, after `output`: a log exists when its index does. Deleting goes the
other way round. A process killed in between leaves a directory without an index, which `sweep` removes at the next
start.

Nothing here is reached through a path that others could have changed: everything is opened relative to a descriptor of
its directory, without following symbolic links, and only job ids that have the form of an id become names. Directories
have mode 0700, files 0600. All calls block on the disk; the server makes them in a thread.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from joblet.common.errors import FailedPrecondition, InvalidArgument, JobNotFound
from joblet.common.ids import is_job_id
from joblet.logstore.index import HEADER, Entry, IndexReader, Kind, append, encode, mend

OUTPUT = "output"
INDEX = "index"
INDEX_UNBORN = "index.new"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class LogFiles:
    """Descriptors of one job's two files; whoever gets them closes them."""

    output: int
    index: int

    def close(self) -> None:
        os.close(self.output)
        os.close(self.index)


@dataclass(frozen=True, slots=True)
class LogSize:
    total_bytes: int
    ended: bool


class LogDirectory:
    """All logs of this node. The directory is created (0700) when it is missing."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._fd)

    def open_for_writing(self, job_id: str) -> LogFiles:
        """Descriptors for the job's init: `output` O_WRONLY (splice(2) refuses O_APPEND), `index` O_APPEND.

        Creates the log when it is not there yet; asked again it gives the same files. FailedPrecondition when the
        output has ended.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(_name(job_id), 0o700, dir_fd=self._fd)
        with self._job_directory(job_id) as directory, ExitStack() as undo:
            output = _open(directory, OUTPUT, os.O_WRONLY | os.O_CREAT)
            undo.callback(os.close, output)
            if not _exists(directory, INDEX):
                _create_index(directory)
            with _opened(directory, INDEX, os.O_RDONLY) as fd:
                reader = IndexReader.at_tail(fd)
                reader.poll()
            if reader.ended:
                raise FailedPrecondition(f"the output of job {job_id} has ended")
            index = _open(directory, INDEX, os.O_WRONLY | os.O_APPEND)
            undo.pop_all()
            return LogFiles(output, index)

    def open_for_reading(self, job_id: str) -> LogFiles:
        with self._job_directory(job_id) as directory, ExitStack() as undo:
            try:
                index = _open(directory, INDEX, os.O_RDONLY)
                undo.callback(os.close, index)
                output = _open(directory, OUTPUT, os.O_RDONLY)
            except FileNotFoundError:
                raise JobNotFound(job_id) from None
            undo.pop_all()
            return LogFiles(output, index)

    def size(self, job_id: str) -> LogSize:
        files = self.open_for_reading(job_id)
        with contextlib.closing(files):
            reader = IndexReader.at_tail(files.index)
            reader.poll()
            return LogSize(os.fstat(files.output).st_size, reader.ended)

    def finish(self, job_id: str) -> int:
        """Appends the end that a killed init could not append, and returns the size of the output in bytes.

        Only for a log whose init is gone. Does nothing to a log that has ended already.
        """
        with self._job_directory(job_id) as directory, ExitStack() as stack:
            try:
                index = stack.enter_context(_opened(directory, INDEX, os.O_RDWR | os.O_APPEND))
                output = stack.enter_context(_opened(directory, OUTPUT, os.O_RDONLY))
            except FileNotFoundError:
                raise JobNotFound(job_id) from None
            reader = mend(index)
            if reader.ended and reader.last is not None:
                return reader.last.total_bytes
            size = os.fstat(output).st_size
            append(index, encode(Entry(size, time.time_ns(), Kind.END)))
            return size

    def delete(self, job_id: str) -> None:
        """Removes a job's output. Who reads it at that moment reads on. FailedPrecondition before the output's end."""
        if not self.size(job_id).ended:
            raise FailedPrecondition(f"the output of job {job_id} is still being written")
        self._remove(job_id)

    def sweep(self) -> list[str]:
        """Removes what an interrupted creation or deletion left behind, before anybody is served; returns the ids."""
        swept = []
        for name in sorted(os.listdir(self._fd)):
            if not is_job_id(name):
                continue
            with self._job_directory(name) as directory:
                complete = _exists(directory, INDEX)
            if not complete:
                self._remove(name)
                swept.append(name)
        return swept

    def _remove(self, job_id: str) -> None:
        with self._job_directory(job_id) as directory:
            for name in (INDEX, INDEX_UNBORN, OUTPUT):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)
        os.rmdir(_name(job_id), dir_fd=self._fd)

    @contextmanager
    def _job_directory(self, job_id: str) -> Iterator[int]:
        try:
            fd = os.open(_name(job_id), _DIRECTORY, dir_fd=self._fd)
        except FileNotFoundError:
            raise JobNotFound(job_id) from None
        try:
            yield fd
        finally:
            os.close(fd)


def _name(job_id: str) -> str:
    """The id itself, which becomes a file name here and nowhere else."""
    if not is_job_id(job_id):
        raise InvalidArgument(f"invalid job id: {job_id[:64]!r}", field="job_id")
    return job_id


def _open(directory: int, name: str, flags: int) -> int:
    return os.open(name, flags | _FILE, 0o600, dir_fd=directory)


@contextmanager
def _opened(directory: int, name: str, flags: int) -> Iterator[int]:
    fd = _open(directory, name, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _create_index(directory: int) -> None:
    with _opened(directory, INDEX_UNBORN, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND) as fd:
        append(fd, HEADER)
    os.rename(INDEX_UNBORN, INDEX, src_dir_fd=directory, dst_dir_fd=directory)
