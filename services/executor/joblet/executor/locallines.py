"""Connections from gateways on this machine, for what they say in their long call (`conversation`) without TLS.

A gateway connects to `executor.sock` in the state directory, sends a ticket that it has made up, and puts the same
ticket into the first message of its call. Who may follow this node is decided by that call alone: its certificate, its
role. The ticket only says which connection belongs to it, and the socket lets in nobody but root and the executor's own
user. Nothing is read from a connection before a call has asked for it.
"""

import os
import socket
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Final

from joblet.common import framed, log, unixsock

NAME: Final = "executor.sock"
TICKET_BYTES: Final = 32
_MOST: Final = 16  # whose call has not come yet; then the oldest go

_log = log.get_logger(__name__)


class LocalLines:
    """Made and used inside one event loop. Raises StartError when the socket cannot be made."""

    def __init__(self, state_dir: Path) -> None:
        self._listener = unixsock.bind(state_dir / NAME, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._waiting: OrderedDict[bytes, socket.socket] = OrderedDict()

    def take(self, ticket: str) -> socket.socket | None:
        """The connection of this ticket, which the caller closes; an empty message has been sent there. None for a
        ticket that came by no connection, as that of a gateway on another machine."""
        self._accept()
        sock = self._waiting.pop(ticket.encode(), None)
        if sock is not None:
            try:
                sock.send(framed.EMPTY)
            except OSError as error:
                _log.warn("a gateway of this machine left before its call", error=error)
                sock.close()
                return None
        return sock

    def close(self) -> None:
        self._listener.close()
        while self._waiting:
            self._waiting.popitem()[1].close()

    def _accept(self) -> None:
        # Whoever sends a ticket by a call has sent it here before: all there is to accept is there already.
        with suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                try:
                    self._keep(_ticket(sock), sock)
                except OSError as error:
                    _log.warn("connection refused", socket=NAME, error=error)
                    sock.close()

    def _keep(self, ticket: bytes, sock: socket.socket) -> None:
        while len(self._waiting) >= _MOST:
            self._waiting.popitem(last=False)[1].close()
        self._waiting[ticket] = sock


def _ticket(sock: socket.socket) -> bytes:
    """Raises OSError for anyone who may not connect, or has not sent a ticket."""
    sock.setblocking(False)
    uid = unixsock.peer(sock).uid
    if uid not in (0, os.geteuid()):
        raise PermissionError(f"uid {uid} may not use this socket")
    ticket = sock.recv(TICKET_BYTES)
    if len(ticket) != TICKET_BYTES:
        raise ConnectionError("no ticket")
    return ticket
