"""Where jobinits come from: one process of the same program, which forks each of them off (`jobinit/nursery.c`).

Executing the program for each job takes more, and the whole executor stands still meanwhile (vfork(2)). A nursery
leaves when this process does. One that was killed is replaced when the next jobinit is wanted; those that come from it
go on.
"""

import os
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from joblet.common import log, unixsock
from joblet.executor.jobspec import Fd

_ARGUMENT: Final = "nursery"

_log = log.get_logger(__name__)


class Nursery:
    """`template` is the mount namespace that all jobs start from, `null` is /dev/null. Both stay open."""

    def __init__(self, jobinit: Path, template: int, null: int) -> None:
        self._jobinit = jobinit
        self._template = template
        self._null = null
        self._socket: socket.socket | None = None
        self.pid = 0
        """Of the process, while there is one."""

    def spawn(self, places: Mapping[int, int]) -> None:
        """One jobinit with these descriptors, by place, all others being /dev/null. Raises OSError when there is no
        process to be had; whatever fails later is said on the jobinit's control socket, or ends it."""
        message, descriptors = bytes(places), list(places.values())
        try:
            unixsock.send(self._connected(), message, descriptors)
        except (BrokenPipeError, ConnectionResetError):
            _log.warn("the nursery has ended and is started again", pid=self.pid)
            self.close()
            unixsock.send(self._connected(), message, descriptors)

    def close(self) -> None:
        """It ends. What it forked off goes on."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # our child and unreaped, so the number is still its own
        os.waitpid(self.pid, 0)
        self.pid = 0

    def _connected(self) -> socket.socket:
        if self._socket is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, ExitStack() as undo:
                undo.enter_context(ours)
                self.pid = self._started(theirs)
                undo.pop_all()
            ours.setblocking(False)  # one that was stopped fails launches, and does not stop the executor
            self._socket = ours
        return self._socket

    def _started(self, control: socket.socket) -> int:
        places = {Fd.CONTROL: control.fileno(), Fd.TEMPLATE: self._template, **dict.fromkeys(range(3), self._null)}
        # Python ignores SIGPIPE and SIGXFSZ, and what is ignored stays so through execve(2).
        return os.posix_spawn(
            self._jobinit, ["jobinit", _ARGUMENT], {}, setsid=True, setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            file_actions=[(os.POSIX_SPAWN_DUP2, source, int(place)) for place, source in places.items()],
        )  # fmt: skip
