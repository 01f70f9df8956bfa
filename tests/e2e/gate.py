"""Where a job on the host's network waits until the test lets it go on: nobody has to guess how long something takes.

A job connects to the gate's port and goes on when the connection ends. One that has other things to do asks meanwhile:

    gate = socket.create_connection(("127.0.0.1", port))
    while not select.select([gate], [], [], pause_seconds)[0]:
        ...  # not open yet
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

WAIT_SECONDS = 120.0


class Gate:
    """Closed until `open`."""

    def __init__(self, server: socket.socket, stack: ExitStack) -> None:
        server.settimeout(WAIT_SECONDS)
        self.port: int = server.getsockname()[1]
        self._server = server
        self._stack = stack

    def wait_for(self, jobs: int = 1) -> None:
        """Until so many more jobs have come; TimeoutError if they do not."""
        for _ in range(jobs):
            connection, _ = self._server.accept()
            self._stack.enter_context(connection)

    def open(self) -> None:
        """Lets go whoever was waited for."""
        self._stack.close()


@contextmanager
def gate() -> Iterator[Gate]:
    """On a port of the loopback interface; open in the end, whatever happens."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server, ExitStack() as stack:
        yield Gate(server, stack)
