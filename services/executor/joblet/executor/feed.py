"""The node's events as a stream: what the journal has, then what comes."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Final

from joblet.executor.job import Event, Outcome
from joblet.executor.journal import Journal

_BATCH: Final = 256


class Feed:
    """Writes events to the journal and wakes those who follow; any number of followers, each at its own pace."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._followers: set[asyncio.Event] = set()

    def started(self, job_id: str, time_ns: int) -> Event:
        return self._woken(self._journal.started(job_id, time_ns))

    def ended(self, job_id: str, outcome: Outcome, time_ns: int) -> Event:
        return self._woken(self._journal.ended(job_id, outcome, time_ns))

    def ran(self, job_id: str, started_time_ns: int, outcome: Outcome, time_ns: int) -> Event:
        return self._woken(self._journal.ran(job_id, started_time_ns, outcome, time_ns))

    def known(self, sequence: int) -> list[Event]:
        """The next events above `sequence`, as many as fit into a message. Raises OutOfRange and FailedPrecondition as
        Journal.events."""
        return self._journal.events(sequence, _BATCH)

    @contextmanager
    def waking(self, follower: asyncio.Event) -> Iterator[None]:
        """Sets `follower` whenever there is another event; it is cleared before `known` is asked."""
        self._followers.add(follower)
        try:
            yield
        finally:
            self._followers.discard(follower)

    async def after(self, sequence: int) -> AsyncGenerator[Event, None]:
        """Events above `sequence`, without end. Raises as `known`."""
        more = asyncio.Event()
        with self.waking(more):
            while True:
                more.clear()
                events = self.known(sequence)
                for event in events:
                    yield event
                    sequence = event.sequence
                if not events:
                    await more.wait()

    def _woken(self, event: Event) -> Event:
        for follower in self._followers:
            follower.set()
        return event
