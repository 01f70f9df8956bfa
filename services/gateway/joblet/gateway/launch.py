"""Handing stored jobs to their node: StartJob, once or as often as it takes.

The row is durable before StartJob is sent, and StartJob is idempotent, so a lost answer is no decision: the job stays
INITIALIZING and is handed over again when the node is back (`joblet.gateway.events`). Only a refusal ends it.

Small uploads and secret environments are in the store until the node has the job, the secrets encrypted
(`joblet.gateway.vault`): so a job can be handed over by any gateway, at any time after it was accepted.

A node that has no room after all, while other jobs are there, gives the job its place in line back.

An answer to StartJob is no acknowledgement yet: an executor that is killed before the command is told to go forgets the
job, which then certainly never ran, and it is handed over again. The first event says that it runs, or how it ended;
with it "acknowledged" is stored, and what was kept for another attempt goes.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

from joblet.api.internal import executor_pb2
from joblet.common import log
from joblet.common.errors import Code, FailedPrecondition, JobletError
from joblet.common.states import JobState, Reason
from joblet.gateway import spec
from joblet.gateway.changes import Changes
from joblet.gateway.link import UNANSWERED, Link
from joblet.gateway.metrics import Metrics
from joblet.gateway.store import attempts
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store import queue as queue_queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.model import Attempt, Job
from joblet.gateway.uploads import Uploads
from joblet.gateway.vault import Vault

START_SECONDS = 30.0
EXIT_CODE_NOT_LAUNCHED = 125

_log = log.get_logger(__name__)


class Launches:
    def __init__(self, database: Database, vault: Vault, uploads: Uploads, changes: Changes, metrics: Metrics) -> None:
        self._database = database
        self._vault = vault
        self._uploads = uploads
        self._changes = changes
        self._metrics = metrics
        self._tasks: asyncio.TaskGroup | None = None
        self._flying: dict[str, asyncio.Task[JobletError | None]] = {}
        self._answered: set[str] = set()  # by their node, which has sent no event of them yet
        self._overtaken: set[str] = set()  # in flight, and an event of theirs came before the answer

    async def run(self) -> None:
        """Until cancelled: keeps the calls in flight, whose callers may go away."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await asyncio.Event().wait()

    async def start(self, link: Link, job: Job, secrets: Mapping[str, str], contents: Sequence[bytes]) -> None:
        """The first attempt. Raises the node's refusal (the job is FAILED then). A client that leaves stops nothing."""
        error = await asyncio.shield(self._launch(link, job, secrets, contents))
        if error is not None:
            raise error

    async def hand_over(self, link: Link, job: Job) -> None:
        """The first attempt for a job that has waited; returns when it has begun."""
        try:
            secrets = self._vault.open(job.id, await self._database.read(job_queries.sealed_of, job.id))
        except FailedPrecondition as error:
            _log.error("job failed: its secrets cannot be read", jobId=job.id, error=error.message)
            await self._fail(job, Reason.LAUNCH, error.message)
            return
        contents = await self._database.read(job_queries.contents_of, job.id)
        earlier = await self._database.read(attempts.with_outputs, job) if job.attempt > 1 else []
        self._launch(link, job, secrets, contents, earlier)

    async def resubmit(self, link: Link, job_id: str) -> None:
        """Another attempt for a job that its node does not know, or may never have heard of; nothing if it was settled
        meanwhile."""
        if job_id in self._flying:
            return
        job = await self._database.read(job_queries.find, job_id)
        if job.state is not JobState.INITIALIZING or job.acknowledged:
            return
        self.forgotten(job_id)
        self._metrics.resubmitted.inc()
        _log.info("job handed to its node again", jobId=job_id, nodeId=job.node_id)
        await self.hand_over(link, job)
        await self.settled(job_id)

    async def settled(self, job_id: str) -> None:
        """Returns when no attempt for this job is in flight."""
        task = self._flying.get(job_id)
        if task is not None:
            await asyncio.shield(task)

    def has_answered(self, job: Job) -> bool:
        """Whether the node has, or had, the job."""
        return job.acknowledged or job.id in self._answered

    def forgotten(self, job_id: str) -> None:
        """The node does not know the job, whatever it has answered before."""
        self._answered.discard(job_id)

    def stored(self, job_ids: Iterable[str]) -> None:
        """Events of these jobs are in the store, and with them that the node has the jobs."""
        for job_id in job_ids:
            self._answered.discard(job_id)
            if job_id in self._flying:
                self._overtaken.add(job_id)

    def _launch(
        self,
        link: Link,
        job: Job,
        secrets: Mapping[str, str],
        contents: Sequence[bytes],
        earlier: Sequence[Attempt] = (),
    ) -> asyncio.Task[JobletError | None]:
        assert self._tasks is not None
        request = executor_pb2.StartJobRequest(spec=spec.executor_spec(job, secrets, contents, earlier))
        task = self._tasks.create_task(self._attempt(link, job, request), name=f"start {job.id}")
        self._flying[job.id] = task
        task.add_done_callback(lambda _: self._landed(job.id, task))
        return task

    def _landed(self, job_id: str, task: asyncio.Task[JobletError | None]) -> None:
        if self._flying.get(job_id) is task:  # not that of the next attempt
            del self._flying[job_id]
            self._overtaken.discard(job_id)

    async def _attempt(self, link: Link, job: Job, request: executor_pb2.StartJobRequest) -> JobletError | None:
        """The refusal, None when the node has the job or may have it, or when the job waits again."""
        begun = time.perf_counter()
        try:
            await self._uploads.bring(link, job.uploads)
            await link.start(request, START_SECONDS)
        except JobletError as error:
            if error.code in UNANSWERED:
                _log.warn("no answer to the start of a job", jobId=job.id, nodeId=job.node_id, error=error.message)
                link.unanswered.add(job.id)
                link.retry.set()
                return None
            _log.warn("job refused by its node", jobId=job.id, nodeId=job.node_id, error=error.message)
            return await self._refused(link, job, error)
        self._metrics.node_seconds.observe(time.perf_counter() - begun)
        if job.id not in self._overtaken:
            self._answered.add(job.id)
        self._changes.announce_progress([job.id])
        return None

    async def _refused(self, link: Link, job: Job, error: JobletError) -> JobletError | None:
        reason = Reason.LIMIT_NOT_APPLIED if error.field else Reason.LAUNCH
        try:
            if error.code is Code.RESOURCE_EXHAUSTED and await self._database.write(queue_queries.give_back, job.id):
                link.full = True
                self._changes.announce_progress([job.id])
                return None
            if await self._fail(job, reason, error.message):
                return None
        except JobletError as failure:  # the store's: ask the node again when it works, the refusal will come again
            link.unanswered.add(job.id)
            link.retry.set()
            return failure
        return error

    async def _fail(self, job: Job, reason: Reason, message: str) -> bool:
        """True when another attempt will follow."""
        again = await self._database.write(
            attempts.fail, job.id, reason, message, EXIT_CODE_NOT_LAUNCHED, time.time_ns(), job.execution
        )
        if again:
            self._changes.announce_schedule()
        self._changes.announce([job.id])
        return again
