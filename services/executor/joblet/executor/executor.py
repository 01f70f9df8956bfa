"""The jobs of this node: accepting and stopping them. What the RPC handlers call.

Accepting a job is synchronous up to the point where nothing of the node can refuse it any more: limits are set, the log
exists. The launch goes on in a task of its own and is told by events. Everything here runs in one event loop.
"""

import asyncio
import os
import sqlite3
import time
from concurrent.futures import Future
from contextlib import ExitStack, closing
from typing import Final

from joblet.common import log
from joblet.common.errors import Internal, JobletError, JobNotFound, JobNotRunning, Unavailable, from_code
from joblet.common.states import JobState
from joblet.executor.admission import Capacity, admit, check_room
from joblet.executor.cgroup.driver import LimitNotApplied
from joblet.executor.job import Order, Outcome, Record
from joblet.executor.journal import Journal
from joblet.executor.launch import Resources, launch_spec, not_isolated
from joblet.executor.metrics import REFUSALS, RUNNING, STARTS, Phases
from joblet.executor.reserve import Reserve
from joblet.executor.site import Claims, Site
from joblet.executor.supervise import Supervisor

DRAIN_SECONDS: Final = 5.0

_log = log.get_logger(__name__)


class Executor:
    """Made inside `tasks`, the TaskGroup that its launches and supervisions run in."""

    def __init__(self, site: Site, capacity: Capacity, tasks: asyncio.TaskGroup) -> None:
        self.site = site
        self._capacity = capacity
        self._tasks = tasks
        self._reserve = Reserve(site.node, site.users, site.cgroups, tasks)
        self._accepting: dict[str, asyncio.Task[Record | JobletError]] = {}
        self._supervisors: dict[str, Supervisor] = {}
        self._released: set[Future[None]] = set()  # of ended jobs that held something of the node when last looked
        self._watching: set[asyncio.Task[None]] = set()
        self._closing = False
        RUNNING.set_function(lambda: len(self._supervisors))

    async def start(self, order: Order) -> Record:
        """Accepts a job, or answers with it if it is known. Raises the refusal."""
        # A caller that goes away must not leave half a job.
        answer = await asyncio.shield(self.order(order))
        if isinstance(answer, JobletError):
            raise answer
        return answer

    def order(self, order: Order) -> "asyncio.Future[Record | JobletError]":
        """As `start`, without waiting: the answer to come. Concurrent orders for one id are one."""
        if self._closing:
            return _answered(Unavailable("the executor is stopping", hint="it will be back; try again"))
        task = self._accepting.get(order.job_id)
        if task is None:
            known = self.site.journal.job(order.job_id)
            if known is not None:
                return _answered(known)
            task = self._tasks.create_task(self._accept(order), name=f"accept {order.job_id}")
            self._accepting[order.job_id] = task
            task.add_done_callback(lambda _: self._accepting.pop(order.job_id, None))
        return task

    def knows(self, job_id: str) -> bool:
        """Whether the job has been accepted, or is being."""
        return job_id in self._accepting or self.site.journal.job(job_id) is not None

    async def stop(self, job_id: str) -> tuple[Outcome, int]:
        """Ends a job; its outcome and the number of the event that tells it. JobNotRunning when it had ended itself."""
        supervisor = self._supervisors.get(job_id)
        if supervisor is None:
            raise not_running(self.site.journal, job_id)
        event = await supervisor.stop()
        outcome = event.body
        if not isinstance(outcome, Outcome):
            raise Internal(f"the last event of job {job_id} is not its end")
        if outcome.state is not JobState.STOPPED:
            raise JobNotRunning(job_id, outcome.state)
        return outcome, event.sequence

    def watch(self, supervisor: Supervisor, task: asyncio.Task[None]) -> None:
        """Knows a job until its end; also used for adopted ones."""
        job_id = supervisor.job_id
        self._supervisors[job_id] = supervisor
        supervisor.ended.add_done_callback(lambda _: self._let_go(supervisor))
        supervisor.launched.add_done_callback(lambda _: self._refill())
        self.leave_at_end(task)

    def _refill(self) -> None:
        self._reserve.refill()
        self.site.logs.refill()

    def _let_go(self, supervisor: Supervisor) -> None:
        self._supervisors.pop(supervisor.job_id, None)
        self._released = {*self._leaving(), supervisor.released}

    def _leaving(self) -> set[Future[None]]:
        """What ended jobs still hold of the node goes with these."""
        return {released for released in self._released if not released.done()}

    def leave_at_end(self, task: asyncio.Task[None]) -> None:
        """A task that may be canceled when the executor ends: the next one takes up what it did."""
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def close(self) -> None:
        """Takes no more jobs, lets launches and removals come to their point and leaves every running job alone."""
        self._closing = True
        self._reserve.close()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._accepting or any(supervisor.busy for supervisor in self._supervisors.values()):
                    await asyncio.sleep(0.01)
                for released in self._leaving():
                    await asyncio.wrap_future(released)
        except TimeoutError:
            _log.warn("launches or removals were still going on at the end")
        for task in list(self._watching):
            task.cancel()

    async def _accept(self, order: Order) -> Record | JobletError:
        try:
            return await self._take(order)
        except LimitNotApplied as error:
            refusal: JobletError = Internal(f"job creation failed: {error.message}", field=error.field, hint=error.hint)
        except JobletError as error:
            refusal = error
        except (OSError, sqlite3.Error) as error:
            refusal = Internal(f"job creation failed: {error}")
        REFUSALS.labels(refusal.code).inc()
        _log.warn("job refused", jobId=order.job_id, code=refusal.code, error=refusal.message)
        return refusal

    async def _end_log(self, job_id: str) -> None:
        """A refused job has a log by now, and nobody is to wait for more of it."""
        try:
            await self.site.logs.finish(job_id)
        except JobletError as error:
            _log.warn("log of a refused job not closed", jobId=job_id, error=error)

    async def _take(self, order: Order) -> Record:
        phases = Phases()
        admit(order.limits, self._capacity, len(self._supervisors) + len(self._accepting) - 1)
        check_room(sum(upload.size for upload in order.uploads), order.limits, self.site.node.work_bytes)
        try:
            return await self._begin(order, phases)
        except Unavailable:
            raise  # the logstore's: there is nothing it could be told
        except (JobletError, OSError, sqlite3.Error):
            await self._end_log(order.job_id)
            raise

    async def _begin(self, order: Order, phases: Phases) -> Record:
        site, now_ns = self.site, time.time_ns()
        with ExitStack() as holdings, ExitStack() as descriptors:
            resources, spec = await self._claim(order, holdings, descriptors, phases)
            record = Record(
                order.job_id, JobState.INITIALIZING, order.command, resources.user.base, order.limits.memory_bytes,
                order.timeout_seconds, not_isolated(order, site.node), now_ns,
            )  # fmt: skip
            site.journal.add(record)
            phases.reached("spec")
            supervisor = Supervisor(site, record, resources.cgroup, Claims(descriptors.pop_all(), holdings.pop_all()))
        STARTS.inc()
        task = self._tasks.create_task(supervisor.launch(order, spec, resources, phases), name=f"job {order.job_id}")
        self.watch(supervisor, task)
        self._accepting.pop(order.job_id, None)  # now, lest the next order finds this job counted twice
        return record

    async def _claim(
        self, order: Order, holdings: ExitStack, descriptors: ExitStack, phases: Phases
    ) -> tuple[Resources, bytes]:
        site = self.site
        prepared = self._reserve.take(order)
        if prepared is not None:
            descriptors.callback(prepared.close)
            user = prepared.user
        else:
            while site.users.exhausted and (leaving := self._leaving()):
                await asyncio.wait(map(asyncio.wrap_future, leaving), return_when=asyncio.FIRST_COMPLETED)
            user = site.users.acquire()
        holdings.callback(site.users.release, user.base)
        phases.reached("admit")
        # First of all: the directory marks what follows as this executor's (`adopt` clears up by it after a crash).
        state = site.states.make(order.job_id)
        holdings.callback(site.states.remove, order.job_id)
        if order.outputs:
            site.outputs.expect(site.states.path(order.job_id), order.earlier)
        descriptors.callback(os.close, state)
        opening = descriptors.enter_context(closing(site.logs.opening(order.job_id)))
        cgroup = site.cgroups.create(order.job_id, order.limits, site.devices)
        holdings.callback(cgroup.remove)
        descriptors.callback(cgroup.close)
        phases.reached("cgroup")
        log_files = await opening.files()
        phases.reached("log")
        resources = Resources(state, log_files, cgroup, user, prepared)
        return resources, launch_spec(order, resources, site.node).encode()


class NoExecutor:
    """In the place of an Executor on a machine that cannot run jobs: every order is refused with the reason."""

    def __init__(self, journal: Journal, reason: JobletError) -> None:
        self._journal = journal
        self._reason = reason

    async def start(self, order: Order) -> Record:
        raise self._refusal()

    def order(self, order: Order) -> "asyncio.Future[Record | JobletError]":
        return _answered(self._refusal())

    def _refusal(self) -> JobletError:
        REFUSALS.labels(self._reason.code).inc()
        return from_code(self._reason.code, self._reason.message, hint=self._reason.hint)

    async def stop(self, job_id: str) -> tuple[Outcome, int]:
        raise not_running(self._journal, job_id)

    async def close(self) -> None:
        """Nothing runs here."""


def not_running(journal: Journal, job_id: str) -> JobletError:
    """Why a job that nobody supervises cannot be stopped."""
    record = journal.job(job_id)
    return JobNotFound(job_id) if record is None else JobNotRunning(job_id, record.state)


def _answered(answer: Record | JobletError) -> "asyncio.Future[Record | JobletError]":
    future: asyncio.Future[Record | JobletError] = asyncio.get_running_loop().create_future()
    future.set_result(answer)
    return future
