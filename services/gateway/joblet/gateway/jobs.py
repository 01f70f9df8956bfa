"""What a client can ask about jobs: run, status, stop, cancel, wait. The RPC handlers call it."""

import asyncio
import time

from joblet.api import job_pb2
from joblet.api.internal import executor_pb2
from joblet.common import log
from joblet.common.config import Config
from joblet.common.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    JobletError,
    JobNotRunning,
    NotFound,
    Unavailable,
)
from joblet.common.ids import is_job_id, new_job_id
from joblet.common.states import TERMINAL, JobState, Reason
from joblet.gateway import placement, schedule, spec, views
from joblet.gateway.changes import Changes
from joblet.gateway.launch import Launches
from joblet.gateway.link import Link
from joblet.gateway.metrics import Metrics
from joblet.gateway.nodes import Nodes
from joblet.gateway.placement import Line, Needs, Waiting, Why
from joblet.gateway.queue import Queue
from joblet.gateway.spec import Submission
from joblet.gateway.store import attempts
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store import queue as queue_queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.model import Job
from joblet.gateway.store.queue import Place
from joblet.gateway.uploads import Uploads
from joblet.gateway.vault import Vault

STOP_SECONDS = 30.0
RESTART_SECONDS, RESTART_PAUSE_SECONDS = 5.0, 0.1  # how long a stop waits for an executor that is away, asking so often
APPLY_SECONDS = 15.0  # from a node's word that a job has ended until its event is in the store
EXIT_CODE_STOPPED = -1

_log = log.get_logger(__name__)


class Jobs:
    def __init__(
        self,
        config: Config,
        database: Database,
        nodes: Nodes,
        queue: Queue,
        launches: Launches,
        vault: Vault,
        uploads: Uploads,
        changes: Changes,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._database = database
        self._nodes = nodes
        self._queue = queue
        self._launches = launches
        self._vault = vault
        self._uploads = uploads
        self._changes = changes
        self._metrics = metrics

    async def find(self, wanted: str) -> Job:
        """By whole id or unambiguous prefix. Raises JobNotFound, InvalidArgument naming the candidates."""
        if not wanted:
            raise InvalidArgument("no job id given", field="uuid")
        try:
            return await self._database.read(job_queries.find, wanted)
        except job_queries.AmbiguousPrefix as error:
            raise InvalidArgument(_ambiguous(wanted, error.candidates), field="uuid") from None

    async def run(self, request: job_pb2.RunJobReq) -> job_pb2.GetJobStatusRes:
        """Answers when the job is durable. Raises what validation, the nodes, the limits or the node's refusal say."""
        begun = time.perf_counter()
        submission = spec.prepare(request, self._config.joblet, time.time_ns())
        try:
            job = await self._accept(submission, begun)
        except (job_queries.RequestTaken, Unavailable, NotFound, InvalidArgument, FailedPrecondition) as error:
            known = await self._known(submission)
            if known is not None:
                return await self._shown(known)
            if isinstance(error, JobletError):
                raise
            raise Internal("a job id was given out twice") from error
        if job.state is JobState.INITIALIZING:
            link = self._nodes.link(job.node_id)
            await self._launches.start(link, job, submission.secrets, submission.contents)
            if link.full or job.max_retries:  # it may have to wait again
                job = await self.find(job.id)
        elif job.state is JobState.SCHEDULED:
            self._changes.announce_schedule()
        return await self._shown(job)

    async def _accept(self, submission: Submission, begun: float) -> Job:
        """Makes the job durable, placed on a node when there is one with room; `begun` is when the request came."""
        places = self._places(submission, await self._nodes_for(submission))
        await self._uploads.check(submission.uploads)
        job_id = new_job_id()
        sealed = self._vault.seal(job_id, submission.secrets)
        values = spec.new_job(submission, job_id, time.time_ns())
        placed = time.perf_counter()
        job = await self._database.write(queue_queries.submit, values, submission.contents, sealed, places)
        self._metrics.gateway_seconds.observe(placed - begun)
        self._metrics.store_seconds.observe(time.perf_counter() - placed)
        _log.info("job accepted", jobId=job.id, status=job.state, nodeId=job.node_id, command=job.command)
        return job

    async def _nodes_for(self, submission: Submission) -> list[Link]:
        """Of a job with a time to come, none need be connected yet. Raises InvalidArgument for a time that is over."""
        if not submission.due_ns:
            return await self._nodes.reachable(submission.node_id)
        schedule.check(submission.due_ns, time.time_ns())
        return self._nodes.registered(submission.node_id)

    def _places(self, submission: Submission, links: list[Link]) -> list[Place]:
        """Those of the nodes that the job could ever run on. Raises InvalidArgument when there is none."""
        suitable, refusal = [], None
        for link in links:
            place = self._queue.place(link)
            try:
                spec.check_fit(submission, link.node, place.capacity)
            except InvalidArgument as error:
                refusal = error
            else:
                suitable.append(place)
        if refusal is not None and not suitable:
            raise refusal
        return suitable

    async def _known(self, submission: Submission) -> Job | None:
        """The job that an earlier attempt with this request id made."""
        if submission.request_id is None:
            return None
        job = await self._database.read(job_queries.by_request, submission.request_id)
        if job is not None and job.request_digest != submission.request_digest:
            raise AlreadyExists(f"requestId {submission.request_id} was used for a different job: {job.id}")
        return job

    async def status(self, wanted: str) -> job_pb2.GetJobStatusRes:
        return await self._shown(await self.find(wanted))

    async def _shown(self, job: Job) -> job_pb2.GetJobStatusRes:
        """The job's message, and of one that waits for room, what it waits for just now."""
        message = views.status(job)
        if job.state is JobState.PENDING:
            line = await self._database.read(queue_queries.line, job)
            views.add_waiting(message, await self._why(job, line), line)
        elif job.state is JobState.SCHEDULED:
            message.reason = Waiting.SCHEDULE.value
            if job.attempt > 1:
                message.message = f"waiting for attempt {job.attempt} of {job.max_retries + 1}"
        else:
            message.remainingSeconds = views.remaining_seconds(job, time.time_ns())
        if job.max_retries:
            views.add_attempts(message, job, await self._database.read(attempts.past, job.id))
        return message

    async def _why(self, job: Job, line: Line) -> Why:
        places = self._queue.places(self._nodes.suitable(job.wanted_node))
        rooms = await self._database.read(queue_queries.rooms, places)
        return placement.explain(Needs(job.need_cpu_percent, job.need_memory_mb), rooms, line, job.upload_bytes)

    async def cancel(self, wanted: str) -> job_pb2.GetJobStatusRes:
        """Takes a job out of the queue or the schedule. Raises FailedPrecondition for one that has been placed."""
        job = await self.find(wanted)
        if await self._take_out(job):
            return await self._shown(await self.find(job.id))
        job = await self.find(job.id)
        raise FailedPrecondition(
            f"job cannot be canceled: {job.id} (current status: {job.state})",
            hint="it has ended" if job.ended else "it is on its node already: stop it",
        )

    async def _take_out(self, job: Job) -> bool:
        if job.state not in queue_queries.WAITING:
            return False
        if not await self._database.write(queue_queries.cancel, job.id, time.time_ns()):
            return False
        self._changes.announce([job.id])
        return True

    async def stop(self, wanted: str) -> job_pb2.GetJobStatusRes:
        """Answers with the final state: CANCELED for a job that was still waiting, else STOPPED. A job that ends by
        itself meanwhile keeps its own state: JobNotRunning."""
        job = await self.find(wanted)
        if await self._take_out(job):
            return await self._shown(await self.find(job.id))
        if job.retries_left:
            await self._database.write(attempts.no_more, job.id)
        await self._launches.settled(job.id)
        with self._changes.watch(job.id) as changed:
            job = await self._running(job.id)
            if not await self._stop_on_node(job):
                return await self._shown(await self.find(job.id))
            try:
                async with asyncio.timeout(APPLY_SECONDS):
                    job = await self._ended(job.id, changed)
            except TimeoutError:
                raise Unavailable(f"job {job.id} has ended, but node {job.node_id} has not said how yet") from None
        if job.state is not JobState.STOPPED:
            raise JobNotRunning(job.id, job.state)
        return await self._shown(job)

    async def _running(self, job_id: str) -> Job:
        job = await self.find(job_id)
        if job.ended:
            raise JobNotRunning(job.id, job.state)
        return job

    async def _stop_on_node(self, job: Job) -> bool:
        """True when the node says that the job has ended; False when the job never got there and was ended here.

        An executor that is being restarted is waited for: its jobs go on meanwhile, and a stop sent twice is one.
        """
        deadline = time.monotonic() + RESTART_SECONDS
        while True:
            try:
                link = self._nodes.link(job.node_id)
                await link.call(link.executor.StopJob, executor_pb2.StopJobRequest(job_id=job.execution), STOP_SECONDS)
            except FailedPrecondition:
                return True
            except NotFound:
                self._launches.forgotten(job.id)
                if await self._stop_unsent(job):
                    return False
                link.restart.set()  # the node has forgotten the job: the comparison settles what becomes of it
                return True
            except Unavailable:
                if await self._stop_unsent(job):
                    return False
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RESTART_PAUSE_SECONDS)
            else:
                return True

    async def _stop_unsent(self, job: Job) -> bool:
        """Ends a job that its node does not know. Should the node have it all the same, it is stopped there as
        soon as that shows."""
        job = await self.find(job.id)
        if self._launches.has_answered(job) or job.state is not JobState.INITIALIZING:
            return False
        stopped = await self._database.write(
            job_queries.end, job.id, JobState.STOPPED, Reason.STOPPED, "", EXIT_CODE_STOPPED, time.time_ns()
        )
        self._changes.announce([job.id])
        return stopped

    async def wait(self, wanted: str, timeout_seconds: int) -> job_pb2.GetJobStatusRes:
        """The final state, or the present one when the time has passed; 0 waits for ever."""
        if timeout_seconds < 0:
            raise InvalidArgument(f"timeoutSeconds must not be negative: {timeout_seconds}", field="timeoutSeconds")
        job_id = wanted if is_job_id(wanted) else (await self.find(wanted)).id
        try:
            async with asyncio.timeout(timeout_seconds or None):
                return await self._shown(await self.ended(job_id))
        except TimeoutError:
            return await self.status(job_id)

    async def as_attempt(self, job_id: str, number: int) -> Job:
        """The job as it is or was in this attempt. Raises JobNotFound."""
        return await self._database.read(attempts.as_attempt, await self.find(job_id), number)

    async def attempts(self, job: Job) -> list[Job]:
        """The job as it was in each of its attempts, oldest first, and as it is now."""
        return await self._database.read(attempts.all_of, job)

    async def reaches(self, job_id: str, number: int, *, wait: bool) -> bool:
        """Whether the job has come to this attempt; with `wait`, whether it will, known by its next attempt or end."""
        with self._changes.watch(job_id) as changed:
            while (job := await self.find(job_id)).attempt < number and not job.ended and wait:
                await changed.wait()
                changed.clear()
        return job.attempt >= number

    async def ended(self, job_id: str) -> Job:
        """Returns when the job is terminal in the store. Raises JobNotFound."""
        with self._changes.watch_end(job_id) as changed:
            return await self._ended(job_id, changed)

    async def _ended(self, job_id: str, changed: asyncio.Event) -> Job:
        # Most often it has not ended yet, and then only its state matters.
        if await self._database.read(job_queries.state_of, job_id) not in TERMINAL:
            await changed.wait()
            changed.clear()
        while not (job := await self.find(job_id)).ended:
            await changed.wait()
            changed.clear()
        return job


def _ambiguous(wanted: str, candidates: tuple[str, ...]) -> str:
    shown = ", ".join(candidates[: job_queries.MAX_CANDIDATES])
    more = ", ..." if len(candidates) > job_queries.MAX_CANDIDATES else ""
    return f"job id {wanted} is ambiguous: {shown}{more}"
