"""The node's events as a stream: what the journal has, then what comes."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from joblet.executor.job import Event, Outcome
from joblet.executor.journal import Journal

_BATCH: Final = 256


class Feed:
    """Writes events to the journal and wakes those who follow; any number of followers, each at its own pace."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._more = asyncio.Event()

    def started(self, job_id: str, time_ns: int) -> Event:
        return self._woken(self._journal.started(job_id, time_ns))

    def ended(self, job_id: str, outcome: Outcome, time_ns: int) -> Event:
        return self._woken(self._journal.ended(job_id, outcome, time_ns))

    def ran(self, job_id: str, started_time_ns: int, outcome: Outcome, time_ns: int) -> Event:
        return self._woken(self._journal.ran(job_id, started_time_ns, outcome, time_ns))

    async def after(self, sequence: int) -> AsyncGenerator[Event, None]:
        """Events above `sequence`, without end. Raises OutOfRange and FailedPrecondition as Journal.events."""
        while True:
            more = self._more  # taken before the journal is read, so that nothing in between is missed
            events = self._journal.events(sequence, _BATCH)
            for event in events:
                yield event
                sequence = event.sequence
            if not events:
                await more.wait()

    def _woken(self, event: Event) -> Event:
        self._more.set()
        self._more = asyncio.Event()
        return event
