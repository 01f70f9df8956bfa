"""The control socket: gives the executor descriptors of log files, ends logs whose init was killed, and gives the
gateway of this machine a socket to read on.

A unix socket of type SOCK_SEQPACKET. Every request and every answer is one JSON object in one packet of at most 4 KiB:

    {"op": "open", "job_id": J}     -> {"ok": true}, with two descriptors (SCM_RIGHTS): output, index
    {"op": "prepare", "count": N}   -> {"ok": true, "spares": [S, ...]}, with those of N spare logs; N is 1 to 8
    {"op": "name", "spare": S, "job_id": J}
                                    -> {"ok": true}: the spare is the job's log (spares.py)
    {"op": "finish", "job_id": J}   -> {"ok": true, "bytes": N}; only for a job whose init is gone
    {"op": "discard", "job_id": J}  -> {"ok": true}; only for a job that has never run: there is no log of it any more
    {"op": "size", "job_id": J}     -> {"ok": true, "bytes": N, "ended": false}
    {"op": "stream", "job_id": J}   -> {"ok": true, "ticket": T}, with one descriptor: a socket, on which the output
                                       comes that a call of ReadLogs with this ticket asks for (`tickets`)
    anything else                   -> {"ok": false, "error": "what was wrong"}

All of them may be repeated; "prepare" and "stream" give others each time. Only uid 0 and the logstore's own uid get an
answer other than a refusal (SO_PEERCRED, unix(7)); the file mode 0600 keeps others from connecting at all. A bad packet
is answered and logged, and its connection goes on.

Each connection has a thread, which waits for a request, does what it says and answers: launches wait for that, and it
takes one wake-up of one thread.
"""

import asyncio
import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from joblet.common import unixsock
from joblet.common.errors import InvalidArgument, JobletError, PermissionDenied, ResourceExhausted
from joblet.common.log import get_logger
from joblet.logstore import metrics
from joblet.logstore.layout import LogDirectory
from joblet.logstore.spares import Spare
from joblet.logstore.tickets import Tickets

PACKET_SIZE = 4096  # bytes, for requests and answers
CONNECTIONS = 64
SPARES_AT_ONCE = 8
SEND_TIMEOUT_SECONDS = 10.0  # for a peer that asks and does not read the answers
RETRY_SECONDS = 0.1  # before accepting again when there are no descriptors left

_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}

_KINDS = {str: "a string", int: "a whole number"}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    fields: dict[str, object]
    fds: tuple[int, ...] = ()

    def packet(self) -> bytes:
        return json.dumps(self.fields).encode()


class Handout:
    """Listens from its construction (raises StartError); `serve` takes connections.

    `opened` is called, in the thread of a connection, with the id of every job that gets a log to write to.
    """

    def __init__(self, path: Path, logs: LogDirectory, opened: Callable[[str], None], tickets: Tickets) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._logs = logs
        self._opened = opened
        self._tickets = tickets
        self._socket = unixsock.bind(path)
        self._socket.setblocking(False)
        self._peers: dict[socket.socket, threading.Thread] = {}
        self._closing = threading.Lock()  # a peer's socket is closed, or shut down by `close`, but not both at once
        self._operations: dict[str, tuple[dict[str, type], Callable[..., Answer]]] = {
            "open": ({"job_id": str}, self._open),
            "prepare": ({"count": int}, self._prepare),
            "name": ({"spare": str, "job_id": str}, self._name),
            "finish": ({"job_id": str}, self._finish),
            "discard": ({"job_id": str}, self._discard),
            "size": ({"job_id": str}, self._size),
            "stream": ({"job_id": str}, self._stream),
        }

    def close(self) -> None:
        """Ends all connections, each after the request that is being answered."""
        self._path.unlink(missing_ok=True)
        self._socket.close()
        with self._closing:
            threads = list(self._peers.values())
            for peer in self._peers:
                with suppress(OSError):  # the other side has closed it
                    peer.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    async def serve(self) -> None:
        """Runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    raise
                log.error("control socket cannot accept", error=error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            # Counted here, so that who comes first is admitted.
            crowded = len(self._peers) >= CONNECTIONS
            self._peers[peer] = threading.Thread(target=self._connection, args=(peer, crowded), name="control")
            self._peers[peer].start()

    def _connection(self, peer: socket.socket, crowded: bool) -> None:
        try:
            peer.setblocking(True)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(SEND_TIMEOUT_SECONDS))
            self._answer_all(peer, crowded)
        except BlockingIOError:
            log.warn("control connection failed", error="answers are not read")
        except OSError as error:
            log.warn("control connection failed", error=error)
        except Exception:  # - a fault in answering one peer must not take the others along
            log.exception("control connection failed")
        finally:
            with self._closing:
                del self._peers[peer]
                peer.close()

    def _answer_all(self, peer: socket.socket, crowded: bool) -> None:
        try:
            _admit(unixsock.peer(peer).uid, crowded)
        except JobletError as refused:
            log.warn("control connection refused", error=refused)
            _send(peer, Answer({"ok": False, "error": str(refused)}))
            return
        while True:
            try:
                packet = unixsock.receive(peer, PACKET_SIZE, max_fds=0)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                refusal = InvalidArgument(f"a request has at most {PACKET_SIZE} bytes and no descriptors")
                _send(peer, _failure(refusal))
                continue
            if not packet.data:
                return
            _send(peer, self._answer(packet.data, peer))

    def _answer(self, packet: bytes, peer: socket.socket) -> Answer:
        try:
            operation, arguments = self._parse(packet)
            if operation == self._discard:
                operation = partial(self._discard, peer)
            return operation(**arguments)
        except (JobletError, OSError) as error:
            return _failure(error)

    def _parse(self, packet: bytes) -> tuple[Callable[..., Answer], Mapping[str, object]]:
        try:
            request = json.loads(packet)
        except (ValueError, RecursionError):
            raise InvalidArgument("a request is one JSON object") from None
        name = request.pop("op", None) if isinstance(request, dict) else None
        if name is None:
            raise InvalidArgument('a request is an object with the key "op"')
        if not isinstance(name, str) or name not in self._operations:
            raise InvalidArgument(f"op is one of {', '.join(self._operations)}")
        keys, operation = self._operations[name]
        if request.keys() != keys.keys():
            raise InvalidArgument(f"a request has the keys {' and '.join(json.dumps(key) for key in ('op', *keys))}")
        for key, kind in keys.items():
            if type(request[key]) is not kind:
                raise InvalidArgument(f"{key} is {_KINDS[kind]}")
        return operation, request

    def _open(self, job_id: str) -> Answer:
        files = self._logs.open_for_writing(job_id)
        self._has_log(job_id)
        return Answer({"ok": True}, (files.output, files.index))

    def _prepare(self, count: int) -> Answer:
        if not 1 <= count <= SPARES_AT_ONCE:
            raise InvalidArgument(f"count is 1 to {SPARES_AT_ONCE}")
        spares: list[Spare] = []
        try:
            for _ in range(count):
                spares.append(self._logs.spares.make())
        except BaseException:
            for spare in spares:
                spare.close()
            raise
        return Answer(
            {"ok": True, "spares": [spare.name for spare in spares]},
            tuple(fd for spare in spares for fd in (spare.output, spare.index)),
        )

    def _name(self, spare: str, job_id: str) -> Answer:
        self._logs.name_spare(spare, job_id)
        self._has_log(job_id)
        return Answer({"ok": True})

    def _has_log(self, job_id: str) -> None:
        metrics.OPENED.inc()
        self._opened(job_id)

    def _finish(self, job_id: str) -> Answer:
        return Answer({"ok": True, "bytes": self._logs.finish(job_id)})

    def _discard(self, peer: socket.socket, job_id: str) -> Answer:
        """Not for a peer that is gone: the next executor may have the log by now."""
        self._logs.discard(job_id, lambda: not unixsock.is_closed(peer))
        return Answer({"ok": True})

    def _size(self, job_id: str) -> Answer:
        size = self._logs.size(job_id)
        return Answer({"ok": True, "bytes": size.total_bytes, "ended": size.ended})

    def _stream(self, job_id: str) -> Answer:
        ticket, fd = self._tickets.offer(job_id)
        return Answer({"ok": True, "ticket": ticket}, (fd,))


def _admit(uid: int, crowded: bool) -> None:
    if uid not in (0, os.geteuid()):
        raise PermissionDenied(f"uid {uid} may not use this socket")
    if crowded:
        raise ResourceExhausted(f"more than {CONNECTIONS} connections to this socket")


def _failure(error: JobletError | OSError) -> Answer:
    log.warn("control request failed", error=error)
    return Answer({"ok": False, "error": str(error)})


def _send(peer: socket.socket, answer: Answer) -> None:
    """One packet, whose descriptors are closed here: the peer has its own by then. A peer that is gone does not get it.

    Raises BlockingIOError for one that does not read.
    """
    try:
        with suppress(BrokenPipeError):
            unixsock.send(peer, answer.packet(), answer.fds)
    finally:
        for fd in answer.fds:
            os.close(fd)


def _timeval(seconds: float) -> bytes:
    """struct timeval."""
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
