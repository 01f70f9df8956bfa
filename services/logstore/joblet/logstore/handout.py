"""The control socket: gives the executor descriptors of a job's log files, ends logs whose init was killed, and gives
the gateway of this machine a socket to read on.

A unix socket of type SOCK_SEQPACKET. Every request and every answer is one JSON object in one packet of at most 4 KiB:

    {"op": "open", "job_id": J}     -> {"ok": true}, with two descriptors (SCM_RIGHTS): output, index
    {"op": "finish", "job_id": J}   -> {"ok": true, "bytes": N}; only for a job whose init is gone
    {"op": "size", "job_id": J}     -> {"ok": true, "bytes": N, "ended": false}
    {"op": "stream", "job_id": J}   -> {"ok": true, "ticket": T}, with one descriptor: a socket, on which the output
                                       comes that a call of ReadLogs with this ticket asks for (`tickets`)
    anything else                   -> {"ok": false, "error": "what was wrong"}

All may be repeated. Only uid 0 and the logstore's own uid get an answer other than a refusal (SO_PEERCRED,
unix(7)); the file mode 0600 keeps others from connecting at all. A bad packet is answered and logged, and its
connection goes on.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from joblet.common import unixsock
from joblet.common.errors import InvalidArgument, JobletError, PermissionDenied, ResourceExhausted
from joblet.common.log import get_logger
from joblet.logstore import metrics
from joblet.logstore.layout import LogDirectory
from joblet.logstore.tickets import Tickets

PACKET_SIZE = 4096  # bytes, for requests and answers
CONNECTIONS = 64
SEND_TIMEOUT_SECONDS = 10.0  # for a peer that asks and does not read the answers
RETRY_SECONDS = 0.1  # before accepting again when there are no descriptors left

_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    fields: dict[str, object]
    fds: tuple[int, ...] = ()

    def packet(self) -> bytes:
        return json.dumps(self.fields).encode()


class Handout:
    """Listens from its construction (raises StartError); answers while `serve` runs; one packet at a time per peer.

    `opened` is called, in the thread of `disk`, with the id of every log that is given away.
    """

    def __init__(
        self, path: Path, logs: LogDirectory, disk: Executor, opened: Callable[[str], None], tickets: Tickets
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._logs = logs
        self._disk = disk
        self._opened = opened
        self._tickets = tickets
        self._socket = unixsock.bind(path)
        self._socket.setblocking(False)
        self._connections = 0
        self._operations: dict[str, Callable[[str], Answer]] = {
            "open": self._open,
            "finish": self._finish,
            "size": self._size,
            "stream": self._stream,
        }

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._socket.close()

    async def serve(self) -> None:
        """Runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    peer, _ = await loop.sock_accept(self._socket)
                except OSError as error:
                    if error.errno not in _NO_DESCRIPTORS:
                        raise
                    log.error("control socket cannot accept", error=error)
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                group.create_task(self._connection(peer))

    async def _connection(self, peer: socket.socket) -> None:
        with peer:
            peer.setblocking(False)
            self._connections += 1
            try:
                await self._answer_all(peer)
            except (OSError, TimeoutError) as error:
                log.warn("control connection failed", error=error)
            except Exception:  # - a fault in answering one peer must not take the others along
                log.exception("control connection failed")
            finally:
                self._connections -= 1

    async def _answer_all(self, peer: socket.socket) -> None:
        try:
            self._admit(unixsock.peer(peer).uid)
        except JobletError as refused:
            log.warn("control connection refused", error=refused)
            await _send(peer, Answer({"ok": False, "error": str(refused)}))
            return
        while True:
            await _ready(peer, "reader")
            try:
                packet = unixsock.receive(peer, PACKET_SIZE, max_fds=0)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                refusal = InvalidArgument(f"a request has at most {PACKET_SIZE} bytes and no descriptors")
                await _send(peer, _failure(refusal))
                continue
            if not packet.data:
                return
            unsent = await asyncio.get_running_loop().run_in_executor(self._disk, self._serve, peer, packet.data)
            if unsent is not None:
                with _given_away(unsent):
                    await _send(peer, unsent)

    def _admit(self, uid: int) -> None:
        if uid not in (0, os.geteuid()):
            raise PermissionDenied(f"uid {uid} may not use this socket")
        if self._connections > CONNECTIONS:
            raise ResourceExhausted(f"more than {CONNECTIONS} connections to this socket")

    def _serve(self, peer: socket.socket, packet: bytes) -> Answer | None:
        """In the disk's thread, and the answer goes out from there: a launch waits for it. What could not be sent."""
        answer = self._answer(packet)
        with _given_away(answer) as descriptors:
            try:
                with contextlib.suppress(BrokenPipeError):
                    unixsock.send(peer, answer.packet(), answer.fds)
            except BlockingIOError:
                descriptors.pop_all()
                return answer
        return None

    def _answer(self, packet: bytes) -> Answer:
        try:
            operation, job_id = self._parse(packet)
            return operation(job_id)
        except (JobletError, OSError) as error:
            return _failure(error)

    def _parse(self, packet: bytes) -> tuple[Callable[[str], Answer], str]:
        try:
            request = json.loads(packet)
        except (ValueError, RecursionError):
            raise InvalidArgument("a request is one JSON object") from None
        if not isinstance(request, dict) or request.keys() != {"op", "job_id"}:
            raise InvalidArgument('a request has the keys "op" and "job_id"')
        operation, job_id = request["op"], request["job_id"]
        if not isinstance(operation, str) or operation not in self._operations:
            raise InvalidArgument(f"op is one of {', '.join(self._operations)}")
        if not isinstance(job_id, str):
            raise InvalidArgument("job_id is a string")
        return self._operations[operation], job_id

    def _open(self, job_id: str) -> Answer:
        files = self._logs.open_for_writing(job_id)
        metrics.OPENED.inc()
        self._opened(job_id)
        return Answer({"ok": True}, (files.output, files.index))

    def _finish(self, job_id: str) -> Answer:
        return Answer({"ok": True, "bytes": self._logs.finish(job_id)})

    def _size(self, job_id: str) -> Answer:
        size = self._logs.size(job_id)
        return Answer({"ok": True, "bytes": size.total_bytes, "ended": size.ended})

    def _stream(self, job_id: str) -> Answer:
        ticket, fd = self._tickets.offer(job_id)
        return Answer({"ok": True, "ticket": ticket}, (fd,))


@contextlib.contextmanager
def _given_away(answer: Answer) -> Iterator[ExitStack]:
    """Closes the answer's descriptors: the peer has its own by then."""
    with ExitStack() as descriptors:
        for fd in answer.fds:
            descriptors.callback(os.close, fd)
        yield descriptors


def _failure(error: JobletError | OSError) -> Answer:
    log.warn("control request failed", error=error)
    return Answer({"ok": False, "error": str(error)})


async def _send(peer: socket.socket, answer: Answer) -> None:
    """One packet; a peer that is gone does not get it. Raises TimeoutError for one that does not read."""
    async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
        while True:
            try:
                with contextlib.suppress(BrokenPipeError):
                    unixsock.send(peer, answer.packet(), answer.fds)
                return
            except BlockingIOError:
                await _ready(peer, "writer")


async def _ready(peer: socket.socket, direction: str) -> None:
    loop = asyncio.get_running_loop()
    add, remove = {
        "reader": (loop.add_reader, loop.remove_reader),
        "writer": (loop.add_writer, loop.remove_writer),
    }[direction]
    ready = asyncio.Event()
    add(peer, ready.set)
    try:
        await ready.wait()
    finally:
        remove(peer)
