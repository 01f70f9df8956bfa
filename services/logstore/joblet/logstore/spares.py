# ruff: noqa: PTH102, PTH104, PTH106, PTH108
# (pathlib has no calls that are relative to a directory's descriptor)
"""Logs made ahead of their jobs: complete, empty, already in the executor's hands, and nobody's yet.

    DIR/spare-<16 hex digits>/output, index     as in a log (layout.py)

The executor asks for a few at a time and holds both descriptors of each. A job gets one at once; the spare gets the
job's name, by one rename of its directory (LogDirectory.name_spare), while the job is being started, and no command is
told to go before that. A spare is no log: its name is no job id, so it is never listed, read, sealed, counted or
deleted as one.

Who may still name a spare is known from a lock (flock(2)) on its `output`. It belongs to the open file that was handed
out and so lasts for as long as anybody holds that: the executor, the init it was passed to, a message on its way
between two processes. Nothing has to be told or remembered, and a spare that nobody holds is removed at the next look
(`sweep`: at the start, and by the Keeper every second). So after `kill -9`

* of the logstore while it makes spares: what it was making is held by nobody and goes at the next start. What it had
  sent is held, stays, and can be named by the next logstore.
* of the logstore before, while or after it names a spare: a rename happens or not. The executor asks again; a spare
  that is gone and a log that is there mean that it has happened.
* of the executor with spares in stock: its descriptors close, all of them go.
* of the executor after it gave a spare to a job: the job's init leaves, its command has not run. A spare that was named
  is the job's log, empty, and a second attempt to start the job replaces it. One that was not named goes when init has
  left, and is not named any more, however late the request is seen. Had the command been told to go, then the spare had
  its name.
* of both: the two cases come together, whichever of them starts first.
* of init: the log is the job's or, before that, the executor still holds the spare and names it.

After a loss of power everything is held by nobody.
"""

import errno
import fcntl
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from joblet.common.errors import InvalidArgument
from joblet.common.log import get_logger
from joblet.logstore.directory import INDEX, OUTPUT, new_index, open_file, opened, opened_directory

_PREFIX = "spare-"
_RANDOM_BYTES = 8
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{{2 * _RANDOM_BYTES}}}", re.ASCII)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Spare:
    """`output` and `index` are opened as for a job's init; whoever gets them closes them."""

    name: str
    output: int
    index: int

    def close(self) -> None:
        os.close(self.output)
        os.close(self.index)


class Spares:
    """Those in the directory `fd`. `changing` is held while something in it is made, renamed or removed."""

    def __init__(self, fd: int, changing: threading.Lock) -> None:
        self._fd = fd
        self._changing = changing
        self._names = {name for name in os.listdir(fd) if _NAME.fullmatch(name)}

    def __len__(self) -> int:
        return len(self._names)

    def make(self) -> Spare:
        """Raises OSError; what there is of the spare then goes with the next `sweep`."""
        name = _PREFIX + os.urandom(_RANDOM_BYTES).hex()
        with self._changing:
            self._names.add(name)
            os.mkdir(name, 0o700, dir_fd=self._fd)
            with opened_directory(self._fd, name) as directory:
                output = open_file(directory, OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                try:
                    fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return Spare(name, output, new_index(directory, INDEX, os.O_EXCL))
                except BaseException:
                    os.close(output)
                    raise

    def rename(self, name: str, job_id: str, make_way: Callable[[], None]) -> None:
        """To the name of a job's log, while `changing` is held; `make_way` is called when there is one already.

        Raises FileNotFoundError when there is no such spare that somebody holds, InvalidArgument for what is no spare's
        name.
        """
        if _NAME.fullmatch(name) is None:
            raise InvalidArgument(f"invalid name of a spare log: {name[:64]!r}", field="spare")
        if not self._is_held(name):  # asked for by an executor that is gone: its job may have another log by now
            raise FileNotFoundError(errno.ENOENT, "nobody holds the spare log", name)
        try:
            os.rename(name, job_id, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            make_way()
            os.rename(name, job_id, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self._names.discard(name)

    def sweep(self) -> int:
        """Removes the spares that nobody can name any more; how many. What cannot be removed is left alone for good."""
        swept = 0
        for name in list(self._names):
            with self._changing:
                try:
                    if name in self._names and not self._is_held(name):
                        self._remove(name)
                        self._names.discard(name)
                        swept += 1
                except OSError as error:
                    self._names.discard(name)
                    log.error("spare log is left alone", name=name, error=error)
        return swept

    def _is_held(self, name: str) -> bool:
        try:
            with opened_directory(self._fd, name) as directory, opened(directory, OUTPUT, os.O_RDONLY) as output:
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError), opened_directory(self._fd, name) as directory:
            for file in os.listdir(directory):
                os.unlink(file, dir_fd=directory)
            os.rmdir(name, dir_fd=self._fd)
