"""What nodes have kept of ended jobs' /work, passed on to whoever asks.

Each attempt of a job that is retried has outputs of its own, on the node that it ran on.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from joblet.api import job_pb2
from joblet.api.internal import executor_pb2
from joblet.common import tree
from joblet.common.errors import FailedPrecondition, InvalidArgument, JobletError, NotFound
from joblet.gateway.jobs import Jobs
from joblet.gateway.link import Link
from joblet.gateway.nodes import Nodes
from joblet.gateway.store.model import Job

CALL_SECONDS: Final = 30.0
_SHOWN: Final = 3
FIND_SECONDS: Final = 5.0  # one node that does not answer keeps what others have for no longer


class Outputs:
    def __init__(self, jobs: Jobs, nodes: Nodes) -> None:
        self._jobs = jobs
        self._nodes = nodes

    async def read(self, request: job_pb2.GetJobOutputReq) -> AsyncIterator[job_pb2.OutputChunk]:
        """Raises FailedPrecondition for an attempt that has not ended, NotFound when nothing is kept, and what the node
        answers."""
        if request.offset < 0:
            raise InvalidArgument(f"offset must not be negative: {request.offset}", field="offset")
        job = await self._ended(request.uuid, request.attempt)
        async with self._node_of(job) as link:
            asked = job_pb2.GetJobOutputReq(uuid=job.execution, path=request.path, offset=request.offset)
            call = link.executor.ReadOutputs(asked)
            some = request.offset > 0
            try:
                async for chunk in call:
                    some = True
                    yield chunk
            finally:
                call.cancel()
            if not some:
                raise NotFound(
                    f"no outputs are kept of job {job.execution}: nothing to keep was found for {_patterns(job)}",
                    hint="rnx job status says what was left out, if anything was",
                )

    async def page(self, request: job_pb2.ListJobOutputsReq) -> job_pb2.ListJobOutputsRes:
        """Raises as `read` does."""
        job = await self._ended(request.uuid, request.attempt)
        asked = job_pb2.ListJobOutputsReq(uuid=job.execution, pageToken=request.pageToken)
        async with self._node_of(job) as link:
            answer: job_pb2.ListJobOutputsRes = await link.call(link.executor.ListOutputs, asked, CALL_SECONDS)
        if job.max_retries:
            answer.attempt = job.attempt
            if not request.pageToken:
                answer.attempts.extend(await self._with_some(job.id))
        return answer

    async def _ended(self, wanted: str, number: int) -> Job:
        """The job as it was in the attempt, 0 for the latest."""
        if number < 0:
            raise InvalidArgument(f"attempt must not be negative: {number}", field="attempt")
        job = await self._jobs.find(wanted)
        attempt = await self._jobs.as_attempt(job.id, number or job.attempt)
        if not attempt.ended:
            earlier = f"; of attempts before this one: --attempt 1 to {job.attempt - 1}" if job.attempt > 1 else ""
            raise FailedPrecondition(
                f"job has not ended: {job.id} (current status: {job.state})",
                hint=f"outputs are collected at its end; rnx job wait waits for it{earlier}",
            )
        return attempt

    @asynccontextmanager
    async def _node_of(self, job: Job) -> AsyncIterator[Link]:
        """Errors that come out of the block are as they were, but for NotFound: it names the job as its users know it,
        and other attempts that have outputs."""
        try:
            if not job.node_id:
                raise NotFound(f"no outputs are kept of job {job.execution}: it never ran")
            link = self._nodes.link(job.node_id)
            with link.errors():
                yield link
        except NotFound as error:
            text = error.message.replace(job.execution, _name(job))
            raise NotFound(text, hint=await self._hint(job, error)) from error

    async def _hint(self, job: Job, error: NotFound) -> str | None:
        if not job.max_retries:
            return error.hint
        numbers = [attempt.number for attempt in await self._with_some(job.id) if not attempt.unavailable]
        if job.attempt in numbers or not numbers:
            return error.hint
        return f"outputs are kept of attempt {', '.join(map(str, numbers))}: rnx job get --attempt"

    async def _with_some(self, job_id: str) -> list[job_pb2.AttemptOutputs]:
        """The attempts that have outputs, or may have some on a node that does not answer."""
        attempts = await self._jobs.attempts(await self._jobs.find(job_id))
        by_node: dict[str, list[Job]] = {}
        for attempt in attempts:
            if attempt.node_id and attempt.ended:
                by_node.setdefault(attempt.node_id, []).append(attempt)
        found = await asyncio.gather(*(self._on_node(node_id, there) for node_id, there in by_node.items()))
        return sorted((some for on_node in found for some in on_node), key=lambda some: some.number)

    async def _on_node(self, node_id: str, attempts: Iterable[Job]) -> list[job_pb2.AttemptOutputs]:
        numbers = {attempt.execution: attempt.attempt for attempt in attempts}
        try:
            link = self._nodes.link(node_id)
            request = executor_pb2.FindOutputsRequest(job_ids=numbers)
            answer: executor_pb2.FindOutputsResponse = await link.call(link.executor.FindOutputs, request, FIND_SECONDS)
        except JobletError as error:
            return [job_pb2.AttemptOutputs(number=number, unavailable=error.message) for number in numbers.values()]
        return [job_pb2.AttemptOutputs(number=numbers[kept.job_id], sizeBytes=kept.size_bytes) for kept in answer.kept]


def _patterns(job: Job) -> str:
    """The first of what it declared as its outputs."""
    shown = [tree.quoted(pattern.encode()) for pattern in job.outputs[:_SHOWN]]
    return ", ".join([*shown, "..."] if len(job.outputs) > _SHOWN else shown)


def _name(job: Job) -> str:
    return f"{job.id}, attempt {job.attempt}" if job.max_retries else job.id
