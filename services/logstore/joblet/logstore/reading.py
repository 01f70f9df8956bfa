"""The RPCs of LogStoreService: ReadLogs, FindBeginning and DeleteLogs.

ReadLogs passes the messages that chunk.py makes to grpc as bytes. A slow reader holds up nobody but itself: grpc takes
about 8 MiB for it and then lets the write wait. Whoever takes nothing for `reader_timeout_seconds` is sent away with
DEADLINE_EXCEEDED, so that a forgotten terminal does not keep memory and descriptors for ever. A reader that goes away
is noticed by grpc, which cancels the call: descriptors and watch are freed there and then.

To a gateway of the same machine the messages go over a unix socket (`tickets`), for which both need half of the CPU
time that gRPC over TLS takes (measured). The call stays what decides: who may read, that the reader is still there, and
how reading has ended.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from joblet.api.internal.logstore_pb2 import (
    DeleteLogsRequest,
    DeleteLogsResponse,
    FindBeginningResponse,
    ReadLogsRequest,
)
from joblet.common import framed
from joblet.common.errors import DeadlineExceeded, JobNotFound, Unavailable
from joblet.common.log import get_logger
from joblet.logstore import metrics, selection
from joblet.logstore.archive import Archive
from joblet.logstore.beginning import beginning
from joblet.logstore.follow import follow
from joblet.logstore.inotify import Inotify
from joblet.logstore.keeping import Keeper
from joblet.logstore.layout import LogDirectory
from joblet.logstore.output import OpenLog, open_archived, open_log
from joblet.logstore.readers import Readers
from joblet.logstore.tickets import Tickets
from joblet.logstore.watched import watched

if TYPE_CHECKING:  # generic in the type stubs only
    ReadContext = grpc.aio.ServicerContext[ReadLogsRequest, bytes]
    FindContext = grpc.aio.ServicerContext[ReadLogsRequest, FindBeginningResponse]
    DeleteContext = grpc.aio.ServicerContext[DeleteLogsRequest, DeleteLogsResponse]
    Handler = grpc.RpcMethodHandler[Any, Any]

Send = Callable[[bytes], Awaitable[None]]

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LogStore:
    logs: LogDirectory
    inotify: Inotify
    keeper: Keeper
    readers: Readers
    tickets: Tickets
    archive: Archive | None
    archive_threads: Executor
    reader_timeout_seconds: float

    def handlers(self) -> "dict[str, Handler]":
        """By method name. ReadLogs has no serializer: it gives bytes."""
        return {
            "ReadLogs": grpc.unary_stream_rpc_method_handler(
                self.read_logs, request_deserializer=ReadLogsRequest.FromString, response_serializer=None
            ),
            "FindBeginning": grpc.unary_unary_rpc_method_handler(
                self.find_beginning,
                request_deserializer=ReadLogsRequest.FromString,
                response_serializer=FindBeginningResponse.SerializeToString,
            ),
            "DeleteLogs": grpc.unary_unary_rpc_method_handler(
                self.delete_logs,
                request_deserializer=DeleteLogsRequest.FromString,
                response_serializer=DeleteLogsResponse.SerializeToString,
            ),
        }

    async def read_logs(self, request: ReadLogsRequest, context: "ReadContext") -> None:
        with ExitStack() as stack:
            send: Send = context.write
            local = self.tickets.take(request.ticket, request.job_id)
            if local is not None:
                send = partial(_send_locally, stack.enter_context(local))
                metrics.LOCAL.inc()
            wanted = selection.parse(request)
            files = stack.enter_context(closing(await self._open(request)))
            stack.enter_context(metrics.FOLLOWERS.track_inprogress())
            reader = stack.enter_context(self.readers.reading(request.job_id))
            if local is not None:
                await send(b"")  # before the metadata: whoever has that can see whether the output comes here
            # At once, so that the caller of a quiet job knows that it is being served.
            await context.send_initial_metadata(())
            async with aclosing(follow(files, self.inotify, reader, wanted)) as chunks:
                async for chunk in chunks:
                    await self._send(request.job_id, context, send, chunk.message)
                    metrics.BYTES_SENT.inc(chunk.payload_bytes)

    async def find_beginning(self, request: ReadLogsRequest, _: "FindContext") -> FindBeginningResponse:
        wanted = selection.parse(request)
        files = await self._open(request)
        # A reader already: whoever asks where to begin comes back to read from there.
        with (
            closing(files),
            self.readers.reading(request.job_id) as reader,
            watched(files, self.inotify, reader) as seen,
        ):
            found = await beginning(seen, wanted)
            reader.position = found.offset
        return FindBeginningResponse(offset=found.offset, lines=found.lines, reached=found.reached)

    async def delete_logs(self, request: DeleteLogsRequest, _: "DeleteContext") -> DeleteLogsResponse:
        await self.keeper.delete(request.job_id)
        log.info("log deleted", jobId=request.job_id)
        return DeleteLogsResponse()

    async def _open(self, request: ReadLogsRequest) -> OpenLog:
        try:
            return await _claimed(None, lambda: open_log(self.logs.open_for_reading(request.job_id)))
        except JobNotFound:
            archive, threads = self.archive, self.archive_threads
            if archive is None or not request.search_archive:
                raise
        return await _claimed(threads, lambda: open_archived(archive.open(request.job_id), threads))

    async def _send(self, job_id: str, context: "ReadContext", send: Send, message: bytes) -> None:
        try:
            async with asyncio.timeout(self.reader_timeout_seconds) as limit:
                await send(message)
        except TimeoutError:
            if not limit.expired():
                raise
            metrics.STALLED.inc()
            log.warn("reader took nothing and was sent away", jobId=job_id, peer=context.peer())
            text = f"the reader took no output for {self.reader_timeout_seconds:g} seconds"
            raise DeadlineExceeded(text, hint="read on from the offset that was reached") from None


async def _send_locally(sender: socket.socket, message: bytes) -> None:
    """Raises Unavailable when nobody is there to receive any more: the gateway has ended or given up the call."""
    try:
        await framed.send(sender, message)
        await asyncio.sleep(0)  # a gateway that keeps up would otherwise be served before everybody else
    except OSError as error:
        raise Unavailable(f"the reader's socket: {(error.strerror or str(error)).lower()}") from error


async def _claimed(threads: Executor | None, opener: Callable[[], OpenLog]) -> OpenLog:
    opening = asyncio.get_running_loop().run_in_executor(threads, opener)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unclaimed)
        raise


def _close_unclaimed(opening: "asyncio.Future[OpenLog]") -> None:
    """The caller went away while its files were being opened."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
