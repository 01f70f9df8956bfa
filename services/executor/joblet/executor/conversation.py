"""The long call of one gateway: its orders come in, answers and events go out, as many in one message as there are.

For every job this takes the place of a unary call and of a message for each event, which cost several times as much.
An order is accepted as by StartJob, in a task of the executor that goes on when the call breaks; only its answer is
lost then.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import copy_context
from functools import partial

from joblet.api.internal import executor_pb2
from joblet.common import log, metadata
from joblet.common.errors import InvalidArgument, JobletError
from joblet.executor import wire
from joblet.executor.executor import Executor, NoExecutor
from joblet.executor.feed import Feed
from joblet.executor.job import Record
from joblet.executor.journal import Journal

Write = Callable[[executor_pb2.FollowResponse], Awaitable[object]]
Requests = AsyncIterator[executor_pb2.FollowRequest]


class Conversation:
    def __init__(self, executor: Executor | NoExecutor, journal: Journal, feed: Feed, max_processes: int) -> None:
        self._executor = executor
        self._journal = journal
        self._feed = feed
        self._default_max_processes = max_processes
        self._answers: list[executor_pb2.OrderAnswer] = []
        self._news = asyncio.Event()

    async def hold(self, first: executor_pb2.FollowRequest | None, requests: Requests, write: Write) -> None:
        """Until it is cancelled; `requests` are those after the first. Raises InvalidArgument, and OutOfRange and
        FailedPrecondition as Journal.events."""
        if first is None or first.after < 0:
            raise InvalidArgument("the first message must name the last event known, 0 or above", field="after")
        self._journal.acknowledge(first.after)
        self._take(first)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(requests), name="orders of a gateway")
                await self._tell(first.after, write)
        except BaseExceptionGroup as group:
            raise _only(group) from group

    async def _listen(self, requests: Requests) -> None:
        async for request in requests:
            self._take(request)

    async def _tell(self, sequence: int, write: Write) -> None:
        with self._feed.waking(self._news):
            while True:
                self._news.clear()
                events, answers = self._feed.known(sequence), self._answers
                if not events and not answers:
                    await self._news.wait()
                    continue
                self._answers = []
                await write(executor_pb2.FollowResponse(answers=answers, events=map(wire.event_message, events)))
                if events:
                    sequence = events[-1].sequence

    def _take(self, request: executor_pb2.FollowRequest) -> None:
        for order in request.orders:
            context = copy_context()
            if metadata.is_request_id(order.request_id):
                context.run(log.request_id.set, order.request_id)
            context.run(self._order, order.spec)

    def _order(self, spec: executor_pb2.JobSpec) -> None:
        try:
            accepted = self._executor.order(wire.order_from(spec, self._default_max_processes))
        except JobletError as error:
            self._answer(spec.job_id, error)
            return
        accepted.add_done_callback(partial(self._accepted, spec.job_id))

    def _accepted(self, job_id: str, task: "asyncio.Future[Record | JobletError]") -> None:
        if not task.cancelled() and task.exception() is None:
            self._answer(job_id, task.result())

    def _answer(self, job_id: str, answer: Record | JobletError) -> None:
        message = executor_pb2.OrderAnswer(job_id=job_id)
        if isinstance(answer, JobletError):
            message.refusal.CopyFrom(wire.refusal(answer))
        else:
            message.job.CopyFrom(wire.node_job(answer))
        self._answers.append(message)
        self._news.set()


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure is the reason; what it made fail with it says no more."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
