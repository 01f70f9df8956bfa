"""What happens to logs besides being read: noticing their end and full disks, sealing, copying, removing.

One Keeper per process. It knows the state of every log, first from the directory and then from looking again at those
that are being written; nothing of it has to survive a restart. Everything that blocks runs in threads: what sealing,
copying and deleting change in a log's directory in `disk`, the rest in threads of its own. Nobody waits for it but who
deletes a log that is being sealed or copied at that moment.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar
from weakref import WeakValueDictionary

from joblet.common.config import LogstoreConfig
from joblet.common.errors import JobletError, JobNotFound
from joblet.common.log import get_logger
from joblet.common.units import KIB, NS_PER_SECOND
from joblet.logstore import metrics
from joblet.logstore.archive import Archive
from joblet.logstore.diskroom import DiskRoom
from joblet.logstore.layout import LogDirectory, LogState
from joblet.logstore.readers import RETURN_SECONDS, Readers
from joblet.logstore.retention import Limits, Reason, front, removals
from joblet.logstore.sealed import seal

LOOK_SECONDS = 1.0  # between two looks at the logs that are being written
LOOK_SOON_SECONDS = 0.1  # while a job waits for room, or writes a log whose size is limited
ROOM_SECONDS = 5.0  # after logs were removed for room: a filesystem takes a while to give it back
RETRY_SECONDS = (1.0, 300.0)  # after a log could not be sealed or copied: the first pause, doubled up to the longest
NICE = 10  # sealing takes the processor that nobody else wants

T = TypeVar("T")

log = get_logger(__name__)


class Keeper:
    """`opened` may be called from any thread, all else belongs to the event loop."""

    def __init__(
        self, logs: LogDirectory, readers: Readers, disk: Executor, config: LogstoreConfig, archive: Archive | None
    ) -> None:
        self._logs = logs
        self._readers = readers
        self._disk = disk
        self._archive = archive
        self._limits = Limits.of(config.retention)
        self._hold_seconds = config.retention.reader_hold_seconds
        self._seal_after_ns = round(config.seal_after_seconds * NS_PER_SECOND)
        self._seal_bytes = 0 if archive is not None else config.seal_min_kb * KIB  # what is archived must be sealed
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._sealing = ThreadPoolExecutor(1, thread_name_prefix="seal", initializer=_be_nice)
        self._stopping = threading.Event()
        self._new: SimpleQueue[str] = SimpleQueue()
        self._known: dict[str, LogState] = {}
        self._writing: set[str] = set()
        self._unsealed: set[str] = set()  # that are to be sealed, now or later
        self._due: dict[str, tuple[int, float]] = {}  # fronts to remove, and since when: monotonic seconds
        self._seal_again: dict[str, tuple[float, float]] = {}  # after a failure: when, monotonic; seconds waited for it
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._surveyed = False  # what there was at the start is known
        self._room = DiskRoom()
        self._remove_again = 0.0  # monotonic seconds
        self._readers_back = time.monotonic() + min(self._hold_seconds, RETURN_SECONDS)

    def opened(self, job_id: str) -> None:
        """Somebody was given the log's files to write to."""
        self._new.put(job_id)

    def close(self) -> None:
        self._stopping.set()
        self._looking.shutdown()
        self._sealing.shutdown()

    async def run(self) -> None:
        """Until it is cancelled."""
        await self._look_at(await self._look(self._logs.job_ids))
        self._surveyed = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._seal_all())
            if self._archive is not None:
                group.create_task(self._copy_all(self._archive))

    async def delete(self, job_id: str) -> None:
        """Removes every copy. Raises FailedPrecondition before the output's end, Unavailable without the archive; then
        the log is there as before, or at least in the archive."""
        async with self._lock(job_id):
            try:
                await self._change(self._logs.delete, job_id)
                found = True
            except JobNotFound:
                found = False
            self._forget(job_id)
            if self._archive is not None:
                found = await self._archive.delete(job_id) or found
        if not found:
            raise JobNotFound(job_id)

    # --- looking --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            before = sum(self._known[job_id].total_bytes for job_id in self._writing)
            await self._look_at([*self._take_new(), *self._writing])
            await self._remove_fronts()
            await self._remove_ended()
            await self._remove_spares()
            after = sum(self._known[job_id].total_bytes for job_id in self._writing)
            grows = bool(self._limits.job_bytes) and before != after
            await asyncio.sleep(LOOK_SOON_SECONDS if grows or self._room.is_full else LOOK_SECONDS)

    def _take_new(self) -> Iterable[str]:
        try:
            while True:
                yield self._new.get_nowait()
        except Empty:
            return

    async def _look_at(self, job_ids: Iterable[str]) -> None:
        for job_id, state in await self._look(self._states, sorted(set(job_ids))):
            if state is None:
                self._forget(job_id)
                continue
            if job_id in self._known:
                metrics.BYTES_WRITTEN.inc(state.total_bytes - self._known[job_id].total_bytes)
            elif self._surveyed:
                metrics.BYTES_WRITTEN.inc(state.total_bytes)
            self._known[job_id] = state
            target = front(state, self._limits)
            if target is not None:
                self._due.setdefault(job_id, (target, time.monotonic()))
            _keep(self._writing, job_id, state.ended_ns is None)
            _keep(self._unsealed, job_id, self._is_worth_sealing(state))
        metrics.LAG.set(max(map(self._lag, self._writing), default=0))
        self._room.seen([name for name in self._writing if self._known[name].waiting], self._logs.room())

    def _lag(self, job_id: str) -> int:
        lowest, total_bytes = self._readers.lowest(job_id), self._known[job_id].total_bytes
        return 0 if lowest is None else max(0, total_bytes - lowest)

    def _states(self, job_ids: Iterable[str]) -> list[tuple[str, LogState | None]]:
        return [(job_id, self._state(job_id)) for job_id in job_ids]

    def _state(self, job_id: str) -> LogState | None:
        """None for a log that is gone, and for one that is damaged: it stays as it is."""
        try:
            return self._logs.state(job_id)
        except JobNotFound:
            return None
        except (JobletError, OSError) as error:
            log.error("log is left alone", jobId=job_id, error=error)
            return None

    def _forget(self, job_id: str) -> None:
        self._known.pop(job_id, None)
        self._writing.discard(job_id)
        self._unsealed.discard(job_id)
        self._due.pop(job_id, None)
        self._seal_again.pop(job_id, None)

    # --- removing -------------------------------------------------------------------------------------------------

    async def _remove_fronts(self) -> None:
        for job_id, (target, since) in list(self._due.items()):
            now = time.monotonic()
            held = self._readers.any_before(job_id, target)
            if now < self._readers_back or (held and now - since < self._hold_seconds):
                continue
            del self._due[job_id]
            await self._remove_front(job_id, target, lost=held)

    async def _remove_front(self, job_id: str, target: int, *, lost: bool) -> None:
        try:
            removed = await self._look(self._logs.remove_front, job_id, target)
        except (JobletError, OSError) as error:
            log.error("front of a log could not be removed", jobId=job_id, error=error)
            return
        metrics.REMOVED_BYTES.labels(Reason.SIZE).inc(removed)
        log.info("front of a log removed", jobId=job_id, bytes=removed, firstByte=target, readersBehind=lost)
        await self._look_at([job_id])

    async def _remove_ended(self) -> None:
        if time.monotonic() < self._remove_again:
            return
        archive = "" if self._archive is None else self._archive.url
        for state, reason in list(
            removals(self._known.values(), self._limits, time.time_ns(), self._room.free_bytes, archive)
        ):
            if not self._lock(state.job_id).locked():  # otherwise next time: running jobs' logs do not wait for it
                await self._remove(state, reason)
                self._remove_again = time.monotonic() + ROOM_SECONDS

    async def _remove(self, state: LogState, reason: Reason) -> None:
        try:
            async with self._lock(state.job_id):
                await self._change(self._logs.delete, state.job_id)
        except JobNotFound:
            self._forget(state.job_id)
            return
        except (JobletError, OSError) as error:
            log.error("log could not be removed", jobId=state.job_id, error=error)
            return
        self._forget(state.job_id)
        metrics.REMOVED.labels(reason).inc()
        metrics.REMOVED_BYTES.labels(reason).inc(state.disk_bytes)
        log.info("log removed", jobId=state.job_id, reason=reason, bytes=state.disk_bytes)

    async def _remove_spares(self) -> None:
        if not self._logs.spares:
            return
        try:
            await self._look(self._logs.spares.sweep)
        except OSError as error:
            log.error("a spare log could not be removed", error=error)

    # --- sealing --------------------------------------------------------------------------------------------------

    async def _seal_all(self) -> None:
        while True:
            for state in _oldest(filter(self._is_to_be_sealed, map(self._known.__getitem__, self._unsealed))):
                await self._seal(state.job_id)
            await asyncio.sleep(LOOK_SECONDS)

    def _is_worth_sealing(self, state: LogState) -> bool:
        """Of a small one nothing would be gained, and most jobs print little."""
        return state.ended_ns is not None and not state.sealed and state.total_bytes - state.first >= self._seal_bytes

    def _is_to_be_sealed(self, state: LogState) -> bool:
        if state.ended_ns is None or state.job_id in self._due:
            return False
        again, _ = self._seal_again.get(state.job_id, (0.0, 0.0))
        return state.ended_ns + self._seal_after_ns <= time.time_ns() and again <= time.monotonic()

    async def _seal(self, job_id: str) -> None:
        async with self._lock(job_id):
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._sealing, self._seal_files, job_id)
            except JobNotFound:
                self._forget(job_id)
                return
            except (JobletError, OSError) as error:
                self._seal_later(job_id, error)
                return
            self._seal_again.pop(job_id, None)
            await self._look_at([job_id])
        metrics.SEALED.inc()

    def _seal_later(self, job_id: str, error: Exception) -> None:
        first, longest = RETRY_SECONDS
        _, waited = self._seal_again.get(job_id, (0.0, first / 2))
        self._seal_again[job_id] = time.monotonic() + min(2 * waited, longest), min(2 * waited, longest)
        metrics.SEAL_FAILURES.inc()
        log.error("log could not be sealed", jobId=job_id, error=error)

    def _seal_files(self, job_id: str) -> None:
        sealing = self._disk.submit(self._logs.begin_sealing, job_id).result()
        try:
            with closing(sealing):
                seal(sealing, self._stopping)
        except BaseException:
            self._disk.submit(self._logs.abandon_sealing, job_id).result()
            raise
        self._disk.submit(self._logs.commit_sealing, job_id).result()

    # --- copying --------------------------------------------------------------------------------------------------

    async def _copy_all(self, archive: Archive) -> None:
        pause, longest = RETRY_SECONDS
        while True:
            known = self._known.values()
            missing = _oldest(state for state in known if state.sealed and state.archive != archive.url)
            metrics.ARCHIVE_PENDING.set(len(missing))
            for state in missing:
                if await self._copy(archive, state.job_id):
                    pause = RETRY_SECONDS[0]
                    metrics.ARCHIVE_PENDING.dec()
                else:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, longest)
                    break
            else:
                await asyncio.sleep(LOOK_SECONDS)

    async def _copy(self, archive: Archive, job_id: str) -> bool:
        async with self._lock(job_id):
            if job_id not in self._known:
                return True
            try:
                await archive.put(job_id, self._logs.sealed_path(job_id))
                await self._change(self._logs.mark_archived, job_id, archive.url)
            except JobNotFound:
                self._forget(job_id)
                return True
            except (JobletError, OSError) as error:
                metrics.ARCHIVE_FAILURES.inc()
                log.error("log could not be copied to the archive", jobId=job_id, error=error)
                return False
            await self._look_at([job_id])
        metrics.ARCHIVED.inc()
        return True

    # --- means ----------------------------------------------------------------------------------------------------

    def _lock(self, job_id: str) -> asyncio.Lock:
        """Held by whoever seals, copies or removes a log."""
        return self._locks.setdefault(job_id, asyncio.Lock())

    async def _look(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._looking, partial(function, *args))

    async def _change(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, partial(function, *args))


def _oldest(states: Iterable[LogState]) -> list[LogState]:
    """Of logs that have ended: those that ended first first."""
    return sorted(states, key=lambda state: state.ended_ns or 0)


def _keep(job_ids: set[str], job_id: str, belongs: bool) -> None:
    if belongs:
        job_ids.add(job_id)
    else:
        job_ids.discard(job_id)


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
