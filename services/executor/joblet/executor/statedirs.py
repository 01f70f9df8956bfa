"""The directories in which inits leave their exit records: one per job, named by its id, below JOBS.

A job's directory is not removed when the job is over but moved to SPARE, where it waits for the next one. The record
in it then has its temporary name, which nobody reads and which the next init writes over (`record.c`). Renaming costs
little on every file system; making and removing inodes does not: ext4 without a journal, for instance, passes one by
one over all that were freed within the last minutes, which at 100 jobs/s is a millisecond for each new directory.

Only a directory whose init was seen to end is used again: one that is about to leave may still write its record. Inits
of an executor that was killed are told by a lock: it belongs to the open directory (flock(2)) that init was handed, so
it lasts as long as init does. A kill at any point leaves a job's directory whole, here or there. `remove` may be called
from any thread.
"""

import fcntl
import os
import shutil
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from joblet.common.errors import Unavailable
from joblet.executor import exitrecord

MOST_SPARE: Final = 256
_JOBS: Final = "jobs"
_SPARE: Final = "spare"


class StateDirectories:
    """Those below `path`, the executor's own state directory; both of its directories are made when missing."""

    def __init__(self, path: Path) -> None:
        self._jobs = path / _JOBS
        self._spare = path / _SPARE
        for directory in (self._jobs, self._spare):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._waiting = deque(sorted(entry.name for entry in self._spare.iterdir()))
        self._left: set[str] = set()

    def path(self, job_id: str) -> Path:
        return self._jobs / job_id

    def job_ids(self) -> list[str]:
        """Whose directories there are."""
        return [directory.name for directory in self._jobs.iterdir()]

    def make(self, job_id: str) -> int:
        """A directory without a record, open for init; the caller closes it. What a crash may have left of an earlier
        attempt with this job goes; Unavailable while the init of that attempt is still there."""
        path = f"{self._jobs}/{job_id}"  # for every job, and a Path costs as much as the call
        if os.path.exists(path):  # noqa: PTH110
            _clear(path)
        self._take(path)
        return _open_locked(path, fcntl.LOCK_SH)

    def init_left(self, job_id: str) -> None:
        """Nobody writes into this directory any more."""
        self._left.add(job_id)

    def remove(self, job_id: str) -> None:
        """The job is over; nothing of its record can be read any more. Raises OSError."""
        path = f"{self._jobs}/{job_id}"
        if job_id not in self._left:
            shutil.rmtree(path)
            return
        self._left.discard(job_id)
        with suppress(FileNotFoundError):
            os.rename(f"{path}/{exitrecord.NAME}", f"{path}/{exitrecord.TEMPORARY_NAME}")  # noqa: PTH104
        if len(self._waiting) < MOST_SPARE and set(os.listdir(path)) <= {exitrecord.TEMPORARY_NAME}:
            name = os.urandom(16).hex()  # of the job, which may be deleted, nothing stays
            os.rename(path, f"{self._spare}/{name}")  # noqa: PTH104
            self._waiting.append(name)
        else:
            shutil.rmtree(path)

    def _take(self, path: str) -> None:
        try:
            name = self._waiting.popleft()
        except IndexError:
            os.mkdir(path, mode=0o700)  # noqa: PTH102
            return
        try:
            os.rename(f"{self._spare}/{name}", path)  # noqa: PTH104
        except BaseException:
            self._waiting.appendleft(name)
            raise


def _clear(path: str) -> None:
    try:
        directory = _open_locked(path, fcntl.LOCK_EX)
    except BlockingIOError:
        raise Unavailable("an earlier attempt to start this job is still ending") from None
    try:
        shutil.rmtree(path)
    finally:
        os.close(directory)


def _open_locked(path: str, lock: int) -> int:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, lock | fcntl.LOCK_NB)
    except BaseException:
        os.close(directory)
        raise
    return directory
