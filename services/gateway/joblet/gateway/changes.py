"""Who waits for a job to change: WaitJob, StopJob and the end of GetJobLogs, without polling.

Register first, then read the job, then wait: a change between reading and waiting sets the event all the same.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Changes:
    def __init__(self) -> None:
        self._watchers: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set by every change of the job; the watcher clears it before it reads the job again."""
        changed = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(changed)
        try:
            yield changed
        finally:
            watchers = self._watchers[job_id]
            watchers.discard(changed)
            if not watchers:
                del self._watchers[job_id]

    def announce(self, job_ids: Iterable[str]) -> None:
        """These jobs have changed in the store."""
        for job_id in job_ids:
            for changed in self._watchers.get(job_id, ()):
                changed.set()
