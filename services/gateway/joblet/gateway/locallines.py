"""The long call to a node on this machine: what is said in it goes over a unix socket, which takes a fraction of what a
stream over TLS takes, of both sides.

Before the call a connection to the executor's socket is made, if there is one, and a ticket sent on it that the call's
first message has, too. An executor that got it answers there; any other one, of another machine, by the call. So
nothing has to be known of where a node is. The call decides whether the gateway may follow the node, and its end is
that of the socket, and the other way round.
"""

import asyncio
import errno
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from joblet.api.internal import executor_pb2
from joblet.common import framed, log, unixsock
from joblet.common.errors import Internal, Unavailable
from joblet.gateway.link import Link

TICKET_BYTES = 16  # twice as many characters
ANSWER_SECONDS = 10.0  # until an executor that was sent a ticket begins its answer

ELSEWHERE_SECONDS = 60.0  # for so long no connection is made for a node that has answered by the call

# No executor on this machine, or not now, or not for this user.
_NOBODY = {errno.ENOENT, errno.ECONNREFUSED, errno.EACCES}

_log = log.get_logger(__name__)


class Call(Protocol):
    """What a Conversation needs of its call, whichever way it goes."""

    async def write(self, request: executor_pb2.FollowRequest) -> None: ...

    def __aiter__(self) -> AsyncIterator[executor_pb2.FollowResponse]: ...

    def cancel(self) -> object: ...


class LocalLines:
    """`path` is that of the socket of this machine's executor, if it has one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def follow(self, link: Link, after: int) -> Call:
        """The call, its first message sent. Raises what grpc raises, Unavailable when there is no answer."""
        ticket = secrets.token_hex(TICKET_BYTES)
        with self._connection(link, ticket) as sock:
            call: Any = link.executor.Follow()
            try:
                await call.write(executor_pb2.FollowRequest(after=after, ticket=ticket if sock else ""))
                here = sock is not None and await _answered_there(call, sock)
                found: Call = _LocalCall(call, await framed.Line.over(sock.dup())) if sock and here else call
            except BaseException:
                call.cancel()
                raise
        if sock is not None and not here and not call.done():  # one that has failed says nothing of where the node is
            link.orders_elsewhere_until = time.monotonic() + ELSEWHERE_SECONDS
        _log.info("following node", nodeId=link.node.id, after=after, by="socket" if here else "TLS")
        return found

    @contextmanager
    def _connection(self, link: Link, ticket: str) -> Iterator[socket.socket | None]:
        """None when no executor listens, or that of the node is known to be another one."""
        if link.orders_elsewhere_until > time.monotonic():
            yield None
            return
        with ExitStack() as stack:
            sock = None
            try:
                sock = stack.enter_context(unixsock.connect(self._path, socket.SOCK_STREAM, timeout_seconds=0))
                if unixsock.peer(sock).uid not in (0, os.geteuid()):
                    raise PermissionError(errno.EPERM, "the executor's socket belongs to somebody else")
                unixsock.send(sock, ticket.encode())
            except OSError as error:
                if error.errno not in _NOBODY:
                    _log.warn("no connection to the executor of this machine, orders go by TLS", error=error)
                sock = None
            yield sock


async def _answered_there(call: Any, sock: socket.socket) -> bool:
    """The executor sends an empty message there before it sends the call's metadata; one that does not know the ticket
    sends them at once, too."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await call.initial_metadata()
    except TimeoutError:
        raise Unavailable("its executor does not answer") from None
    try:
        first = sock.recv(len(framed.EMPTY))
    except (BlockingIOError, ConnectionResetError):  # the second: closed, and the ticket not even read
        return False
    if first not in (b"", framed.EMPTY):  # b"": closed
        raise Internal("the executor began with something else than an empty message")
    return bool(first)


class _LocalCall:
    def __init__(self, call: Any, line: framed.Line) -> None:
        self._call = call
        self._line = line
        call.add_done_callback(lambda _: line.expect_no_more())

    async def write(self, request: executor_pb2.FollowRequest) -> None:
        try:
            await self._line.write(request.SerializeToString())
        except OSError as error:
            raise Unavailable(f"its executor is gone: {error}") from error

    async def __aiter__(self) -> AsyncIterator[executor_pb2.FollowResponse]:
        try:
            while (message := await self._line.read()) is not None:
                yield executor_pb2.FollowResponse.FromString(message)
        except OSError as error:
            raise Unavailable(f"its executor is gone: {error}") from error
        async for _ in self._call:  # raises why it has ended
            raise Internal("the executor answered in two ways")

    def cancel(self) -> None:
        self._call.cancel()
        self._line.close()
