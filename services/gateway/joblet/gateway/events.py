"""Following one node: its jobs compared with the store's when it connects, then its events, applied in order once each.

One session, repeated for as long as the gateway runs:
1. the store's active jobs are read, then the node is asked for its jobs (in this order: what the store shows as
   acknowledged then, the node must know);
2. `reconcile.decide` says what follows, `store.events.settle` stores it in one transaction;
3. the node counts as connected: new jobs may be placed on it;
4. at the same time: events (`conversation`) from the last number applied, in groups as they come in one message;
   StartJob again for jobs without an answer; ForgetJob and StopJob for jobs that are over; the removal of deleted ones.
Whatever goes wrong ends the session, and the next one starts from what the store says.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from joblet.api.internal import executor_pb2
from joblet.common import log
from joblet.common.errors import FailedPrecondition, Internal, JobletError, NotFound
from joblet.common.states import JobState
from joblet.common.units import NS_PER_SECOND
from joblet.gateway import forgetting, reconcile
from joblet.gateway.changes import Changes
from joblet.gateway.conversation import Conversation
from joblet.gateway.launch import Launches
from joblet.gateway.link import UNANSWERED, Link
from joblet.gateway.locallines import LocalLines
from joblet.gateway.metrics import Metrics
from joblet.gateway.store import attempts
from joblet.gateway.store import events as event_queries
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store import nodes as node_queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.events import Ended, Event, Started

LIST_SECONDS = 10.0
FORGET_SECONDS = 10.0
STOP_SECONDS = 30.0
RECONNECT_SECONDS = (0.05, 2.0)  # first and longest pause between two sessions
STEADY_SECONDS = 5.0  # a session that lasted this long is no part of the failures before it
RETRY_SECONDS = 0.5  # before StartJob is sent again on a connection that works
FORGET_GROUP_SECONDS = 0.1  # jobs that ended meanwhile are forgotten in one call
FORGET_GROUP = 64
FORGET_RETRY_SECONDS = 0.5  # the node may still be clearing up after a job

_ENDS = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.STOPPED})

_log = log.get_logger(__name__)


class Follower:
    """`follow` runs once per link, for every node."""

    def __init__(
        self, database: Database, changes: Changes, launches: Launches, lines: LocalLines, metrics: Metrics
    ) -> None:
        self._database = database
        self._lines = lines
        self._changes = changes
        self._launches = launches
        self._metrics = metrics

    async def follow(self, link: Link) -> None:
        """Until cancelled."""
        pause, longest = RECONNECT_SECONDS
        said = ""
        while True:
            begun = time.monotonic()
            why = await self._session(link)
            if time.monotonic() - begun > STEADY_SECONDS:
                pause, said = RECONNECT_SECONDS[0], ""
            if why != said:
                _log.warn("node is not connected", nodeId=link.node.id, error=why)
                said = why
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _session(self, link: Link) -> str:
        """Returns why the node is not connected any more."""
        link.restart.clear()
        try:
            todo = _Todo()
            after = await self._compare(link, todo)
            link.full = False
            link.connected.set()
            self._changes.announce_room()
            _log.info("node connected", nodeId=link.node.id)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._events(link, after, todo))
                tasks.create_task(self._resubmit(link))
                tasks.create_task(_stop_orphans(link, todo))
                tasks.create_task(_forget_ended(link, todo))
                tasks.create_task(forgetting.carry_out(self._database, link))
                # Not one more task: a group whose body is over leaves its task's count of cancellations wrong when a
                # child fails (CPython before 3.13), and that count is what tells a stop from a failure here.
                await link.restart.wait()
                raise link.unavailable("it has to be compared with the store again")
        except JobletError as error:
            return error.message
        except BaseExceptionGroup as group:
            return _why(group)
        finally:
            link.connected.clear()

    async def _compare(self, link: Link, todo: "_Todo") -> int:
        """Steps 1 and 2; returns the number of the last event applied."""
        node_id = link.node.id
        active = await self._database.read(job_queries.active_of, node_id)
        answer: executor_pb2.ListNodeJobsResponse = await link.call(
            link.executor.ListJobs, executor_pb2.ListNodeJobsRequest(), LIST_SECONDS
        )
        on_node = [reconcile.OnNode(job.job_id, _state(job.status)) for job in answer.jobs]
        stored = await self._database.read(attempts.by_executions, [job.job_id for job in on_node])
        last_sequence = await self._database.read(node_queries.last_sequence, node_id)
        plan = reconcile.decide(last_sequence, answer.last_sequence, active, stored, on_node, gap=link.gap)
        adopted = [event for job in answer.jobs if job.job_id in plan.adopt for event in decode_snapshot(job)]
        await self._database.write(
            event_queries.settle, node_id, plan.sequence, plan.known,
            [(job_id, f"node {node_id} no longer knows this job") for job_id in plan.lost], plan.revived,
            adopted, time.time_ns(),
        )  # fmt: skip
        link.gap = False
        self._report(link, plan)
        adopted_jobs = [stored[node_job_id].id for node_job_id in plan.adopt if node_job_id in stored]
        self._changes.announce([*plan.known, *plan.lost, *adopted_jobs, *(job_id for job_id, _ in plan.revived)])
        self._changes.announce_schedule()
        link.unanswered.clear()
        link.unanswered.update(plan.submit)
        link.retry.clear()
        todo.stop(plan.orphans)
        todo.forget(plan.forget)
        return last_sequence if plan.sequence is None else plan.sequence

    def _report(self, link: Link, plan: reconcile.Plan) -> None:
        if plan.sequence is not None:
            _log.error("node's events do not join up with the store's", nodeId=link.node.id, after=plan.sequence)
        for job_id in plan.lost:
            _log.error("job failed: its node no longer knows it", jobId=job_id, nodeId=link.node.id)
        for job_id, state in plan.revived:
            _log.info("job found again on its node", jobId=job_id, nodeId=link.node.id, status=state)
        for job_id in plan.unknown:
            _log.warn("node has a job that is not in the store; it is left alone", jobId=job_id, nodeId=link.node.id)

    async def _events(self, link: Link, after: int, todo: "_Todo") -> None:
        """Applies what comes, one transaction for each message. Ends by raising: a stream of events never ends by
        itself."""
        try:
            with link.errors(), link.conversation(await self._lines.follow(link, after)) as conversation:
                sending = asyncio.create_task(_send(link, conversation), name="orders to a node")
                try:
                    async for messages in conversation.events():
                        group = [decode(message) for message in messages]
                        self._publish(link, await self._database.write(event_queries.apply, link.node.id, group), todo)
                finally:
                    sending.cancel()
        except FailedPrecondition:
            link.gap = True
            raise
        raise link.unavailable("its events ended")

    def _publish(self, link: Link, applied: event_queries.Applied, todo: "_Todo") -> None:
        ended = set(applied.ended)
        if applied.crowd or link.full:
            self._changes.announce_room()
        if applied.forget:
            link.full = False
        self._changes.announce_ends(ended)
        self._changes.announce_progress(job_id for job_id in applied.changed if job_id not in ended)
        if applied.retried:
            self._retried(applied.retried)
        self._metrics.events.labels(link.node.id).inc(len(applied.changed))
        for nanoseconds in applied.started:
            self._metrics.running_seconds.observe(nanoseconds / NS_PER_SECOND)
        for job_id in applied.unknown:
            _log.warn("event of a job that is not in the store", jobId=job_id, nodeId=link.node.id)
        self._launches.stored(applied.changed)
        todo.forget(applied.forget)
        todo.stop(applied.orphans)

    def _retried(self, job_ids: Sequence[str]) -> None:
        self._metrics.retried.inc(len(job_ids))
        self._launches.stored(job_ids)
        self._changes.announce_progress(job_ids)
        self._changes.announce_schedule()
        self._changes.announce_room()

    async def _resubmit(self, link: Link) -> None:
        """StartJob again: at once for what the comparison found, a moment later for what failed on this connection."""
        while True:
            while link.unanswered:
                await self._launches.resubmit(link, link.unanswered.pop())
            await link.retry.wait()
            link.retry.clear()
            await asyncio.sleep(RETRY_SECONDS)


class _Todo:
    """What is left to do on the node for jobs that are over; lost with the session, found again by the next one."""

    def __init__(self) -> None:
        self.orphans: asyncio.Queue[str] = asyncio.Queue()
        self.ended: asyncio.Queue[str] = asyncio.Queue()

    def stop(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            self.orphans.put_nowait(job_id)

    def forget(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            self.ended.put_nowait(job_id)


async def _stop_orphans(link: Link, todo: _Todo) -> None:
    while True:
        job_id = await todo.orphans.get()
        _log.warn("stopping a job that is over for the gateway", jobId=job_id, nodeId=link.node.id)
        request = executor_pb2.StopJobRequest(job_id=job_id)
        with suppress(NotFound, FailedPrecondition), _refusals(link, "stop", [job_id]):  # those: it has ended meanwhile
            await link.call(link.executor.StopJob, request, STOP_SECONDS)


async def _forget_ended(link: Link, todo: _Todo) -> None:
    while True:
        group = [await todo.ended.get()]
        await asyncio.sleep(FORGET_GROUP_SECONDS)
        while len(group) < FORGET_GROUP and not todo.ended.empty():
            group.append(todo.ended.get_nowait())
        with _refusals(link, "forget", group):
            request = executor_pb2.ForgetJobRequest(job_ids=group)
            answer = await link.call(link.executor.ForgetJob, request, FORGET_SECONDS)
            if answer.kept:
                asyncio.get_running_loop().call_later(FORGET_RETRY_SECONDS, todo.forget, list(answer.kept))


@contextmanager
def _refusals(link: Link, wanted: str, job_ids: Sequence[str]) -> Iterator[None]:
    """A node that will not clear up is no reason to end the session with it; one that does not answer is."""
    try:
        yield
    except (NotFound, FailedPrecondition):
        raise
    except JobletError as error:
        if error.code in UNANSWERED:
            raise
        _log.warn(
            "node does not clear up", jobIds=",".join(job_ids), nodeId=link.node.id, wanted=wanted, error=error.message
        )


async def _send(link: Link, conversation: Conversation) -> None:
    """Whatever ends it ends the call, and why is said to who reads from it."""
    try:
        with link.errors():
            await conversation.send()
    except (JobletError, asyncio.InvalidStateError):
        conversation.close()


def decode(message: executor_pb2.JobEvent) -> Event:
    """Raises Internal for an event that means nothing to us: skipping it would lose it for good."""
    kind = message.WhichOneof("event")
    if kind == "started":
        return Event(message.sequence, message.job_id, message.time_ns, _started(message.started))
    if kind == "ended":
        return Event(message.sequence, message.job_id, message.time_ns, _ended(message.ended))
    raise Internal(f"event {message.sequence} of job {message.job_id} is of an unknown kind")


def decode_snapshot(job: executor_pb2.NodeJob) -> list[Event]:
    """What a job's state on its node would have been told by events."""
    events = []
    if job.started_ns:
        events.append(Event(0, job.job_id, job.started_ns, Started(tuple(job.not_isolated), None)))
    if job.HasField("outcome"):
        events.append(Event(0, job.job_id, job.outcome.ended_ns, _ended(job.outcome)))
    return events


def _started(started: executor_pb2.JobStarted) -> Started:
    attestation = started.attestation.SerializeToString() if started.HasField("attestation") else None
    return Started(tuple(started.not_isolated), attestation)


def _ended(outcome: executor_pb2.Outcome) -> Ended:
    state = _state(outcome.status)
    if state not in _ENDS:
        raise Internal(f"a job cannot end as {state}")
    return Ended(
        state=state,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        reason=outcome.reason,
        message=outcome.message,
        started_ns=outcome.started_ns,
        ended_ns=outcome.ended_ns,
        usage=outcome.usage.SerializeToString() if outcome.HasField("usage") else None,
        output_bytes=outcome.output_bytes,
    )


def _state(status: str) -> JobState:
    try:
        return JobState(status)
    except ValueError:
        raise Internal(f"a node reports the unknown status {status}") from None


def _why(group: BaseExceptionGroup[BaseException]) -> str:
    """The first named error that ended a session. Raises whatever is a fault of ours, and the cancellation that a
    TaskGroup keeps to itself when one of its tasks fails at the same moment."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    named, rest = group.split(JobletError)
    if named is None or rest is not None:
        raise group
    first: BaseException = named
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first)
