"""`rnx local down`: the jobs through the API, the services through their supervisor, then a look at what is left."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joblet.common.errors import Internal, JobletError
from rnx.local import processes, ready, remains
from rnx.local.layout import SERVICES, Layout

if TYPE_CHECKING:
    from rnx.client import Client

SUPERVISOR_SECONDS = 40.0  # it gives its services 20
JOBS_SECONDS = 30.0
SERVICE_SECONDS = 10.0
RESTART_SECONDS = 30.0  # for a gateway that its supervisor starts again
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `stop` did; `jobs_error` is why the jobs could not be stopped through the API, None if they were."""

    jobs: tuple[str, ...]
    jobs_error: str | None
    services: tuple[str, ...]
    removed: tuple[str, ...]


def try_lock(layout: Layout) -> int | None:
    """The descriptor of the lock of the directory, None if a supervisor has it (flock(2): it goes with the process)."""
    import fcntl

    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def stop(layout: Layout) -> Outcome:
    """Stops everything; does nothing where nothing runs. Raises Internal if something cannot be removed."""
    if not layout.run.exists():
        return Outcome((), None, (), ())
    running = tuple(_running(layout))
    jobs: tuple[str, ...] = ()
    jobs_error = None
    supervised = _supervisor(layout) is not None
    if running or supervised:
        try:
            jobs = stop_jobs(layout, RESTART_SECONDS if supervised else 0.0)
        except JobletError as error:
            jobs_error = error.message
    lock = _end_supervisor(layout)
    try:
        removed = end_leftovers(layout)
    finally:
        os.close(lock)
    return Outcome(jobs, jobs_error, running, removed)


def end_leftovers(layout: Layout) -> tuple[str, ...]:
    """With the lock held: ends services that lost their supervisor and removes what jobs left; says what that was."""
    for name in SERVICES:
        found = processes.read(layout.pid_file(name))
        if found:
            processes.end(found[0], SERVICE_SECONDS)
    found_remains = remains.remove(layout)
    for name in (*SERVICES, "supervisor"):
        processes.remove(layout.pid_file(name))
    if found_remains.left:
        left = "".join(f"\n  {line}" for line in found_remains.left)
        raise Internal(f"could not remove everything:{left}")
    return tuple(found_remains.removed)


def stop_jobs(layout: Layout, patience_seconds: float) -> tuple[str, ...]:
    """Stops every job that has not ended; their ids, once all have. Asks again for jobs that were just starting.

    A gateway that does not answer is waited for: it may be just starting again.

    Raises JobletError if the gateway does not answer or jobs go on running.
    """
    from joblet.api.job_pb2 import StopJobReq
    from rnx.client import Client

    stopped: dict[str, None] = {}
    with Client(ready.client_settings(layout), connect_seconds=patience_seconds) as client:
        deadline = time.monotonic() + JOBS_SECONDS
        while active := list(_active(client)):
            if time.monotonic() > deadline:
                raise Internal(f"jobs still running after {JOBS_SECONDS:g} s: {', '.join(active)}")
            stopped |= dict.fromkeys(active)
            client.call_all(lambda stub: stub.StopJob, [StopJobReq(uuid=job_id) for job_id in active])
            time.sleep(_PAUSE_SECONDS)
    return tuple(stopped)


def _active(client: "Client") -> Iterator[str]:
    from joblet.common.states import TERMINAL
    from rnx.client import list_jobs

    return (job.id for job in list_jobs(client) if job.status not in TERMINAL)


def _end_supervisor(layout: Layout) -> int:
    """Has the supervisor end its services and itself; the lock it then leaves. Raises Internal if it does not end."""
    deadline = time.monotonic() + SUPERVISOR_SECONDS
    asked = ""
    while (lock := try_lock(layout)) is None:
        found = processes.read(layout.pid_file("supervisor"))
        if found and found[0] != asked:
            asked = found[0]
            processes.send(asked, signal.SIGUSR1)
        if asked:
            processes.wait_gone(asked, max(0.0, deadline - time.monotonic()))
        if time.monotonic() > deadline:
            raise Internal(f"the supervisor of {layout.directory} does not end: {asked or 'it has no pid file'}")
        time.sleep(_PAUSE_SECONDS)  # it may be just starting, or an `up` or another `down` has the lock
    return lock


def _supervisor(layout: Layout) -> str | None:
    found = processes.read(layout.pid_file("supervisor"))
    return found[0] if found and processes.is_alive(found[0]) else None


def _running(layout: Layout) -> Iterator[str]:
    for name in SERVICES:
        found = processes.read(layout.pid_file(name))
        if found and processes.is_alive(found[0]):
            yield name
