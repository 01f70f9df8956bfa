"""The output of a job that may be retried: that of one attempt, or of all, one behind the other.

Each attempt has a log of its own on its node (`store.attempts`). Read together they are one output: an attempt begins
at the offset where the one before it ended, so a reader that was interrupted goes on by offset here as anywhere. Lines
and times count through all of them; a line ends with its attempt. Who follows is sent the next attempt when it comes;
the stream ends with the job. The log of an earlier attempt that is not kept any more, or cannot be reached, is a gap,
as removed output is.

How much an attempt wrote may not be known: it was lost with its node, or its node could not say. Readers may have seen
any of it, so it takes LOST_ATTEMPT_BYTES: the next one begins at the same offset for all of them. Of such an attempt
that is sent which is there at the moment; nobody may ever mark the end of its log.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from joblet.api import job_pb2
from joblet.api.internal.logstore_pb2 import FindBeginningResponse
from joblet.common.errors import NotFound, OutOfRange, Unavailable
from joblet.common.states import LOST_ATTEMPT_BYTES, Reason
from joblet.gateway import logoptions
from joblet.gateway.jobs import Jobs
from joblet.gateway.store.model import Job, output_known

Write = Callable[[bytes], Awaitable[None]]


class Source(Protocol):
    """The log of each attempt, by its number. Both raise NotFound for one that is gone, Unavailable for one that cannot
    be reached for a while."""

    async def copy(self, number: int, request: job_pb2.GetJobLogsReq, write: Write) -> None:
        """Sends what is asked for."""

    async def find(self, number: int, request: job_pb2.GetJobLogsReq) -> FindBeginningResponse:
        """Where that would begin."""


@dataclass(frozen=True, slots=True)
class _Place:
    """An offset in an attempt's output; `begin` is where that lies in the output of all."""

    number: int
    begin: int
    offset: int


class AttemptLogs:
    """One reader of one job's output."""

    def __init__(self, jobs: Jobs, job: Job, request: job_pb2.GetJobLogsReq, write: Write, source: Source) -> None:
        self._jobs = jobs
        self._job_id = job.id
        self._request = request
        self._write = write
        self._source = source
        self._reached = 0  # the offset behind all that was sent

    async def send(self) -> None:
        """Raises JobNotFound for an attempt that there is not."""
        number = self._request.attempt
        if number:
            await self._source.copy(number, self._request, self._shifted(number, 0))
            return
        place = await self._beginning()
        rest = _without_search(self._request)
        if logoptions.is_searched(self._request):
            rest.offset = place.begin + place.offset
            await self._write(job_pb2.DataChunk(offset=rest.offset).SerializeToString())
        begin, number = place.begin, place.number
        while True:
            await self._one(rest, begin, number)
            if not await self._comes(number + 1):
                return
            # The size is known once another attempt has followed, not yet when the log ends.
            begin, number = max(self._reached, begin + _length(await self._attempt(number))), number + 1

    async def _one(self, request: job_pb2.GetJobLogsReq, begin: int, number: int) -> None:
        """Sends the attempt's output from the offset that was asked for."""
        while True:
            attempt = await self._attempt(number)
            offset = max(request.offset, self._reached)
            if attempt.ended and _length(attempt) <= offset - begin:
                return
            part = _of(attempt, request)
            part.offset = max(0, offset - begin)
            try:
                await self._source.copy(number, part, self._shifted(number, begin))
            except (NotFound, Unavailable, OutOfRange):  # the second: with its node
                if await self._is_needed(number):
                    raise
            if not attempt.ended or (await self._attempt(number)).ended:
                return
            # Its node came back with it while that was sent which was there: it runs.

    async def _beginning(self) -> _Place:
        request = self._request
        place = await self._since() if request.HasField("since") else _Place(1, 0, 0)
        if request.HasField("tailLines"):
            last = await self._tail(place.number)
            place = max(place, last, key=lambda place: (place.number, place.offset))
        return place

    async def _since(self) -> _Place:
        """Waits for a time that has not come, through as many attempts as end before it, if the job is followed."""
        part = _without_search(self._request)
        part.since.CopyFrom(self._request.since)
        begin, number = 0, 1
        while True:
            attempt = await self._attempt(number)
            if not attempt.ended or attempt.ended_ns >= logoptions.nanoseconds(part.since):
                found = await self._found(number, part)
                if found.reached or part.noFollow:
                    return _Place(number, begin, found.offset)
            follows = await self._comes(number + 1)
            attempt = await self._attempt(number)
            if not follows:
                return _Place(number, begin, await self._end(attempt))
            begin, number = begin + _length(attempt), number + 1

    async def _tail(self, first: int) -> _Place:
        """Where the last lines of what is there begin, in no attempt before the `first`."""
        attempts = await self._jobs.attempts(await self._jobs.find(self._job_id))
        part = _without_search(self._request)
        part.noFollow = True
        left = self._request.tailLines
        for attempt in reversed(attempts):
            part.tailLines = left
            found = await self._found(attempt.attempt, part)
            left -= found.lines
            if left == 0 or attempt.attempt <= first:
                break
        begin = sum(_length(earlier) for earlier in attempts[: attempt.attempt - 1])
        return _Place(attempt.attempt, begin, found.offset)

    async def _found(self, number: int, part: job_pb2.GetJobLogsReq) -> FindBeginningResponse:
        attempt = await self._attempt(number)
        if not attempt.ended or _length(attempt):
            try:
                return await self._source.find(number, _of(attempt, part))
            except (NotFound, Unavailable):
                if await self._is_needed(number):
                    raise
        return FindBeginningResponse(offset=_length(attempt))

    async def _end(self, attempt: Job) -> int:
        """Behind the last byte that there is of an attempt that has ended."""
        if output_known(attempt):
            return attempt.output_bytes
        return (await self._found(attempt.attempt, job_pb2.GetJobLogsReq(tailLines=0))).offset

    async def _comes(self, number: int) -> bool:
        """Whether there is an attempt with this number, or will be one before the reader has all that it wants."""
        if logoptions.lasts_to_the_end(self._request):
            with suppress(TimeoutError):
                async with asyncio.timeout(logoptions.seconds_left(self._request)):
                    return await self._jobs.reaches(self._job_id, number, wait=True)
        return await self._jobs.reaches(self._job_id, number, wait=False)

    async def _attempt(self, number: int) -> Job:
        return await self._jobs.as_attempt(self._job_id, number)

    async def _is_needed(self, number: int) -> bool:
        """Whether its output may not be a gap: no other attempt follows, and it was not lost with its node."""
        job = await self._jobs.find(self._job_id)
        return job.attempt <= number and not (job.ended and job.reason == Reason.NODE_LOST)

    def _shifted(self, number: int, begin: int) -> Write:
        async def shifted(message: bytes) -> None:
            chunk = job_pb2.DataChunk.FromString(message)
            chunk.offset += begin
            chunk.attempt = number
            self._reached = max(self._reached, chunk.offset + len(chunk.payload))
            await self._write(chunk.SerializeToString())

        return shifted


def _length(attempt: Job) -> int:
    """How many offsets an attempt takes that has ended."""
    return attempt.output_bytes if output_known(attempt) else LOST_ATTEMPT_BYTES


def _of(attempt: Job, request: job_pb2.GetJobLogsReq) -> job_pb2.GetJobLogsReq:
    """What is to be asked for of this attempt."""
    part = job_pb2.GetJobLogsReq()
    part.CopyFrom(request)
    part.noFollow = request.noFollow or (attempt.ended and not output_known(attempt))
    return part


def _without_search(request: job_pb2.GetJobLogsReq) -> job_pb2.GetJobLogsReq:
    """The same, beginning at its offset."""
    part = job_pb2.GetJobLogsReq()
    part.CopyFrom(request)
    part.ClearField("tailLines")
    part.ClearField("since")
    return part
