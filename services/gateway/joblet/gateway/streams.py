"""GetJobLogs: the logstore's messages passed on as the bytes they came in, until all of the output has been sent.

The logstore's DataChunk is the public one, so nothing is decoded but the two numbers needed to go on after a break:
where a chunk begins and how long its payload is. A logstore that goes away is asked again from there; when the job has
ended, the logstores of other nodes, too, which have its log if they share an archive with the node. The stream ends
with OK only when the store has the job's end, so that GetJobStatus never says RUNNING after it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

from joblet.api import job_pb2
from joblet.api.internal.logstore_pb2 import FindBeginningResponse, ReadLogsRequest
from joblet.common import log
from joblet.common.errors import DeadlineExceeded, Internal, NotFound, Unavailable
from joblet.common.states import UNKNOWN_BYTES
from joblet.gateway import logoptions
from joblet.gateway.attemptlogs import AttemptLogs
from joblet.gateway.changes import Changes
from joblet.gateway.jobs import Jobs
from joblet.gateway.link import Link
from joblet.gateway.localstream import LocalStreams
from joblet.gateway.metrics import Metrics
from joblet.gateway.nodes import Nodes
from joblet.gateway.store.model import Job, NodeState

GIVE_UP_SECONDS = 30.0  # a logstore that cannot be reached for longer ends the stream
STEADY_SECONDS = 5.0  # a connection that lasted this long is no part of the failures before it
RETRY_SECONDS = (0.05, 1.0)
LOG_SECONDS = 0.5  # how often a log that should be there is looked for

PAYLOAD_TAG = 0x0A  # field 1, length-delimited
OFFSET_TAG = 0x10  # field 2, varint
TIMES_TAG = 0x1A  # field 3, length-delimited

Write = Callable[[bytes], Awaitable[None]]

_log = log.get_logger(__name__)


class ReaderStalled(DeadlineExceeded):
    """The client took nothing for too long."""


class Logs:
    """A client that takes nothing for `reader_timeout_seconds` is sent away."""

    def __init__(
        self,
        jobs: Jobs,
        nodes: Nodes,
        changes: Changes,
        metrics: Metrics,
        local: LocalStreams,
        reader_timeout_seconds: float,
    ) -> None:
        self.jobs = jobs
        self.nodes = nodes
        self.changes = changes
        self.metrics = metrics
        self.local = local
        self.reader_timeout_seconds = reader_timeout_seconds

    async def send(self, request: job_pb2.GetJobLogsReq, write: Write) -> None:
        """What is asked for (`logoptions`), by default everything until the job has ended."""
        logoptions.check(request)
        job = await self.jobs.find(request.uuid)
        with self.metrics.log_streams.track_inprogress():
            if job.max_retries or request.attempt:
                await AttemptLogs(self.jobs, job, request, write, _Attempts(self, job.id)).send()
            else:
                await _Copy(self, job, request, write).run()
            if logoptions.lasts_to_the_end(request) and not request.attempt:
                await self.jobs.ended(job.id)


class _Attempts:
    """A job's attempts as `attemptlogs.Source`."""

    def __init__(self, logs: Logs, job_id: str) -> None:
        self._logs = logs
        self._job_id = job_id

    async def copy(self, number: int, request: job_pb2.GetJobLogsReq, write: Write) -> None:
        await _Copy(self._logs, await self._attempt(number), request, write).run()

    async def find(self, number: int, request: job_pb2.GetJobLogsReq) -> FindBeginningResponse:
        return await _Copy(self._logs, await self._attempt(number), request, _nowhere).find()

    async def _attempt(self, number: int) -> Job:
        return await self._logs.jobs.as_attempt(self._job_id, number)


async def _nowhere(message: bytes) -> None:
    raise Internal(f"{len(message)} bytes of output where only their beginning was asked for")


class _Copy:
    """One reader of one job's log, or of that of one of its attempts: an offset that only grows."""

    def __init__(self, logs: Logs, job: Job, request: job_pb2.GetJobLogsReq, write: Write) -> None:
        self._logs = logs
        self._job = job
        self._request = request
        self._reached: int | None = None  # nothing has come yet
        self._write = write
        self._failing_since: float | None = None
        self._had_ended = False  # before the log was asked for
        self._found = FindBeginningResponse()

    async def run(self) -> None:
        if await self._placed():
            await self._persevere(self._read)

    async def find(self) -> FindBeginningResponse:
        """Where `run` would begin; the beginning of nothing when there is no output."""
        if await self._placed():
            await self._persevere(self._find)
        return self._found

    async def _persevere(self, ask: Callable[[Link], Awaitable[None]]) -> None:
        """Asks the node's logstore until it has answered to the end."""
        pause, longest = RETRY_SECONDS
        while True:
            begun = time.monotonic()
            before = self._reached
            try:
                await ask(self._link())
                return
            except NotFound:
                if not await self._worth_asking_again():
                    return
                continue
            except ReaderStalled:
                raise
            except (Unavailable, DeadlineExceeded):  # the second: the logstore's patience with this reader is shorter
                self._job = await self._as_it_is()
                if self._job.ended and await self._asked_elsewhere(ask):
                    return
                if self._reached != before or time.monotonic() - begun > STEADY_SECONDS:
                    self._failing_since, pause = None, RETRY_SECONDS[0]
                self._give_up_after_a_while()
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _placed(self) -> bool:
        """Waits until the job is on a node. False when there is nothing to read: it was canceled before that, or is not
        to be followed."""
        if self._job.node_id:
            return True
        with self._logs.changes.watch(self._job.id) as changed:
            self._job = await self._as_it_is()
            follows = logoptions.lasts_to_the_end(self._request)
            with suppress(TimeoutError):
                async with asyncio.timeout(logoptions.seconds_left(self._request) if follows else None):
                    while follows and not (self._job.node_id or self._job.ended):
                        await changed.wait()
                        changed.clear()
                        self._job = await self._as_it_is()
        return bool(self._job.node_id)

    async def _as_it_is(self) -> Job:
        return await self._logs.jobs.as_attempt(self._job.id, self._job.attempt)

    async def _worth_asking_again(self) -> bool:
        """After NOT_FOUND: waits a moment while the log may still come; False when there never will be output.

        Raises NotFound when there was some and it is gone.
        """
        with self._logs.changes.watch(self._job.id) as changed:
            job = await self._as_it_is()
            if job.ended and not self._had_ended:
                self._had_ended = True  # the answer may be older than the log
                return True
            if job.ended and job.started_ns:
                raise NotFound(f"log not found for job: {job.id}")
            if job.ended or not logoptions.lasts_to_the_end(self._request):
                return False
            try:
                async with asyncio.timeout(LOG_SECONDS):
                    await changed.wait()
            except TimeoutError:
                _log.debug("still no log", jobId=job.id)
        return True

    def _give_up_after_a_while(self) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        link = self._link()  # one that is not registered is not waited for
        lost = self._request.noFollow and link.node.state is NodeState.LOST  # a lease long has been waited for it
        if lost or now - self._failing_since > GIVE_UP_SECONDS:
            raise link.unavailable("its logstore cannot be reached")

    def _link(self) -> Link:
        """Raises Unavailable, as a node that is gone for good does when it cannot be reached."""
        return self._logs.nodes.link(self._job.node_id)

    async def _asked_elsewhere(self, ask: Callable[[Link], Awaitable[None]]) -> bool:
        """From the archive, through a node other than the job's; False when that cannot be."""
        for link in self._logs.nodes.others(self._job.node_id):
            try:
                await ask(link)
            except (NotFound, Unavailable):
                continue
            return True
        return False

    def _wanted(self) -> ReadLogsRequest:
        wanted = logoptions.read_request(self._job.execution, self._request, self._reached)
        wanted.search_archive = self._job.ended or self._had_ended
        # All of it is there then, and nobody may ever mark its end.
        wanted.no_follow = wanted.no_follow or (self._job.ended and self._job.output_bytes == UNKNOWN_BYTES)
        return wanted

    async def _find(self, link: Link) -> None:
        with link.errors():
            self._found = await link.logstore.FindBeginning(self._wanted())

    async def _read(self, link: Link) -> None:
        with link.errors():
            async with aclosing(self._logs.local.read(link, self._wanted())) as chunks:
                async for chunk in chunks:
                    await self._pass_on(chunk)

    async def _pass_on(self, chunk: bytes) -> None:
        end = chunk_end(chunk)
        seconds = self._logs.reader_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._write(chunk)
        except TimeoutError:
            self._logs.metrics.log_streams_stalled.inc()
            _log.warn("slow client sent away", jobId=self._job.id, offset=self._reached)
            raise ReaderStalled(
                f"reader too slow: it took nothing for {seconds:g} s; read on from the offset that was reached"
            ) from None
        self._reached = end
        self._logs.metrics.log_bytes.inc(len(chunk))


def chunk_end(message: bytes) -> int:
    """The offset behind a serialized DataChunk: its offset plus the length of its payload, which is not copied.

    The encoding is that of protobuf.dev/programming-guides/encoding. Raises Internal for anything else, or for fields
    that DataChunk does not have: what is passed on undecoded must be exactly what clients expect.
    """
    position = offset = length = 0
    while position < len(message):
        tag = message[position]
        value, position = _varint(message, position + 1)
        if tag == PAYLOAD_TAG:
            length = value
            position += value
        elif tag == OFFSET_TAG:
            offset = value
        elif tag == TIMES_TAG:
            position += value
        else:
            raise Internal(f"the logstore sent a chunk with the unknown tag {tag}")
    if position != len(message):
        raise Internal("the logstore sent a chunk that is cut short")
    return offset + length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise Internal("the logstore sent a chunk that is cut short")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
