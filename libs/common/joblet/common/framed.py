"""Messages over a connected stream socket between two processes of one machine.

A message is its length, four bytes with the highest first, and then so many bytes. There is no mark for the end: the
sender closes the socket, and what was sent before is still received. Sockets are non-blocking and belong to the running
event loop. Used for output between logstore and gateway (docs/logs.md).
"""

import asyncio
import socket

LARGEST_BYTES = 4 * 1024 * 1024
SEND_BUFFER_BYTES = 512 * 1024  # of which the kernel makes twice as much, within net.core.wmem_max (socket(7))

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
        self._room = bytearray(_LENGTH_BYTES)

    async def receive(self) -> bytes | None:
        """The next message; None when the sender has closed its end behind one. Raises ConnectionResetError when it
        has closed it in the middle of one, or sends one of more than LARGEST_BYTES."""
        got = await self._fill(_LENGTH_BYTES)
        if not got:
            return None
        length = int.from_bytes(self._room[:_LENGTH_BYTES], "big")
        if got < _LENGTH_BYTES or length > LARGEST_BYTES:
            raise ConnectionResetError("no length of a message")
        if len(self._room) < length:
            self._room = bytearray(length)
        if await self._fill(length) < length:
            raise ConnectionResetError("a message was cut short")
        return bytes(memoryview(self._room)[:length])

    async def _fill(self, count: int) -> int:
        """How many bytes there were, less than `count` only at the end."""
        loop, got = asyncio.get_running_loop(), 0
        room = memoryview(self._room)
        while got < count:
            more = await loop.sock_recv_into(self._sock, room[got:count])
            if not more:
                break
            got += more
        return got
