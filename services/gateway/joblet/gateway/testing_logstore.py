"""For tests: the logstore of a node without a kernel, whose output is what the test prints."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from joblet.api import job_pb2
from joblet.api.internal import logstore_pb2, logstore_pb2_grpc
from joblet.common import framed
from joblet.common.errors import DeadlineExceeded, FailedPrecondition, JobNotFound, OutOfRange, Unavailable

if TYPE_CHECKING:
    from joblet.gateway.testing import FakeJob, FakeNode


class LogStore(logstore_pb2_grpc.LogStoreServiceServicer):
    def __init__(self, node: "FakeNode") -> None:
        self._node = node

    async def ReadLogs(  # type: ignore[override]  # grpc also takes a coroutine that writes
        self, request: logstore_pb2.ReadLogsRequest, context: Any
    ) -> None:
        node = self._node
        node.read_requests.append(request.offset)
        node.last_read = request
        node.readers += 1
        send = context.write
        try:
            with ExitStack() as stack:
                if request.ticket in node.senders:
                    sender = stack.enter_context(node.senders.pop(request.ticket))
                    await framed.send(sender, b"")
                    await context.send_initial_metadata(())
                    send = partial(_send_locally, sender)
                async for chunk in self._read(request):
                    await send(chunk)
        finally:
            node.readers -= 1

    async def _read(self, request: logstore_pb2.ReadLogsRequest) -> AsyncIterator[job_pb2.DataChunk]:
        node = self._node
        job = self._with_log(request.job_id)
        found = await self._beginning(job, request)
        offset = found.offset
        if request.HasField("tail_lines") or request.HasField("since_ns"):
            yield job_pb2.DataChunk(offset=offset)
        while True:
            changed = job.changed
            size = job.before(request.until_ns) if request.HasField("until_ns") else len(job.output)
            if offset > len(job.output):
                raise OutOfRange(f"offset {offset} is beyond the end")
            while offset < size:
                data = bytes(job.output[offset : min(size, offset + 65536)])
                yield job_pb2.DataChunk(payload=data, offset=offset)
                offset += len(data)
                if node.impatient:
                    node.impatient -= 1
                    raise DeadlineExceeded("the reader took no output")
            if request.no_follow or (job.outcome is not None and job.log_has_end):
                return
            seconds = (request.until_ns - time.time_ns()) / 1e9 if request.HasField("until_ns") else None
            try:
                async with asyncio.timeout(seconds):
                    await changed.wait()
            except TimeoutError:
                return

    async def FindBeginning(self, request: logstore_pb2.ReadLogsRequest, _: Any) -> logstore_pb2.FindBeginningResponse:
        return await self._beginning(self._with_log(request.job_id), request)

    def _with_log(self, job_id: str) -> "FakeJob":
        job = self._node.jobs.get(job_id) or self._node.finished.get(job_id)
        if job is None or not job.has_log:
            raise JobNotFound(job_id)
        return job

    async def _beginning(
        self, job: "FakeJob", request: logstore_pb2.ReadLogsRequest
    ) -> logstore_pb2.FindBeginningResponse:
        found = logstore_pb2.FindBeginningResponse(offset=request.offset, reached=True)
        if request.HasField("since_ns"):
            while time.time_ns() < request.since_ns and job.outcome is None and not request.no_follow:
                with suppress(TimeoutError):
                    async with asyncio.timeout((request.since_ns - time.time_ns()) / 1e9):
                        await job.changed.wait()
            found.offset = job.before(request.since_ns)
            found.reached = time.time_ns() >= request.since_ns
        if request.HasField("tail_lines"):
            end = job.before(request.until_ns) if request.HasField("until_ns") else len(job.output)
            lines = bytes(job.output[:end]).splitlines(keepends=True)
            last = lines[max(0, len(lines) - request.tail_lines) :]
            found.offset, found.lines = max(found.offset, end - sum(map(len, last))), len(last)
        return found

    async def DeleteLogs(self, request: logstore_pb2.DeleteLogsRequest, _: Any) -> logstore_pb2.DeleteLogsResponse:
        job = self._node.jobs.get(request.job_id)
        if job is not None and job.outcome is None:
            raise FailedPrecondition("the output is still being written")
        if self._node.finished.pop(request.job_id, None) is None:
            raise JobNotFound(request.job_id)
        return logstore_pb2.DeleteLogsResponse()


async def _send_locally(sender: socket.socket, chunk: job_pb2.DataChunk) -> None:
    try:
        await framed.send(sender, chunk.SerializeToString())
    except OSError as error:
        raise Unavailable(str(error)) from error
