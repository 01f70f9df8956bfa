"""One job under supervision, from its launch (or adoption) to its end and the event about it.

A job ends when its init does: the pidfd becomes readable; no process of it is left then. In this order: the exit record
and the counters are read, the log is closed if init could not, the end is made durable and told, and what the job held
(cgroups, state directory, uid range) is given back in a thread, so that neither the news nor other launches wait for
it. Nobody gets the uid range before all of it is gone; after a crash in between `adopt` clears up by the directory.
"""

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Final

from joblet.common import log
from joblet.common.errors import Internal, JobletError
from joblet.common.states import UNKNOWN_BYTES, JobState, Reason
from joblet.executor import exitrecord, launch, procfs
from joblet.executor.attest import AttestationFailed, attest
from joblet.executor.cgroup.driver import CgroupError, CgroupUsage, JobCgroup
from joblet.executor.ending import Evidence, Failure, launch_failure, outcome_of
from joblet.executor.exitrecord import DamagedRecord, ExitRecord
from joblet.executor.job import Event, InitProcess, Order, Outcome, Record, Started
from joblet.executor.jobspec import Stage
from joblet.executor.launch import Handshake, LaunchError, NeverBorn, Resources
from joblet.executor.logs import LogFiles
from joblet.executor.metrics import OUTCOMES, Phases
from joblet.executor.site import Claims, Site
from joblet.executor.waiting import readable, reap

LAUNCH_SECONDS: Final = 30.0
_UNPACK_BYTES_PER_SECOND: Final = 32 << 20  # at least so fast are uploads written into /work
_JOURNAL_RETRY_SECONDS: Final = 1.0
_LOGSTORE_RETRY_SECONDS: Final = 1.0
_EXEC_POLL_SECONDS: Final = 0.02
_SHORT_SECONDS: Final = 0.002  # a command that ends sooner is told of once: started and ended

_log = log.get_logger(__name__)


class Canceled(Exception):
    """A stop was asked for before the command was told to go."""


class Supervisor:
    """`ended` gets the job's last event, `released` is done once nothing is held for the job any more: by the cleaner,
    which disturbs the event loop only when somebody waits there (asyncio.wrap_future). Either `launch` or `adopt` runs,
    once, as a task."""

    def __init__(self, site: Site, record: Record, cgroup: JobCgroup | None, claims: Claims) -> None:
        self.job_id = record.job_id
        self.ended: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self.released: Future[None] = Future()
        self.released.set_running_or_notify_cancel()  # who gives up waiting for it cancels nothing
        self.launched: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._site = site
        self._state_dir = site.states.path(record.job_id)
        self._record = record
        self._cgroup = cgroup
        self._claims = claims
        self._pidfd: int | None = None
        self._init_left = False  # as far as seen
        self._init_killed = False  # by this process
        self._log: LogFiles | None = None  # while this process holds it
        self._outputs = True  # as far as known
        self._stop = asyncio.Event()
        self._refused: Failure | None = None
        self._heard: Failure | None = None
        self._overdue = False  # init did not end it at its timeout, so this process has
        self._ran_ns = 0  # when its command began to run; that has not been told yet

    async def launch(self, order: Order, spec: bytes, resources: Resources, phases: Phases) -> None:
        """Starts the command and watches it to its end."""
        self._log, self._outputs = resources.log, bool(order.outputs)
        with self._claims.descriptors:
            await self._launch(order, spec, resources, phases)
            del order, spec, resources  # the secrets in them have done their service
            self.launched.set_result(None)
            await self._end()

    async def adopt(self, pidfd: int | None) -> None:
        """Goes on where an earlier executor left off; None: init has ended since."""
        with self._claims.descriptors:
            if pidfd is not None:
                self._own(pidfd)
                await self._see_whether_it_runs()
            self.launched.set_result(None)
            await self._end()

    @property
    def launching(self) -> bool:
        return not self.launched.done()

    @property
    def busy(self) -> bool:
        """With what the executor must not leave in the middle of: the launch, or the removal of what the job held."""
        return self.launching or (self.ended.done() and not self.released.done())

    def presume(self, failure: Failure) -> None:
        """Why there may be no exit record."""
        self._heard = failure

    async def stop(self) -> Event:
        """TERM by init, then KILL of all when it does not end in time; the job's last event."""
        first = not self._stop.is_set()
        self._stop.set()
        if first and not self.launching:
            self._signal(signal.SIGTERM)
        limit_seconds = self._site.node.grace_seconds + self._site.cleanup_seconds
        limit_seconds += self._site.outputs.seconds(self._state_dir)
        try:
            async with asyncio.timeout(limit_seconds):
                return await asyncio.shield(self.ended)
        except TimeoutError:
            _log.warn("init did not end after TERM and is killed", jobId=self.job_id)
            self._init_killed = True
            self._signal(signal.SIGKILL)
            await self._kill_processes()
            return await asyncio.shield(self.ended)

    async def _launch(self, order: Order, spec: bytes, resources: Resources, phases: Phases) -> None:
        limit_seconds = LAUNCH_SECONDS + sum(upload.size for upload in order.uploads) // _UNPACK_BYTES_PER_SECOND
        try:
            async with asyncio.timeout(limit_seconds):
                try:
                    await self._attempt(order, spec, resources, phases)
                except NeverBorn as error:
                    _log.warn("launch begun again", jobId=self.job_id, error=error)
                    await self._attempt(order, spec, resources, phases)
        except Canceled:
            return
        except LaunchError as error:
            self._heard = launch_failure(self._record.command, error.stage, error.error, error.detail)
        except AttestationFailed as error:
            self._refused = Failure(Reason.ISOLATION, error.message)
        except TimeoutError:
            self._refused = Failure(Reason.LAUNCH, f"job could not be started within {limit_seconds:g} s")
        except (OSError, sqlite3.Error, JobletError) as error:
            self._refused = Failure(Reason.LAUNCH, f"job could not be started: {error}")
        else:
            self._ran_ns = time.time_ns()
            resources.cgroup.close_join_fds()
            phases.tell()
            if not await self._ends_at_once():
                await self._tell_started()
            return
        phases.tell()
        await self._hasten()

    async def _attempt(self, order: Order, spec: bytes, resources: Resources, phases: Phases) -> None:
        with launch.spawn(spec, order.uploads, resources, self._site.node) as handshake:
            await self._shake_hands(handshake, order, resources, phases)

    async def _shake_hands(self, handshake: Handshake, order: Order, resources: Resources, phases: Phases) -> None:
        phases.reached("spawn")
        pid, pidfd = await handshake.init()
        self._own(pidfd)
        phases.reached("init")
        # While jobinit works: what can be known of the job before its command waits.
        node = self._site.node
        expected = launch.expectation(order, resources, node, pid)
        start_ticks = procfs.start_ticks(pid)
        command_pid = await handshake.parked()  # raises what init has said, if it has ended
        if start_ticks is None:
            raise LaunchError(Stage.CONTROL, 0, "init ended during the launch")
        phases.reached("park")
        facts = attest(command_pid, resources.cgroup, expected)
        attested_ns = time.time_ns()
        phases.reached("attest")
        await resources.log.named()
        phases.reached("name")
        if self._stop.is_set():
            raise Canceled
        init = InitProcess(pid, start_ticks, node.boot_id, command_pid)
        body = Started(time.time_ns(), self._record.not_isolated, attested_ns, facts)
        self._record = self._site.journal.parked(self.job_id, init, body)
        phases.reached("journal")
        await handshake.go()
        phases.reached("exec")

    def _own(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self._claims.descriptors.callback(os.close, pidfd)

    def _signal(self, number: signal.Signals) -> None:
        # A pidfd never means another process; one that has ended is no error.
        if self._pidfd is not None and not self.ended.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def _init_leaves(self, pidfd: int) -> None:
        """A job at its timeout is ended by its init, or here when that is kept from it: a process that prints holds the
        lock of the output pipe, also while it waits for the page it prints from, which may come from a disk at the
        job's own slow rate; and init waits for the lock. With its holder the wait is over. An adopted job's time is
        counted anew."""
        timeout, site = self._record.timeout_seconds, self._site
        seconds = timeout + site.node.grace_seconds + site.cleanup_seconds if timeout else None
        while True:
            if await readable(pidfd, seconds):
                return
            if self._read_record() is not None:  # init has ended the job, and collects or waits for the logs' disk
                seconds = None
                continue
            if not self._overdue:
                _log.warn("init did not end the job at its timeout", jobId=self.job_id)
            self._overdue, seconds = True, site.cleanup_seconds
            await self._kill_processes()

    async def _kill_processes(self) -> None:
        """Those of the job, but for its init."""
        if self._cgroup is None:
            return
        try:
            await asyncio.to_thread(self._cgroup.kill)
        except CgroupError as error:
            _log.error("processes of the job are left", jobId=self.job_id, error=error)

    async def _hasten(self) -> None:
        """After a failed launch init leaves by itself; one that does not is killed."""
        if self._pidfd is None:
            return
        if not await readable(self._pidfd, self._site.cleanup_seconds):
            self._signal(signal.SIGKILL)

    async def _ends_at_once(self) -> bool:
        if self._pidfd is None:
            raise Internal(f"job {self.job_id} was launched without an init")
        self._init_left = await readable(self._pidfd, _SHORT_SECONDS)
        return self._init_left

    async def _tell_started(self) -> None:
        time_ns, self._ran_ns = self._ran_ns or time.time_ns(), 0
        event = await self._durable(lambda: self._site.feed.started(self.job_id, time_ns))
        self._record = replace(self._record, state=JobState.RUNNING, started_ns=_started_ns(event))

    async def _see_whether_it_runs(self) -> None:
        """An earlier executor died around GO: either the command runs, or it is leaving, having heard nothing."""
        init = self._record.init
        if self._record.state is JobState.RUNNING or init is None or self._pidfd is None:
            return
        while procfs.same_program(init.pid, init.command_pid):
            if await readable(self._pidfd, _EXEC_POLL_SECONDS):
                return
        if procfs.start_ticks(init.command_pid) is not None:
            await self._tell_started()

    async def _end(self) -> None:
        if self._pidfd is not None:
            if self._stop.is_set():
                self._signal(signal.SIGTERM)  # it was asked for during the launch
            if not self._init_left:
                await self._init_leaves(self._pidfd)
            self._site.states.init_left(self.job_id)
        record = self._read_record()
        untold = self._started_untold(record)
        usage = self._read_usage()
        output_bytes = await self._close_log(record)
        outcome = outcome_of(
            Evidence(
                command=self._record.command, memory_bytes=self._record.memory_bytes,
                timeout_seconds=self._record.timeout_seconds, now_ns=time.time_ns(),
                started_ns=untold.started_ns if untold else self._record.started_ns,
                record=record, refused=self._refused, heard=self._heard, stop_requested=self._stop.is_set(),
                overdue=self._overdue, cgroup=usage,
                output_bytes=self._bytes_seen() if output_bytes is None else output_bytes,
            )
        )  # fmt: skip
        if record is None or record.started:
            outcome = await self._with_outputs(outcome)
        event = await self._durable(lambda: self._tell_end(outcome, untold is not None))
        OUTCOMES.labels(outcome.state, outcome.reason).inc()
        _log.info(
            "job ended", jobId=self.job_id, state=outcome.state, reason=outcome.reason, exitCode=outcome.exit_code
        )
        self.ended.set_result(event)
        try:
            await asyncio.sleep(0)  # those who tell the event have their turn first
        finally:
            self._give_back()
        while output_bytes is None:
            await asyncio.sleep(_LOGSTORE_RETRY_SECONDS)
            output_bytes = await self._close_log(record)

    async def _with_outputs(self, outcome: Outcome) -> Outcome:
        """What init has kept of /work goes where it is found; the outcome says what is missing."""
        outputs = self._site.outputs
        if not self._outputs or not outputs.expected(self._state_dir):
            return outcome
        try:
            missing = await asyncio.to_thread(outputs.take, self.job_id, self._state_dir)
        except OSError as error:
            _log.error("outputs cannot be kept", jobId=self.job_id, error=error)
            missing = f"outputs are lost: {error.strerror}"
        except (ValueError, JobletError) as error:  # nothing that a job can bring about, but a disk or an operator can
            _log.error("outputs are damaged", jobId=self.job_id, error=error)
            missing = f"outputs are damaged: {error}"
        return replace(outcome, message="; ".join(text for text in (outcome.message, missing) if text))

    def _started_untold(self, record: ExitRecord | None) -> Started | None:
        """What STARTED has to say when the command ran and that has not been told."""
        if self._record.state is not JobState.INITIALIZING:
            return None
        ran = record.started if record is not None else self._ran_ns > 0
        return self._record.parked if ran else None

    def _tell_end(self, outcome: Outcome, with_start: bool) -> Event:
        now_ns = time.time_ns()
        if with_start:
            return self._site.feed.ran(self.job_id, self._ran_ns or now_ns, outcome, now_ns)
        return self._site.feed.ended(self.job_id, outcome, now_ns)

    def _read_record(self) -> ExitRecord | None:
        try:
            return exitrecord.read(self._state_dir)
        except DamagedRecord as error:
            _log.error("exit record cannot be used", jobId=self.job_id, error=error)
            return None

    def _read_usage(self) -> CgroupUsage | None:
        if self._cgroup is None:
            return None
        try:
            return self._cgroup.usage()
        except CgroupError as error:
            _log.error("usage is lost", jobId=self.job_id, error=error)
            return None

    async def _close_log(self, record: ExitRecord | None) -> int | None:
        """Bytes of output, after making sure that it has an end; None when the logstore could not be asked."""
        # A job's init that was never told GO leaves its log open, as does one that was killed.
        by_init = record is not None and record.started and not self._init_killed
        if by_init and self._log is not None:
            return os.fstat(self._log.output).st_size
        try:
            logs = self._site.logs
            if self._log is not None and not await self._log.gets_name():
                return 0  # the job never ran, and has no log that somebody could wait for
            return await (logs.size(self.job_id) if by_init else logs.finish(self.job_id))
        except JobletError as error:
            _log.error("the log could not be closed", jobId=self.job_id, error=error)
            return None

    def _bytes_seen(self) -> int:
        """Of output, once init is gone, by nobody's word but the file's."""
        return UNKNOWN_BYTES if self._log is None else os.fstat(self._log.output).st_size

    def _give_back(self) -> None:
        """Goes on in the cleaner to its end, also when the executor is leaving: half of it would be harder to clear up
        than all."""
        if self._cgroup is not None:
            self._cgroup.close()  # descriptors belong to the event loop's thread
        if self._pidfd is not None:
            self._claims.holdings.callback(_reap, os.dup(self._pidfd))
        self._site.cleaner.submit(self._remove_holdings)

    def _remove_holdings(self) -> None:
        try:
            self._claims.holdings.close()
        except (CgroupError, OSError) as error:
            _log.error("something of the job is left", jobId=self.job_id, error=error)
        except Exception:  # noqa: BLE001 - a fault of ours: shown, for nobody waits for this thread's result
            _log.exception("what the job held was not given back", jobId=self.job_id)
        self.released.set_result(None)

    async def _durable(self, write: Callable[[], Event]) -> Event:
        """The journal's disk may be full for a while: nothing is told before it is written."""
        while True:
            try:
                return write()
            except sqlite3.OperationalError as error:
                _log.error("the journal cannot be written", jobId=self.job_id, error=error)
                await asyncio.sleep(_JOURNAL_RETRY_SECONDS)


def _started_ns(event: Event) -> int:
    return event.body.started_ns


def _reap(pidfd: int) -> None:
    """Closes the pidfd, too. Not in the event loop: freeing a pid namespace with its /proc can take a millisecond."""
    try:
        reap(pidfd)
    finally:
        os.close(pidfd)
