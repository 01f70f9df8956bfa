"""For tests: the executor of a node without a kernel, whose jobs do what the test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from joblet.api import job_pb2
from joblet.api.internal import executor_pb2, executor_pb2_grpc
from joblet.common import framed
from joblet.common.errors import (
    FailedPrecondition,
    JobletError,
    JobNotFound,
    NotFound,
    OutOfRange,
    Unavailable,
)

if TYPE_CHECKING:
    from joblet.gateway.testing import FakeJob, FakeNode


class Executor(executor_pb2_grpc.ExecutorServiceServicer):
    def __init__(self, node: "FakeNode") -> None:
        self._node = node

    async def StartJob(self, request: executor_pb2.StartJobRequest, context: Any) -> executor_pb2.StartJobResponse:
        return executor_pb2.StartJobResponse(job=self._start(request.spec))

    def _start(self, spec: executor_pb2.JobSpec) -> executor_pb2.NodeJob:
        node = self._node
        node.starts.append(spec.job_id)
        if node.refuse is not None:
            raise node.refuse
        if spec.job_id not in node.jobs:
            node.accept(spec)
        if node.lose_answers:
            node.lose_answers -= 1
            raise Unavailable("Socket closed")
        return _node_job(node.jobs[spec.job_id])

    async def PutContent(self, request_iterator: AsyncIterator[job_pb2.UploadChunk], _: Any) -> job_pb2.UploadRes:
        received = [chunk async for chunk in request_iterator]
        digest, content = received[0].digest, b"".join(chunk.payload for chunk in received)
        if not content and digest not in self._node.contents:
            raise NotFound(f"no content {digest} is stored here")
        self._node.contents.setdefault(digest, content)
        return job_pb2.UploadRes(digest=digest, size=len(self._node.contents[digest]))

    async def ReadOutputs(self, request: job_pb2.GetJobOutputReq, _: Any) -> AsyncIterator[job_pb2.OutputChunk]:
        self._node.read_outputs.append(request)
        for path, content in self._node.outputs.get(request.uuid, {}).items():
            yield job_pb2.OutputChunk(path=path, payload=content, size=len(content), mode=0o644)

    async def ListOutputs(self, request: job_pb2.ListJobOutputsReq, _: Any) -> job_pb2.ListJobOutputsRes:
        kept = self._node.outputs.get(request.uuid)
        if kept is None:
            raise NotFound(f"no outputs are kept of job {request.uuid}")
        files = [job_pb2.FileUpload(path=path, size=len(content)) for path, content in kept.items()]
        return job_pb2.ListJobOutputsRes(files=files)

    async def FindOutputs(self, request: executor_pb2.FindOutputsRequest, _: Any) -> executor_pb2.FindOutputsResponse:
        there = ((job_id, self._node.outputs.get(job_id)) for job_id in request.job_ids)
        kept = [executor_pb2.KeptOutputs(job_id=name, size_bytes=len(files)) for name, files in there if files]
        return executor_pb2.FindOutputsResponse(kept=kept)

    async def StopJob(self, request: executor_pb2.StopJobRequest, _: Any) -> executor_pb2.StopJobResponse:
        node = self._node
        job = node.jobs.get(request.job_id)
        if job is None:
            raise JobNotFound(request.job_id)
        if node.ends_before_stop:
            node.ended(job, "COMPLETED", 0)
        if job.outcome is not None:
            raise FailedPrecondition("job has ended")
        node.ended(job, "STOPPED", -1, "stopped")
        return executor_pb2.StopJobResponse(outcome=job.outcome, event_sequence=node.last_sequence)

    async def ListJobs(self, _: executor_pb2.ListNodeJobsRequest, __: Any) -> executor_pb2.ListNodeJobsResponse:
        return executor_pb2.ListNodeJobsResponse(
            jobs=[_node_job(job) for job in self._node.jobs.values()], last_sequence=self._node.last_sequence
        )

    async def Follow(  # type: ignore[override]  # grpc also takes a coroutine that writes its answers itself
        self, requests: AsyncIterator[executor_pb2.FollowRequest], context: Any
    ) -> None:
        node = self._node
        first = await anext(requests)
        line = await node.line(first.ticket)
        await context.send_initial_metadata(())
        try:
            if line is None:
                await self._converse(first, requests, context.write)
            else:
                await self._converse(first, _requests(line), lambda news: line.write(news.SerializeToString()))
        finally:
            if line is not None:
                line.close()

    async def _converse(
        self,
        first: executor_pb2.FollowRequest,
        requests: AsyncIterator[executor_pb2.FollowRequest],
        write: Callable[[executor_pb2.FollowResponse], Awaitable[None]],
    ) -> None:
        node = self._node
        if first.after > node.last_sequence:
            raise OutOfRange(f"event {first.after} does not exist")
        if first.after + 1 < node.first_event:
            raise FailedPrecondition("events are forgotten")
        answers: asyncio.Queue[executor_pb2.OrderAnswer] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take(requests, answers))
                await self._tell(first.after + 1 - node.first_event, answers, write)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _take(self, requests: AsyncIterator[executor_pb2.FollowRequest], answers: asyncio.Queue[Any]) -> None:
        async for request in requests:
            for order in request.orders:
                answer = executor_pb2.OrderAnswer(job_id=order.spec.job_id)
                try:
                    answer.job.CopyFrom(self._start(order.spec))
                except Unavailable:
                    raise  # the connection, not the node
                except JobletError as error:
                    answer.refusal.code, answer.refusal.message = error.code, error.message
                    answer.refusal.field, answer.refusal.hint = error.field or "", error.hint or ""
                answers.put_nowait(answer)
                self._node.wake()

    async def _tell(self, position: int, answers: asyncio.Queue[Any], write: Callable[[Any], Awaitable[None]]) -> None:
        node = self._node
        while True:
            more = node.more
            news = executor_pb2.FollowResponse(events=node.events[position:])
            position = len(node.events)
            while not answers.empty():
                news.answers.append(answers.get_nowait())
            if news.answers or news.events:
                await write(news)
            else:
                await more.wait()

    async def ForgetJob(self, request: executor_pb2.ForgetJobRequest, _: Any) -> executor_pb2.ForgetJobResponse:
        kept = []
        for job_id in request.job_ids:
            job = self._node.jobs.get(job_id)
            if job is None:
                continue
            if job.outcome is None:
                kept.append(job_id)
                continue
            self._node.forgotten.append(job_id)
            del self._node.jobs[job_id]
            self._node.finished[job_id] = job
        return executor_pb2.ForgetJobResponse(kept=kept)


async def _requests(line: framed.Line) -> AsyncIterator[executor_pb2.FollowRequest]:
    while (message := await line.read()) is not None:
        yield executor_pb2.FollowRequest.FromString(message)


def _node_job(job: "FakeJob") -> executor_pb2.NodeJob:
    return executor_pb2.NodeJob(
        job_id=job.spec.job_id, status=job.status, started_ns=job.started_ns, outcome=job.outcome
    )
