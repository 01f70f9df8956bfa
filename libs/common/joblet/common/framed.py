"""Messages over a connected stream socket between two processes of one machine.

A message is its length, four bytes with the highest first, and then so many bytes. There is no mark for the end: the
sender closes the socket, and what was sent before is still received. Sockets are non-blocking and belong to the running
event loop. `send` and Receiver are for output between logstore and gateway (docs/logs.md): one direction, as much as
there is. Line is for many small messages in both, between gateway and executor.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Self

LARGEST_BYTES = 4 * 1024 * 1024
SEND_BUFFER_BYTES = 1024 * 1024  # of which the kernel makes twice as much, within net.core.wmem_max (socket(7))

_LENGTH_BYTES = 4
EMPTY = bytes(_LENGTH_BYTES)
"""An empty message, as it goes over the socket."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, the first with much room for what is sent from it."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    for end in (sender, receiver):
        end.setblocking(False)
    return sender, receiver


async def send(sock: socket.socket, message: bytes) -> None:
    """Returns when the kernel has all of it. Raises OSError (EPIPE, ECONNRESET) when the receiver is gone."""
    length = len(message).to_bytes(_LENGTH_BYTES, "big")
    try:
        sent = sock.sendmsg((length, message))
    except BlockingIOError:
        sent = 0
    loop = asyncio.get_running_loop()
    if sent < _LENGTH_BYTES:
        await loop.sock_sendall(sock, length[sent:])
        sent = _LENGTH_BYTES
    if sent < _LENGTH_BYTES + len(message):
        await loop.sock_sendall(sock, memoryview(message)[sent - _LENGTH_BYTES :])


class Receiver:
    """Takes no more of a socket than the message asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def receive(self) -> bytes | None:
        """The next message; None when the sender has closed its end behind one. Raises ConnectionResetError when it
        has closed it in the middle of one, or sends one of more than LARGEST_BYTES."""
        head = await self._take(_LENGTH_BYTES)
        if not head:
            return None
        length = int.from_bytes(head, "big")
        if len(head) < _LENGTH_BYTES or length > LARGEST_BYTES:
            raise ConnectionResetError("no length of a message")
        message = await self._take(length)
        if len(message) < length:
            raise ConnectionResetError("a message was cut short")
        return message

    async def _take(self, count: int) -> bytes:
        """So many bytes, fewer only at the end. Not copied when they are all there, as they mostly are."""
        loop, pieces = asyncio.get_running_loop(), []
        while count and (piece := await loop.sock_recv(self._sock, count)):
            pieces.append(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Line:
    """Both directions of a socket; one task reads, one writes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Self:
        """Takes the socket over: `close` closes it."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def write(self, message: bytes) -> None:
        """Waits only while some has piled up that the other side does not take. Raises ConnectionError when it is
        gone."""
        self._writer.write(len(message).to_bytes(_LENGTH_BYTES, "big") + message)
        await self._writer.drain()

    async def read(self) -> bytes | None:
        """The next message; None and ConnectionResetError as Receiver.receive."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise ConnectionResetError("no length of a message") from None
            return None
        if length > LARGEST_BYTES:
            raise ConnectionResetError("no length of a message")
        try:
            return await self._reader.readexactly(length)
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("a message was cut short") from None

    def expect_no_more(self) -> None:
        """What was sent before can still be read; behind it `read` gives None."""
        with suppress(OSError):  # closed already
            self._writer.get_extra_info("socket").shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """At once: what the other side has left no room for is not sent any more."""
        self._writer.transport.abort()
