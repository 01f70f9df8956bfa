"""After a restart: finding again the jobs that an earlier executor started, and clearing away what is left of others.

A job's init is known by pid, start time and boot id. Found alive it is watched by a pidfd as before; gone, its exit
record tells the end. A job that was accepted but certainly never ran is dropped: its gateway, which has got no event of
it, learns from ListJobs that it is not there, and orders it again. That is known of a job without an init, and of one
whose init wrote down that its command waited for GO when the executor went away.
"""

import asyncio
import errno
import os
import select
from asyncio import TaskGroup
from contextlib import ExitStack, suppress
from typing import Final

from joblet.common import log
from joblet.common.errors import Internal, JobletError
from joblet.common.states import TERMINAL, JobState, Reason
from joblet.executor import exitrecord, procfs
from joblet.executor.cgroup.driver import CgroupError, JobCgroup
from joblet.executor.ending import EXIT_LAUNCH, EXIT_UNKNOWN, Failure
from joblet.executor.executor import Executor
from joblet.executor.exitrecord import DamagedRecord
from joblet.executor.job import InitProcess, Record
from joblet.executor.jobspec import Stage
from joblet.executor.site import Claims, Site
from joblet.executor.supervise import Supervisor

LEAVING_SECONDS: Final = 30.0
LEAVING_MILLISECONDS: Final = 1000  # no orders are taken yet
_LOGSTORE_RETRY_SECONDS: Final = 1.0

_log = log.get_logger(__name__)


def adopt_jobs(executor: Executor, tasks: TaskGroup) -> None:
    """Takes over every job of the journal that has not ended. Call once, before orders are taken."""
    site = executor.site
    unfinished = [record for record in site.journal.jobs() if record.state not in TERMINAL]
    started = set()
    for record in unfinished:
        if record.init is None or _never_told_to_go(site, record, record.init):
            site.journal.remove(record.job_id)
            _log.warn("job dropped: it had not started when the executor ended", jobId=record.job_id)
        else:
            started.add(record.job_id)
            _adopt(executor, tasks, record, record.init)
    dropped = []
    for job_id in [job_id for job_id in site.states.job_ids() if job_id not in started]:
        site.cgroups.discard(job_id)
        if site.journal.job(job_id) is None:
            dropped.append(job_id)
        else:  # its end had been told, and the executor ended before it had removed this
            site.states.remove(job_id)
    for job_id in dropped:
        executor.leave_at_end(tasks.create_task(_clear_away(executor, job_id), name=f"dropped job {job_id}"))


def _never_told_to_go(site: Site, record: Record, init: InitProcess) -> bool:
    """The executor ended between the journal's row about the waiting command and GO."""
    if record.state is not JobState.INITIALIZING or init.boot_id != site.node.boot_id:
        return False
    pidfd = find_init(init, site.node.boot_id)
    if pidfd is not None:
        try:
            if not _leaves(pidfd, init):
                return False
        finally:
            os.close(pidfd)
    try:
        end = exitrecord.read(site.states.path(record.job_id))
    except DamagedRecord:
        return False  # said when it is adopted
    return end is not None and not end.started and end.stage is Stage.PARK and end.exit_code == EXIT_LAUNCH


def _leaves(pidfd: int, init: InitProcess) -> bool:
    """Whether init has ended, unreaped perhaps, or ends soon, since its command does not run and will not any more."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    runs = procfs.start_ticks(init.command_pid) is not None and not procfs.same_program(init.pid, init.command_pid)
    return bool(poll.poll(0 if runs else LEAVING_MILLISECONDS))


async def _clear_away(executor: Executor, job_id: str) -> None:
    """A dropped job may be ordered again at any time and needs a log then that has not ended: the empty one goes, so
    that readers wait for another. Once more when the old init has surely left and the logstore has done all that the
    earlier executor asked for. Nothing is asked any more once the job has been ordered again."""
    site = executor.site
    await _log_discarded(executor, job_id)
    await asyncio.sleep(LEAVING_SECONDS)
    if not await _log_discarded(executor, job_id):
        try:
            if await site.logs.size(job_id) and not executor.knows(job_id):
                await site.logs.finish(job_id)
        except JobletError as error:
            _log.warn("log of a dropped job not closed", jobId=job_id, error=error)
    if not executor.knows(job_id):
        with suppress(FileNotFoundError):  # ordered and over by now
            site.states.remove(job_id)


async def _log_discarded(executor: Executor, job_id: str) -> bool:
    """False when it is refused, mostly since something has been written: the journal of a job that ran is lost."""
    while not executor.knows(job_id):
        try:
            await executor.site.logs.discard(job_id)
            break
        except OSError:
            await asyncio.sleep(_LOGSTORE_RETRY_SECONDS)
        except Internal:
            return False
    return True


def _adopt(executor: Executor, tasks: TaskGroup, record: Record, init: InitProcess) -> None:
    site = executor.site
    cgroup = _cgroup(site, record.job_id)
    pidfd = find_init(init, site.node.boot_id)
    supervisor = Supervisor(site, record, cgroup, _claims(site, record, cgroup))
    if init.boot_id != site.node.boot_id:
        supervisor.presume(Failure(Reason.NODE_RESTARTED, "the node restarted while the job ran", EXIT_UNKNOWN))
    task = tasks.create_task(supervisor.adopt(pidfd), name=f"adopted job {record.job_id}")
    executor.watch(supervisor, task)
    _log.info("job adopted", jobId=record.job_id, alive=pidfd is not None)


# The last two: the number has become that of a thread (pidfd_open(2), which says so one way or the other by kernel).
_NOT_A_PROCESS: Final = (errno.ESRCH, errno.ENOENT, errno.EINVAL)


def find_init(init: InitProcess, boot_id: str) -> int | None:
    """A pidfd of the process meant, or None when it has ended; the caller closes it."""
    if init.boot_id != boot_id:
        return None
    try:
        pidfd = os.pidfd_open(init.pid)
    except OSError as error:
        if error.errno in _NOT_A_PROCESS:
            return None
        raise
    # The number was looked up first: if the start time read now is init's, so is the pidfd.
    if procfs.start_ticks(init.pid) == init.start_ticks:
        return pidfd
    os.close(pidfd)
    return None


def _claims(site: Site, record: Record, cgroup: JobCgroup | None) -> Claims:
    claims = Claims(ExitStack(), ExitStack())
    site.users.adopt(record.uid_base)
    claims.holdings.callback(site.users.release, record.uid_base)
    if cgroup is not None:
        claims.holdings.callback(cgroup.remove)
        claims.descriptors.callback(cgroup.close)
    claims.holdings.callback(site.states.remove, record.job_id)
    return claims


def _cgroup(site: Site, job_id: str) -> JobCgroup | None:
    try:
        return site.cgroups.adopt(job_id)
    except CgroupError as error:
        _log.warn("job has no cgroup any more", jobId=job_id, error=error)
        return None
