"""The output of a job that may be retried: that of one attempt, or of all, one behind the other.

Each attempt has a log of its own on its node (`store.attempts`). Read together they are one output: an attempt begins
at the offset where the one before it ended, so a reader that was interrupted goes on by offset here as anywhere. Who
follows is sent the next attempt when it comes; the stream ends with the job.
"""

from collections.abc import Awaitable, Callable

from joblet.api import job_pb2
from joblet.gateway.jobs import Jobs
from joblet.gateway.store.model import Job

Write = Callable[[bytes], Awaitable[None]]
# Sends what is asked for of the attempt with this number; returns the offset it has reached there.
Copy = Callable[[int, job_pb2.GetJobLogsReq, Write], Awaitable[int]]


async def send(jobs: Jobs, job: Job, request: job_pb2.GetJobLogsReq, write: Write, copy: Copy) -> None:
    """Raises JobNotFound for an attempt that there is not."""
    if request.attempt or _is_partial(request):
        await copy(request.attempt or job.attempt, request, write)
        return
    begin, number = 0, 1
    while True:
        begin += await _one(jobs, job.id, request, write, copy, begin, number)
        number += 1
        if not await jobs.reaches(job.id, number, wait=not request.noFollow):
            return


async def _one(
    jobs: Jobs, job_id: str, request: job_pb2.GetJobLogsReq, write: Write, copy: Copy, begin: int, number: int
) -> int:
    """The size of the attempt's output, which is sent from the offset that was asked for."""
    attempt = await jobs.as_attempt(job_id, number)
    if attempt.ended and attempt.output_bytes <= request.offset - begin:
        return attempt.output_bytes
    part = job_pb2.GetJobLogsReq(
        uuid=job_id, noFollow=request.noFollow, offset=max(0, request.offset - begin), timestamps=request.timestamps
    )
    reached = await copy(number, part, _shifted(write, begin) if begin else write)
    return max(reached, (await jobs.as_attempt(job_id, number)).output_bytes)


def _is_partial(request: job_pb2.GetJobLogsReq) -> bool:
    return request.HasField("tailLines") or request.HasField("since") or request.HasField("until")


def _shifted(write: Write, begin: int) -> Write:
    async def shifted(message: bytes) -> None:
        chunk = job_pb2.DataChunk.FromString(message)
        chunk.offset += begin
        await write(chunk.SerializeToString())

    return shifted
