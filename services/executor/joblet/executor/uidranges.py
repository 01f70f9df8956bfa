"""Which host uids (and gids) this executor may give to jobs, so that no two executors of a machine use the same.

The ids of a machine are cut into 256 chunks of 2^24. An executor owns a chunk while it holds a lock (flock(2)) on
/run/joblet/uid-ranges-K.lock, K being the chunk's number, and cuts its chunks into ranges of one job each. The kernel
drops the lock with the process; jobs outlive it, so the chunks are remembered in the state directory and asked for
first at the next start, and an executor never takes over a chunk in which processes still run. A clean stop without
running jobs removes the lock files.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from joblet.common.errors import ResourceExhausted

LOCK_DIRECTORY: Final = Path("/run/joblet")
CHUNK_IDS: Final = 1 << 24
_LAST_ID: Final = 2**32 - 2  # 2^32 - 1 is "no id" (chown(2))
_REMEMBERED: Final = "uid-chunks.json"


class UidRanges:
    """The chunks held by this process and the first ids of their ranges."""

    def __init__(self, size: int, chunks: tuple[int, ...], locks: dict[int, int], directory: Path) -> None:
        self.size = size
        self.chunks = chunks
        self._locks = locks
        self._directory = directory

    @property
    def bases(self) -> tuple[int, ...]:
        """The first id of each range, ascending."""
        return tuple(base for chunk in self.chunks for base in range_bases(chunk, self.size))

    def release(self, in_use: Iterable[int]) -> None:
        """Gives the chunks back; those with a base in `in_use` keep their lock file as a mark until the next start."""
        kept = {base // CHUNK_IDS for base in in_use}
        for chunk, lock in self._locks.items():
            if chunk not in kept:
                _lock_path(self._directory, chunk).unlink(missing_ok=True)
            os.close(lock)
        self._locks.clear()


def claim(
    first_id: int, size: int, count: int, state_dir: Path, directory: Path = LOCK_DIRECTORY, proc: Path = Path("/proc")
) -> UidRanges:
    """At least `count` ranges of `size` ids from `first_id` on; the chunks of the last run first.

    Raises ResourceExhausted when no chunk is left, OSError when the lock directory cannot be used.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    remembered = _remembered(state_dir)
    locks: dict[int, int] = {}
    room = 0
    try:
        for chunk in [*remembered, *(k for k in _chunks(first_id) if k not in remembered)]:
            if room >= count and chunk not in remembered:
                break
            lock = _lock(directory, chunk, own=chunk in remembered, proc=proc)
            if lock is not None:
                locks[chunk] = lock
                room += len(range_bases(chunk, size))
        if room < count:
            raise ResourceExhausted(
                f"no user id ranges left for {count} jobs from {first_id} on",
                hint=f"other executors of this machine hold them, see {directory}; or lower joblet.maxConcurrentJobs",
            )
        _remember(state_dir, list(locks))
    except BaseException:
        for chunk, lock in locks.items():
            _lock_path(directory, chunk).unlink(missing_ok=True)
            os.close(lock)
        raise
    return UidRanges(size, tuple(sorted(locks)), locks, directory)


def range_bases(chunk: int, size: int) -> range:
    """The first ids of the ranges of `size` ids that fit into a chunk."""
    end = min((chunk + 1) * CHUNK_IDS, _LAST_ID + 1)
    return range(chunk * CHUNK_IDS, end - size + 1, size)


def _chunks(first_id: int) -> range:
    return range(-(-first_id // CHUNK_IDS), (_LAST_ID // CHUNK_IDS) + 1)


def _lock_path(directory: Path, chunk: int) -> Path:
    return directory / f"uid-ranges-{chunk}.lock"


def _lock(directory: Path, chunk: int, *, own: bool, proc: Path) -> int | None:
    """The locked descriptor, or None when the chunk is another's."""
    path = _lock_path(directory, chunk)
    known = path.exists()
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The holder before us may have removed the file between our open and our lock: then the lock is worth nothing.
        current = path.stat().st_ino == os.fstat(lock).st_ino
    except (BlockingIOError, FileNotFoundError):
        current = False
    if current and (own or not known or not _used(chunk, proc)):
        return lock
    os.close(lock)
    return None


def _used(chunk: int, proc: Path) -> bool:
    """Whether a process runs under an id of the chunk: jobs of an executor that is not running now."""
    return any(uid // CHUNK_IDS == chunk for uid in _running_uids(proc))


def _running_uids(proc: Path) -> Iterator[int]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            # Not the directory's owner: that is root for a process that made itself non-dumpable (proc(5)).
            try:
                status = (entry / "status").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            yield from (int(line.split()[1]) for line in status.splitlines() if line.startswith("Uid:"))


def _remembered(state_dir: Path) -> list[int]:
    try:
        chunks = json.loads((state_dir / _REMEMBERED).read_text())
    except FileNotFoundError:
        return []
    return [int(chunk) for chunk in chunks]


def _remember(state_dir: Path, chunks: list[int]) -> None:
    new = state_dir / f"{_REMEMBERED}.new"
    new.write_text(json.dumps(chunks))
    new.replace(state_dir / _REMEMBERED)
