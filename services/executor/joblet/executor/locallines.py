"""Connections from gateways on this machine, for what they say in their long call (`conversation`) without TLS.

A gateway connects to `executor.sock` in the state directory, sends a ticket that it has made up, and puts the same
ticket into the first message of its call. Who may follow this node is decided by that call alone: its certificate, its
role. The ticket only says which connection belongs to it, and the socket lets in nobody but root and the executor's own
user. Nothing is read from a connection before a call has asked for it.
"""

import asyncio
import os
import socket
from collections import deque
from pathlib import Path
from typing import Final

from joblet.common import framed, log, unixsock

NAME: Final = "executor.sock"
TICKET_BYTES: Final = 32
_MOST: Final = 128  # whose call has not come yet; then the oldest go

_log = log.get_logger(__name__)


class LocalLines:
    """Made and used inside one running event loop. Raises StartError when the socket cannot be made."""

    def __init__(self, state_dir: Path) -> None:
        self._listener = unixsock.bind(state_dir / NAME, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._waiting: deque[socket.socket] = deque()  # for their call; the newest at the end
        # Gateways connect for each of their nodes, and most calls then go to others: nothing may pile up.
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def take(self, ticket: str) -> socket.socket | None:
        """The connection of this ticket, which the caller closes; an empty message has been sent there. None for a
        ticket that came by no connection, as that of a gateway on another machine."""
        self._accept()  # whoever sends a ticket by a call has sent it here before
        sock = self._with_ticket(ticket.encode())
        if sock is not None:
            self._waiting.remove(sock)
            try:
                sock.recv(TICKET_BYTES)
                sock.send(framed.EMPTY)
            except OSError as error:
                _log.warn("a gateway of this machine left before its call", error=error)
                sock.close()
                return None
        return sock

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        while self._waiting:
            self._waiting.pop().close()

    def _with_ticket(self, ticket: bytes) -> socket.socket | None:
        if len(ticket) != TICKET_BYTES:
            return None
        return next((sock for sock in self._waiting if _ticket(sock) == ticket), None)

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                self._keep(sock)
        except BlockingIOError:
            return
        except OSError as error:  # no descriptor is left, for example: the call goes on without
            _log.warn("no connection accepted", socket=NAME, error=error)

    def _keep(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        uid = unixsock.peer(sock).uid
        if uid not in (0, os.geteuid()):
            _log.warn("connection refused", socket=NAME, uid=uid)
            sock.close()
            return
        for gone in [other for other in self._waiting if unixsock.is_closed(other)]:
            self._waiting.remove(gone)
            gone.close()
        while len(self._waiting) >= _MOST:
            self._waiting.popleft().close()
        self._waiting.append(sock)


def _ticket(sock: socket.socket) -> bytes:
    """What has come of it, left where it is."""
    try:
        return sock.recv(TICKET_BYTES, socket.MSG_PEEK)
    except OSError:  # nothing yet, or never
        return b""
