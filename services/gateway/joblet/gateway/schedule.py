"""The schedule: reading the time a job is to start at, and letting it go when that time has come.

A time is an instant (RFC 3339, with its zone) or a duration from now; what is due is decided by the gateway's clock.
SCHEDULED jobs are in the store only. One timer waits for the first of them and is set anew when another is submitted;
it never sleeps long, because the clock may be set meanwhile. A time that passed while no gateway ran is due at once.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Final

from joblet.common import log
from joblet.common.errors import InvalidArgument, JobletError
from joblet.common.units import NS_PER_SECOND, parse_duration, rfc3339
from joblet.gateway.changes import Changes
from joblet.gateway.store import queue as queue_queries
from joblet.gateway.store.database import Database

TOLERANCE_SECONDS: Final = 10  # so far in the past is "now": clients' clocks differ, and calls are repeated
MAX_AHEAD_SECONDS: Final = 10 * 366 * 86_400
LONGEST_SLEEP_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 1.0
GROUP: Final = 100  # jobs that become due in one transaction

_EXPECTED = 'expected an instant such as "2024-01-15T10:30:00Z" or a duration such as "30s", "2min", "1h30m", "1d"'

_log = log.get_logger(__name__)


def parse(text: str, now_ns: int) -> int:
    """When, in nanoseconds since the epoch; 0 for "", which is: at once. Raises InvalidArgument for what is no time."""
    if not text:
        return 0
    try:
        return now_ns + round(parse_duration(text) * NS_PER_SECOND)
    except InvalidArgument:
        return _instant(text)


def check(due_ns: int, now_ns: int) -> None:
    """Raises InvalidArgument for a time that has passed or is farther away than any job waits."""
    if due_ns < now_ns - TOLERANCE_SECONDS * NS_PER_SECOND:
        raise _invalid(f"{rfc3339(due_ns)} is in the past", hint=f"here it is {rfc3339(now_ns)}")
    if due_ns > now_ns + MAX_AHEAD_SECONDS * NS_PER_SECOND:
        raise _invalid(f"{rfc3339(due_ns)} is more than ten years ahead")


def _instant(text: str) -> int:
    try:
        when = datetime.fromisoformat(text.strip().upper())
    except ValueError:
        raise _invalid(f'{_EXPECTED}, got "{text[:64]}"') from None
    if when.tzinfo is None:
        raise _invalid(f'"{text[:64]}" has no time zone', hint="end it with Z, or with an offset such as +02:00")
    passed = when.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (passed.days * 86_400 + passed.seconds) * NS_PER_SECOND + passed.microseconds * 1000


def _invalid(why: str, *, hint: str | None = None) -> InvalidArgument:
    return InvalidArgument(f"invalid schedule: {why}", field="schedule", hint=hint)


class Schedule:
    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changes.schedule.clear()
            try:
                pause = await self._let_go()
            except JobletError as error:
                _log.error("scheduled jobs cannot be let go yet", error=error.message)
                pause = RETRY_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._changes.schedule.wait()
            except TimeoutError:
                continue

    async def _let_go(self) -> float:
        """Every job that is due; returns the seconds until there may be one more."""
        while True:
            now_ns = time.time_ns()
            due = await self._database.write(queue_queries.let_go, now_ns, GROUP)
            if not due:
                break
            for job_id in due:
                _log.info("scheduled job is due", jobId=job_id)
            self._changes.announce_progress(due)
            self._changes.announce_room()
            await asyncio.sleep(0)
        first_ns = await self._database.read(queue_queries.first_due)
        if first_ns is None:
            return LONGEST_SLEEP_SECONDS
        return min((first_ns - now_ns) / NS_PER_SECOND, LONGEST_SLEEP_SECONDS)
