"""Output of a node on this machine: by a socket from its logstore instead of a second TLS connection.

The logstore's control socket gives a ticket and a socket to whoever has the uid of the services. The ticket goes along
with ReadLogs over mutual TLS as ever: a logstore that knows it sends the output there, an empty message first; any
other one, of another machine or version, answers by the call. So nothing has to be known of where a node is. The call
decides who may read and how reading has ended; when it is over, so is the socket.
"""

import asyncio
import errno
import json
import os
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblet.api.internal.logstore_pb2 import ReadLogsRequest
from joblet.common import framed, log, unixsock
from joblet.common.errors import Internal
from joblet.gateway.link import Link

ANSWER_SECONDS = 1.0  # for a ticket; without one the output comes by the call
ASKING = 16  # at once; the logstore takes 64 connections
ELSEWHERE_SECONDS = 60.0  # for so long no ticket is asked for after a node did not know one

_NOBODY = {errno.ENOENT, errno.ECONNREFUSED}  # no logstore on this machine, or not now

_log = log.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Offer:
    ticket: str
    receiver: socket.socket


class LocalStreams:
    """`path` is that of the control socket of this machine's logstore, if it has one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asking = asyncio.Semaphore(ASKING)

    async def read(self, link: Link, request: ReadLogsRequest) -> AsyncGenerator[bytes, None]:
        """The messages that the node's logstore answers with. Raises what grpc raises, Internal for less than was
        sent; close it (aclosing) to end the call."""
        with ExitStack() as stack:
            offer = await self._offer(request.job_id) if link.elsewhere_until < time.monotonic() else None
            if offer is not None:
                stack.enter_context(offer.receiver)
                request.ticket = offer.ticket
            call = link.read_logs(request)
            stack.callback(call.cancel)
            if offer is not None and await _comes_here(call, offer.receiver):
                messages = _received(call, offer.receiver)
            else:
                messages = _answered(call, link, asked=offer is not None)
            async with aclosing(messages):
                async for message in messages:
                    yield message

    async def _offer(self, job_id: str) -> _Offer | None:
        """None when there is no logstore that gives one."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._asking:
                with unixsock.connect(self._path, timeout_seconds=0) as control:
                    return await _asked(control, job_id)
        except (OSError, ValueError, KeyError) as error:  # TimeoutError is an OSError
            if getattr(error, "errno", None) not in _NOBODY:
                _log.warn("no stream from the logstore of this machine, output comes by TLS", error=error)
        return None


async def _asked(control: socket.socket, job_id: str) -> _Offer | None:
    if unixsock.peer(control).uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, "the logstore's socket belongs to somebody else")
    unixsock.send(control, json.dumps({"op": "stream", "job_id": job_id}).encode())
    await _readable(control)
    received = unixsock.receive(control, max_fds=1)
    with ExitStack() as undo:
        for fd in received.fds:
            undo.callback(os.close, fd)
        answer = json.loads(received.data or b"{}")
        if not answer.get("ok") or len(received.fds) != 1:
            _log.warn("the logstore of this machine gave no stream", error=answer.get("error"))
            return None
        undo.pop_all()
        receiver = socket.socket(fileno=received.fds[0])
        receiver.setblocking(False)
        return _Offer(answer["ticket"], receiver)


async def _readable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


async def _comes_here(call: Any, receiver: socket.socket) -> bool:
    """The logstore sends an empty message here before it sends the call's metadata. What the metadata say is no use:
    grpc.aio forgets them when the call's end arrives with them."""
    await call.initial_metadata()
    try:
        first = receiver.recv(len(framed.EMPTY))
    except BlockingIOError:
        return False
    if first not in (b"", framed.EMPTY):  # b"": closed, as the socket of a ticket that got too old
        raise Internal("the logstore began with something else than an empty message")
    return bool(first)


async def _answered(call: Any, link: Link, *, asked: bool) -> AsyncGenerator[bytes, None]:
    """What comes by the call."""
    async for message in call:
        if asked:
            link.elsewhere_until = time.monotonic() + ELSEWHERE_SECONDS
        yield message


async def _received(call: Any, receiver: socket.socket) -> AsyncGenerator[bytes, None]:
    """What comes by the socket, all of which was sent before the call ended; then the call's own end."""

    def end(_: object) -> None:
        with suppress(OSError):  # closed already
            receiver.shutdown(socket.SHUT_RD)  # what has been sent stays readable

    call.add_done_callback(end)
    source, whole = framed.Receiver(receiver), False
    with suppress(ConnectionResetError):
        while (message := await source.receive()) is not None:
            yield message
        whole = True
    async for _ in call:
        raise Internal("the logstore answered in two ways")
    if not whole:
        raise Internal("the logstore sent a message that is cut short")
