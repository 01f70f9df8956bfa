"""The long call to one node's executor: orders go out, answers and events come in, as many in one message as there are.

For every job this takes the place of a unary call and of a message for each event, which cost several times as much.
When the call breaks, orders without an answer fail with Unavailable: the node may have the job or not, as after any
call without an answer.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from joblet.api.internal import executor_pb2
from joblet.common import log
from joblet.common.errors import Code, DeadlineExceeded, JobletError, Unavailable, from_code

LARGEST_ORDER_BYTES = 256 * 1024
"""What is larger goes by a call of its own: it would delay others, and could be larger than a message may be."""
_MOST_BYTES = 1024 * 1024  # in one message

Answer = asyncio.Future[JobletError | None]


class Conversation:
    """`call` is the long call (`joblet.gateway.locallines`), its first message sent. `send` and `events` run side by
    side, once; `start` may be called at any time in between."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._unsent: list[executor_pb2.JobOrder] = []
        self._more = asyncio.Event()
        self._unanswered: dict[str, Answer] = {}

    async def start(self, spec: executor_pb2.JobSpec, timeout_seconds: float) -> None:
        """Orders a job. Raises the node's refusal, Unavailable, DeadlineExceeded."""
        answer: Answer = asyncio.get_running_loop().create_future()
        self._unanswered[spec.job_id] = answer
        self._unsent.append(executor_pb2.JobOrder(spec=spec, request_id=log.request_id.get()))
        self._more.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                error = await answer
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {timeout_seconds:g} s") from None
        finally:
            self._unanswered.pop(spec.job_id, None)
        if error is not None:
            raise error

    async def send(self) -> None:
        """Writes what there is to write. Raises what grpc raises when the call has ended, Unavailable likewise."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._unsent:
                await self._call.write(executor_pb2.FollowRequest(orders=self._next()))

    async def events(self) -> AsyncIterator[Sequence[executor_pb2.JobEvent]]:
        """Those of each message. Raises as `send`."""
        async for message in self._call:
            for answer in message.answers:
                self._settle(answer)
            if message.events:
                yield message.events

    def close(self) -> None:
        """Ends the call; whoever waits for an answer gets Unavailable."""
        self._call.cancel()
        for answer in self._unanswered.values():
            if not answer.done():
                answer.set_result(Unavailable("the connection ended before the answer"))

    def _next(self) -> list[executor_pb2.JobOrder]:
        """The orders of one message."""
        size = count = 0
        for order in self._unsent:
            size += order.ByteSize()
            if count and size > _MOST_BYTES:
                break
            count += 1
        taken, self._unsent = self._unsent[:count], self._unsent[count:]
        return taken

    def _settle(self, message: executor_pb2.OrderAnswer) -> None:
        answer = self._unanswered.get(message.job_id)
        if answer is not None and not answer.done():
            answer.set_result(_error(message.refusal) if message.HasField("refusal") else None)


def _error(refusal: executor_pb2.Refusal) -> JobletError:
    code = Code(refusal.code) if refusal.code in Code.__members__ else Code.UNKNOWN
    return from_code(code, refusal.message, hint=refusal.hint or None, field=refusal.field or None)
