"""Directories of cgroups: making them with undo, seeing who is in them, emptying and removing them.

v1 has no event for "empty", so both versions wait by short, growing pauses with a bound.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from errno import EBUSY, ENODEV, ENOENT
from pathlib import Path

from joblet.executor.cgroup import files
from joblet.executor.cgroup.driver import CgroupError

REMOVE_SECONDS = 5.0
"""How long `remove` waits for processes that are already dying to leave."""
KILL_SECONDS = 5.0
"""How long `kill_all` waits until the last process is gone; one in an uninterruptible wait can take that long."""
_FIRST_PAUSE_SECONDS = 0.0005
_LONGEST_PAUSE_SECONDS = 0.05


def make(directories: Iterable[str], undo: ExitStack) -> None:
    """Makes the directories, and removes them again when `undo` unwinds. FileExistsError if one is there already."""
    made: list[str] = []
    undo.callback(_remove_all, made)
    for directory in directories:
        os.mkdir(directory, mode=0o755)  # noqa: PTH102 - for every job, and a Path costs as much as the call
        made.append(directory)


def rename(directories: Iterable[tuple[str, str]], undo: ExitStack) -> None:
    """Old and new names within their parents; removes them under the new ones when `undo` unwinds. FileExistsError if
    there is a new one already, FileNotFoundError if an old one is not there."""
    renamed: list[str] = []
    undo.callback(_remove_all, renamed)
    for directory, new in directories:
        os.rename(directory, new)  # noqa: PTH104 - as in `make`
        renamed.append(new)


def ensure(directory: str) -> None:
    """Makes the directory and what is missing above it."""
    Path(directory).mkdir(mode=0o755, parents=True, exist_ok=True)


def probe(directory: str) -> None:
    """OSError when no directory can be made here, although this one exists already."""
    trial = Path(directory, f".probe-{os.getpid()}")
    trial.mkdir(mode=0o755)
    trial.rmdir()


def exists(directory: str) -> bool:
    return Path(directory).is_dir()


def children(directory: str) -> list[str]:
    """Names of the jobs' cgroups in the directory; none when it is missing."""
    return [name for name in entries(directory) if not name.startswith(".")]


def entries(directory: str) -> list[str]:
    """Names of all cgroups in the directory, sorted; none when it is missing."""
    try:
        with os.scandir(directory) as found:
            return sorted(entry.name for entry in found if entry.is_dir())
    except FileNotFoundError:
        return []


def remove_unused(directories: Iterable[str]) -> None:
    """Removes those that hold neither processes nor directories, and leaves the others."""
    for directory in directories:
        _try_rmdir(directory)


def pids_in(directories: Iterable[str]) -> list[int]:
    """Processes of the cgroups, sorted; a directory that is gone has none. 0 is one outside of our pid namespace."""
    pids: set[int] = set()
    for directory in directories:
        try:
            pids.update(map(int, files.read(f"{directory}/cgroup.procs").split()))
        except OSError as error:
            if error.errno not in (ENOENT, ENODEV):  # ENODEV: removed between open and read
                raise
    return sorted(pids)


def remove(directories: Sequence[str], timeout_seconds: float = REMOVE_SECONDS) -> None:
    """Removes leaf directories, the missing ones are fine. CgroupError when processes stay in one."""
    deadline = time.monotonic() + timeout_seconds
    left = list(directories)

    def removed() -> bool:
        left[:] = [directory for directory in left if not _try_rmdir(directory)]
        return not left

    if not wait_until(removed, deadline):
        raise CgroupError(
            f"cgroup {left[0]} cannot be removed: {_inhabitants(left)}", hint="the processes of the job must end first"
        )


def discard(directories: Sequence[str]) -> None:
    """Kills what is in the leaf directories and removes them; missing ones are fine."""
    there = [directory for directory in directories if exists(directory)]
    if there:
        kill_all(there)
        remove(there)


def kill_all(directories: Sequence[str]) -> None:
    """SIGKILL for every process in the leaf directories. CgroupError when some are left after KILL_SECONDS.

    Forks are forbidden first, so two rounds are enough. v2 kills at once (cgroup.kill, since 5.14); otherwise each
    process is pinned by a pidfd and looked up again before the signal, so a number that was reused is not hit.
    """
    for directory in directories:
        _write_if_there(f"{directory}/pids.max", "0")
        _write_if_there(f"{directory}/cgroup.kill", "1")

    def emptied() -> bool:
        for pid in pids_in(directories):
            _kill_member(pid, directories)
        return not pids_in(directories)

    if not wait_until(emptied, time.monotonic() + KILL_SECONDS):
        raise CgroupError(f"cgroup {directories[0]} cannot be emptied: {_inhabitants(directories)}")


def wait_until(done: Callable[[], bool], deadline: float) -> bool:
    """Calls `done` until it is true; false when the monotonic deadline is over first."""
    pause_seconds = _FIRST_PAUSE_SECONDS
    while not done():
        remaining_seconds = deadline - time.monotonic()
        if remaining_seconds <= 0:
            return False
        time.sleep(min(pause_seconds, remaining_seconds))
        pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
    return True


def _try_rmdir(directory: str) -> bool:
    try:
        _remove_if_there(directory)
    except OSError as error:
        if error.errno == EBUSY:
            return False
        raise CgroupError.refused(error, f"removing {directory}") from error
    return True


def _remove_all(directories: Iterable[str]) -> None:
    for directory in directories:
        _remove_if_there(directory)


def _remove_if_there(directory: str) -> None:
    with suppress(FileNotFoundError):
        os.rmdir(directory)  # noqa: PTH106 - as in `make`


def _write_if_there(path: str, text: str) -> None:
    try:
        files.write(path, text)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CgroupError.refused(error, f"writing {text} to {path}") from error


def _kill_member(pid: int, directories: Iterable[str]) -> None:
    if pid == 0:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if pid in pids_in(directories):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _inhabitants(directories: Iterable[str]) -> str:
    pids = pids_in(directories)
    if not pids:
        return "it is busy although no process is in it"
    return f"processes {', '.join(map(str, pids))} are in it"
