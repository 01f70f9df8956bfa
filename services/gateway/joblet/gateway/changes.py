"""Who waits for a job to change (WaitJob, StopJob, the end of GetJobLogs) or for room (the queue), without polling.

Register first, then read the job, then wait: a change between reading and waiting sets the event all the same.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

_Watchers = dict[str, set[asyncio.Event]]


class Changes:
    def __init__(self) -> None:
        self._watchers: _Watchers = {}
        self._waiting_for_end: _Watchers = {}
        self.room = asyncio.Event()  # there may be room for a job that waits
        self.schedule = asyncio.Event()  # there is a job more whose time is to come

    def __len__(self) -> int:
        """How many jobs somebody waits for."""
        return len(self._watchers.keys() | self._waiting_for_end.keys())

    def watch(self, job_id: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set by every change of the job; the watcher clears it before it reads the job again."""
        return _registered(self._watchers, job_id)

    def watch_end(self, job_id: str) -> AbstractContextManager[asyncio.Event]:
        """As `watch`, for who waits for the job's end: not set by changes that are known to be none."""
        return _registered(self._waiting_for_end, job_id)

    def announce(self, job_ids: Iterable[str]) -> None:
        """These jobs have changed in the store, and may have left room for others."""
        self.announce_ends(job_ids)
        self.room.set()

    def announce_ends(self, job_ids: Iterable[str]) -> None:
        """These jobs have changed, and nobody waits for the room that they may have left."""
        for job_id in job_ids:
            _set(self._watchers, job_id)
            _set(self._waiting_for_end, job_id)

    def announce_room(self) -> None:
        """Something else than the end of a job may let one that waits start."""
        self.room.set()

    def announce_schedule(self) -> None:
        self.schedule.set()

    def announce_progress(self, job_ids: Iterable[str]) -> None:
        """These jobs have changed, and none of them by ending."""
        for job_id in job_ids:
            _set(self._watchers, job_id)


def _set(watchers: _Watchers, job_id: str) -> None:
    for changed in watchers.get(job_id, ()):
        changed.set()


@contextmanager
def _registered(all_watchers: _Watchers, job_id: str) -> Iterator[asyncio.Event]:
    changed = asyncio.Event()
    all_watchers.setdefault(job_id, set()).add(changed)
    try:
        yield changed
    finally:
        watchers = all_watchers[job_id]
        watchers.discard(changed)
        if not watchers:
            del all_watchers[job_id]
