"""ExecutorService: who may call it, and each call as one step into `executor`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

from joblet.api import job_pb2
from joblet.api.internal import executor_pb2
from joblet.api.internal.executor_pb2 import DESCRIPTOR
from joblet.api.internal.executor_pb2_grpc import ExecutorServiceServicer
from joblet.common.contents import Contents, TooLarge
from joblet.common.errors import FailedPrecondition, Unavailable
from joblet.common.framed import Line
from joblet.common.roles import Role
from joblet.common.rpc import Access, AccessTable
from joblet.executor import wire
from joblet.executor.conversation import Conversation
from joblet.executor.executor import Executor, NoExecutor
from joblet.executor.feed import Feed
from joblet.executor.journal import Journal
from joblet.executor.locallines import LocalLines
from joblet.executor.outputs import Outputs

if TYPE_CHECKING:  # generic in the type stubs only
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = DESCRIPTOR.services_by_name["ExecutorService"]
_GATEWAY = frozenset({Role.GATEWAY})
ACCESS: AccessTable = {
    f"/{SERVICE.full_name}/StartJob": Access("start_job", _GATEWAY),
    f"/{SERVICE.full_name}/StopJob": Access("stop_job", _GATEWAY),
    f"/{SERVICE.full_name}/ListJobs": Access("list_jobs", _GATEWAY),
    f"/{SERVICE.full_name}/Follow": Access("follow", _GATEWAY),
    f"/{SERVICE.full_name}/ForgetJob": Access("forget_job", _GATEWAY),
    f"/{SERVICE.full_name}/PutContent": Access("put_content", _GATEWAY),
    f"/{SERVICE.full_name}/ReadOutputs": Access("read_outputs", _GATEWAY),
    f"/{SERVICE.full_name}/ListOutputs": Access("list_outputs", _GATEWAY),
    f"/{SERVICE.full_name}/FindOutputs": Access("find_outputs", _GATEWAY),
}


class JobsOfNode(ExecutorServiceServicer):
    """The handlers. Orders go to the executor, or to what stands in its place; the rest is in the journal."""

    def __init__(
        self,
        executor: Executor | NoExecutor,
        journal: Journal,
        feed: Feed,
        contents: Contents,
        outputs: Outputs,
        default_max_processes: int,
        lines: LocalLines,
    ) -> None:
        self._executor = executor
        self._journal = journal
        self._feed = feed
        self._contents = contents
        self._outputs = outputs
        self._default_max_processes = default_max_processes
        self._lines = lines

    async def StartJob(
        self, request: executor_pb2.StartJobRequest, context: "Context"
    ) -> executor_pb2.StartJobResponse:
        order = wire.order_from(request.spec, self._default_max_processes)
        return executor_pb2.StartJobResponse(job=wire.node_job(await self._executor.start(order)))

    async def StopJob(self, request: executor_pb2.StopJobRequest, context: "Context") -> executor_pb2.StopJobResponse:
        outcome, sequence = await self._executor.stop(request.job_id)
        return executor_pb2.StopJobResponse(outcome=wire.outcome_message(outcome), event_sequence=sequence)

    async def ListJobs(
        self, request: executor_pb2.ListNodeJobsRequest, context: "Context"
    ) -> executor_pb2.ListNodeJobsResponse:
        jobs = [wire.node_job(record) for record in self._journal.jobs()]
        return executor_pb2.ListNodeJobsResponse(jobs=jobs, last_sequence=self._journal.last_sequence)

    async def Follow(  # type: ignore[override]  # grpc also takes a coroutine that writes its answers itself
        self, request_iterator: AsyncIterator[executor_pb2.FollowRequest], context: "Context"
    ) -> None:
        conversation = Conversation(self._executor, self._journal, self._feed, self._default_max_processes)
        first = await anext(request_iterator, None)
        with ExitStack() as stack:
            sock = self._lines.take(first.ticket) if first is not None and first.ticket else None
            if sock is not None:
                stack.enter_context(sock)
            await context.send_initial_metadata(())
            if sock is None:
                await conversation.hold(first, request_iterator, context.write)
                return
            line = stack.enter_context(closing(await Line.over(sock.dup())))
            try:
                await conversation.hold(first, _requests(line), partial(_answer, line))
            except ConnectionError as error:
                raise Unavailable(f"the gateway is gone: {error}") from error

    async def ForgetJob(
        self, request: executor_pb2.ForgetJobRequest, context: "Context"
    ) -> executor_pb2.ForgetJobResponse:
        if request.job_id or not request.job_ids:
            self._journal.forget(request.job_id)
        kept = self._journal.forget_ended(request.job_ids)
        if request.erase:
            self._journal.erase()
            for job_id in set(request.job_ids) - set(kept):
                self._outputs.remove(job_id)
        return executor_pb2.ForgetJobResponse(kept=kept)

    async def PutContent(
        self, request_iterator: AsyncIterator[job_pb2.UploadChunk], context: "Context"
    ) -> job_pb2.UploadRes:
        for old in self._contents.old():
            self._contents.remove(old)
        try:
            digest, size = await self._contents.receive(request_iterator)
        except TooLarge as error:  # no room now is another matter: the job may wait for that
            raise FailedPrecondition(error.message) from error
        return job_pb2.UploadRes(digest=digest, size=size)

    async def ReadOutputs(
        self, request: job_pb2.GetJobOutputReq, context: "Context"
    ) -> AsyncIterator[job_pb2.OutputChunk]:
        async for chunk in self._outputs.read(request.uuid, request.path, request.offset):
            yield chunk

    async def ListOutputs(self, request: job_pb2.ListJobOutputsReq, context: "Context") -> job_pb2.ListJobOutputsRes:
        return await asyncio.to_thread(self._outputs.page, request.uuid, request.pageToken)

    async def FindOutputs(
        self, request: executor_pb2.FindOutputsRequest, context: "Context"
    ) -> executor_pb2.FindOutputsResponse:
        sizes = self._outputs.sizes(request.job_ids)
        kept = [executor_pb2.KeptOutputs(job_id=job_id, size_bytes=size) for job_id, size in sizes.items()]
        return executor_pb2.FindOutputsResponse(kept=kept)


async def _requests(line: Line) -> AsyncIterator[executor_pb2.FollowRequest]:
    while (message := await line.read()) is not None:
        yield executor_pb2.FollowRequest.FromString(message)


async def _answer(line: Line, response: executor_pb2.FollowResponse) -> None:
    await line.write(response.SerializeToString())
