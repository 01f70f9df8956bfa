"""The executor's side of the logstore's control socket: log files for jobs, and the end of a log that init left open.

One connection, one request at a time, JSON both ways, descriptors beside the answer. Every operation can be repeated,
so a request that met a restarting logstore is sent again until its time is up; running jobs write on meanwhile, they
hold the files themselves.
"""

import asyncio
import errno
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joblet.common import unixsock
from joblet.common.errors import Internal, Unavailable
from joblet.executor.waiting import readable

TIMEOUT_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class LogFiles:
    """Descriptors of a job's log: `output` for splice(2) from offset 0, `index` opened with O_APPEND."""

    output: int
    index: int


class LogStore:
    """A client of the socket at `path`; connects when first asked."""

    def __init__(self, path: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._turn = asyncio.Lock()
        self._socket: socket.socket | None = None

    async def open(self, job_id: str) -> LogFiles:
        """The job's log files, made if they are not there; the caller closes them."""
        _, fds = await self._ask("open", job_id, 2)
        return LogFiles(*fds)

    async def finish(self, job_id: str) -> int:
        """Marks the end of the output of a job whose init is gone; the number of bytes in it."""
        answer, _ = await self._ask("finish", job_id, 0)
        return int(answer["bytes"])

    async def size(self, job_id: str) -> int:
        """Bytes of output so far."""
        answer, _ = await self._ask("size", job_id, 0)
        return int(answer["bytes"])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _ask(self, operation: str, job_id: str, fd_count: int) -> tuple[dict[str, Any], tuple[int, ...]]:
        request = json.dumps({"op": operation, "job_id": job_id}).encode()
        reason = "no answer"
        try:
            async with asyncio.timeout(self._timeout_seconds), self._turn:
                while True:
                    try:
                        received = await self._exchange(request)
                        break
                    except OSError as error:
                        reason = (error.strerror or str(error)).lower()
                        await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            raise Unavailable(
                f"the logstore does not answer at {self._path}: {reason}",
                hint="is joblet-logstore running on this node?",
            ) from None
        return _checked(received, operation, job_id, fd_count)

    async def _exchange(self, request: bytes) -> unixsock.Received:
        try:
            if self._socket is None:
                self._socket = unixsock.connect(self._path, timeout_seconds=0)
            unixsock.send(self._socket, request)
            received = await _receive(self._socket)
        except BaseException:
            # Also when cancelled: a late answer must not be taken for the next request's.
            self.close()
            raise
        return received


async def _receive(sock: socket.socket) -> unixsock.Received:
    while True:
        try:
            received = unixsock.receive(sock)
        except BlockingIOError:
            await readable(sock.fileno())
            continue
        if not received.data:
            raise ConnectionResetError(errno.ECONNRESET, "connection closed by the logstore")
        return received


def _checked(
    received: unixsock.Received, operation: str, job_id: str, fd_count: int
) -> tuple[dict[str, Any], tuple[int, ...]]:
    answer = json.loads(received.data)
    if not answer.get("ok") or len(received.fds) != fd_count:
        for fd in received.fds:
            os.close(fd)
        text = answer.get("error") or f"{len(received.fds)} descriptors instead of {fd_count}"
        raise Internal(f"the logstore could not {operation} the log of job {job_id}: {text}")
    return answer, received.fds
