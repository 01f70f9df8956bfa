"""The executor's side of the logstore's control socket: log files for jobs, and the end of a log that init left open.

One connection; requests go out at once and are answered in their order: JSON both ways, descriptors beside the answer.
Every operation can be repeated, so a request that met a restarting logstore is sent again until its time is up; running
jobs write on meanwhile, they hold the files themselves.

A job gets a log made ahead (`sparelogs`) while the logstore is there, and the logstore gives it the job's name during
the launch: whoever tells a command to go has awaited `LogFiles.named`. Otherwise, and when there is none, the log is
opened and waited for.
"""

import asyncio
import errno
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
from joblet.executor.logrequests import Request, checked, close_all, encoded
from joblet.executor.sparelogs import Spare, SpareLogs

TIMEOUT_SECONDS: Final = 5.0
NAMING_SECONDS: Final = 20.0  # a job that has been accepted does not fail of a logstore that is being restarted
_RETRY_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class LogFiles:
    """Descriptors of a job's log: `output` for splice(2) from offset 0, `index` opened with O_APPEND."""

    output: int
    index: int
    naming: "Naming | None" = None

    async def named(self) -> None:
        """Returns when the log has the job's name. Raises Unavailable when the logstore stays away, Internal when the
        log never will have it."""
        if self.naming is not None:
            await self.naming.done(NAMING_SECONDS)

    async def gets_name(self) -> bool:
        """Whether it has it, or never will. Raises Unavailable, sooner."""
        try:
            if self.naming is not None:
                await self.naming.done(TIMEOUT_SECONDS)
        except Internal:
            return False
        return True


class LogStore:
    """A client of the socket at `path`; connects when first asked. Made and used inside one running event loop."""

    def __init__(self, path: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._socket: socket.socket | None = None
        self._waiting: deque[asyncio.Future[Received]] = deque()
        self._spares = SpareLogs(self.send)

    def opening(self, job_id: str) -> "Opening":
        """Asks for the job's log files without waiting for them."""
        spare = self._spares.take() if self._socket is not None else None
        if spare is None:
            return Opening(self, job_id)
        naming = Naming(self, spare, job_id)
        if naming.failed:
            spare.close()
            return Opening(self, job_id)
        return Opening(self, job_id, spare, naming)

    def refill(self) -> None:
        """Logs are made ahead, soon."""
        self._spares.refill()

    async def finish(self, job_id: str) -> int:
        """Marks the end of the output of a job whose init is gone; the number of bytes in it."""
        return int((await self._answer({"op": "finish", "job_id": job_id}))["bytes"])

    async def discard(self, job_id: str) -> None:
        """Removes the log of a job that has never run. One attempt: raises OSError while the logstore is away, Internal
        when something has been written to the log."""
        request: Request = {"op": "discard", "job_id": job_id}
        checked(request, await self.send(request))

    async def size(self, job_id: str) -> int:
        """Bytes of output so far."""
        return int((await self._answer({"op": "size", "job_id": job_id}))["bytes"])

    def close(self) -> None:
        self._spares.close()
        self._disconnect(ConnectionAbortedError(errno.ECONNABORTED, "closed"))

    async def _answer(self, request: Request) -> Mapping[str, Any]:
        return checked(request, await self.settle(request, self.send(request), self._timeout_seconds))

    def send(self, request: Request) -> "asyncio.Future[Received]":
        """One attempt; the answer to come, or the OSError that met it."""
        answer: asyncio.Future[Received] = asyncio.get_running_loop().create_future()
        try:
            sock = self._connected()
            unixsock.send(sock, encoded(request))
            self._waiting.append(answer)
        except OSError as error:
            self._disconnect(error)
            answer.set_exception(error)
        return answer

    async def open(self, request: Request, answer: "asyncio.Future[Received]") -> LogFiles:
        """The log files of an answer. Raises Unavailable, or Internal with its text."""
        received = await self.settle(request, answer, self._timeout_seconds)
        checked(request, received, 2)
        output, index = received.fds
        return LogFiles(output, index)

    async def settle(self, request: Request, answer: "asyncio.Future[Received]", seconds: float) -> Received:
        """Waits for an answer, asking again while the logstore is away. Raises Unavailable when its time is up."""
        if answer.done() and answer.exception() is None:  # mostly: a log is named while jobinit works
            return answer.result()
        reason = "no answer"
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await answer
                    except OSError as error:
                        reason = (error.strerror or str(error)).lower()
                        await asyncio.sleep(_RETRY_SECONDS)
                        answer = self.send(request)
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
            close_all(received)
            self._disconnect(ConnectionResetError(errno.ECONNRESET, "connection closed by the logstore"))
            return
        answer = self._waiting.popleft()
        if answer.cancelled():
            close_all(received)
        else:
            answer.set_result(received)

    def _disconnect(self, reason: OSError) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
            self._spares.drop()
        waiting, self._waiting = self._waiting, deque()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(reason)


class Opening:
    """Log files that were asked for. Whatever arrives is closed by `close`, also when nobody waited for it."""

    def __init__(
        self, store: LogStore, job_id: str, spare: Spare | None = None, naming: "Naming | None" = None
    ) -> None:
        self._store = store
        self._request: Request = {"op": "open", "job_id": job_id}
        self._naming = naming
        self._files: LogFiles | None = None
        self._asked: asyncio.Future[Received] | None = None
        if spare is None:
            self._asked = store.send(self._request)
        else:
            self._files = LogFiles(spare.output, spare.index, naming)

    async def files(self) -> LogFiles:
        """The job's log files, made if they were not there. Raises Unavailable, or Internal with its text."""
        if self._asked is not None:
            asked, self._asked = self._asked, None
            self._files = await self._store.open(self._request, asked)
        if self._files is None:
            raise Internal("log files that were asked for did not come or are closed")
        return self._files

    def close(self) -> None:
        files, self._files = self._files, None
        if files is not None:
            os.close(files.output)
            os.close(files.index)
        if self._naming is not None:
            self._naming.close()
        if self._asked is not None and not self._asked.cancel() and self._asked.exception() is None:
            close_all(self._asked.result())  # answered, and nobody looked at it


class Naming:
    """A log made ahead on its way to be a job's. One task at a time awaits it, as often as it wants."""

    def __init__(self, store: LogStore, spare: Spare, job_id: str) -> None:
        self._store = store
        self._request: Request = {"op": "name", "spare": spare.name, "job_id": job_id}
        self._asked: asyncio.Future[Received] | None = store.send(self._request)
        self._done = False
        self._refusal: Internal | None = None

    @property
    def failed(self) -> bool:
        """The first attempt, at once: the logstore has not heard of it."""
        return self._asked is not None and self._asked.done() and self._asked.exception() is not None

    async def done(self, seconds: float) -> None:
        """Raises Unavailable while the logstore is away, Internal when it refuses."""
        if self._refusal is not None:
            raise self._refusal
        if self._done:
            return
        asked, self._asked = self._asked or self._store.send(self._request), None
        received = await self._store.settle(self._request, asked, seconds)
        try:
            checked(self._request, received)
        except Internal as refusal:
            self._refusal = refusal
            raise
        self._done = True

    def close(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None and not asked.cancel():
            asked.exception()  # nobody wants to know any more
