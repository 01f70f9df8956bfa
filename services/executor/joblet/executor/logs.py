"""The executor's side of the logstore's control socket: log files for jobs, and the end of a log that init left open.

One connection; requests go out at once and are answered in their order: JSON both ways, descriptors beside the answer.
Every operation can be repeated, so a request that met a restarting logstore is sent again until its time is up; running
jobs write on meanwhile, they hold the files themselves.
"""

import asyncio
import errno
import json
import os
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joblet.common import unixsock
from joblet.common.errors import Internal, Unavailable
from joblet.common.unixsock import Received

TIMEOUT_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class LogFiles:
    """Descriptors of a job's log: `output` for splice(2) from offset 0, `index` opened with O_APPEND."""

    output: int
    index: int


class LogStore:
    """A client of the socket at `path`; connects when first asked. Made and used inside one running event loop."""

    def __init__(self, path: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._socket: socket.socket | None = None
        self._waiting: deque[asyncio.Future[Received]] = deque()

    def opening(self, job_id: str) -> "Opening":
        """Asks for the job's log files without waiting for them."""
        return Opening(self, job_id)

    async def finish(self, job_id: str) -> int:
        """Marks the end of the output of a job whose init is gone; the number of bytes in it."""
        return int((await self._answer("finish", job_id))["bytes"])

    async def size(self, job_id: str) -> int:
        """Bytes of output so far."""
        return int((await self._answer("size", job_id))["bytes"])

    def close(self) -> None:
        self._disconnect(ConnectionAbortedError(errno.ECONNABORTED, "closed"))

    async def _answer(self, operation: str, job_id: str) -> Mapping[str, Any]:
        received = await self.settle(operation, job_id, self.send(operation, job_id))
        _check(received, operation, job_id, 0)
        return _object(received)

    def send(self, operation: str, job_id: str) -> "asyncio.Future[Received]":
        """One attempt; the answer to come, or the OSError that met it."""
        answer: asyncio.Future[Received] = asyncio.get_running_loop().create_future()
        try:
            sock = self._connected()
            unixsock.send(sock, json.dumps({"op": operation, "job_id": job_id}).encode())
            self._waiting.append(answer)
        except OSError as error:
            self._disconnect(error)
            answer.set_exception(error)
        return answer

    async def settle(self, operation: str, job_id: str, answer: "asyncio.Future[Received]") -> Received:
        """Waits for an answer, asking again while the logstore is away. Raises Unavailable when its time is up."""
        reason = "no answer"
        try:
            async with asyncio.timeout(self._timeout_seconds):
                while True:
                    try:
                        return await answer
                    except OSError as error:
                        reason = (error.strerror or str(error)).lower()
                        await asyncio.sleep(_RETRY_SECONDS)
                        answer = self.send(operation, job_id)
        except TimeoutError:
            raise Unavailable(
                f"the logstore does not answer at {self._path}: {reason}",
                hint="is joblet-logstore running on this node?",
            ) from None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = unixsock.connect(self._path, timeout_seconds=0)
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return self._socket

    def _read(self) -> None:
        assert self._socket is not None
        try:
            received = unixsock.receive(self._socket)
        except BlockingIOError:
            return
        except OSError as error:
            self._disconnect(error)
            return
        if not received.data or not self._waiting:
            _close_all(received)
            self._disconnect(ConnectionResetError(errno.ECONNRESET, "connection closed by the logstore"))
            return
        answer = self._waiting.popleft()
        if answer.cancelled():
            _close_all(received)
        else:
            answer.set_result(received)

    def _disconnect(self, reason: OSError) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        waiting, self._waiting = self._waiting, deque()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(reason)


class Opening:
    """Log files that were asked for. Whatever arrives is closed by `close`, also when nobody waited for it."""

    def __init__(self, store: LogStore, job_id: str) -> None:
        self._store = store
        self._job_id = job_id
        self._files: LogFiles | None = None
        self._awaited = False
        self._asked = store.send("open", job_id)

    async def files(self) -> LogFiles:
        """The job's log files, made if they were not there. Raises Unavailable, or Internal with its text."""
        self._awaited = True
        received = await self._store.settle("open", self._job_id, self._asked)
        _check(received, "open", self._job_id, 2)
        self._files = LogFiles(*received.fds)
        return self._files

    def close(self) -> None:
        files, self._files = self._files, None
        if files is not None:
            os.close(files.output)
            os.close(files.index)
        elif not self._awaited and not self._asked.cancel() and self._asked.exception() is None:
            _close_all(self._asked.result())  # answered, and nobody looked at it


def _check(received: Received, operation: str, job_id: str, fd_count: int) -> None:
    answer = _object(received)
    if not answer.get("ok") or len(received.fds) != fd_count:
        _close_all(received)
        text = answer.get("error") or f"{len(received.fds)} descriptors instead of {fd_count}"
        raise Internal(f"the logstore could not {operation} the log of job {job_id}: {text}")


def _object(received: Received) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(received.data)
    return answer


def _close_all(received: Received) -> None:
    for fd in received.fds:
        os.close(fd)
