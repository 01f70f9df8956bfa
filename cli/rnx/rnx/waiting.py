"""Staying with a job until it has ended, and the exit code that rnx then ends with.

    job                                    rnx
    COMPLETED, FAILED                      the job's own exit code, 0 to 255 (128+n: ended by signal n)
    STOPPED by request, CANCELED           143, as a shell reports SIGTERM
    STOPPED by its timeout                 124, as timeout(1) does
    FAILED without an exit code (lost)     125
    still runs: the time to wait is over   124
    still runs: Ctrl+C                     130
    rnx itself failed, nothing is known    125; the text on stderr begins with "Error: "

A lost connection is looked for again: the job does not notice, so neither should who waits for it.
"""

import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from joblet.common.errors import FailedPrecondition, JobletError
from joblet.common.states import TERMINAL, JobState, Reason
from rnx.errors import EXIT_TIMEOUT, EXIT_UNKNOWN, StillRunning

if TYPE_CHECKING:
    from joblet.api.job_pb2 import GetJobStatusRes
    from rnx.client import Client

EXIT_STOPPED = 143  # 128 + SIGTERM
STEP_SECONDS = 20  # of one call; the server answers it with a state that is not final yet
PATIENCE_SECONDS = 30.0  # for a connection to come back

Say = Callable[[str], None]


def exit_code(job: "GetJobStatusRes") -> int:
    """Of rnx, for a job that has ended."""
    if job.status == JobState.STOPPED and job.reason == Reason.TIMEOUT:
        return EXIT_TIMEOUT
    if job.status in (JobState.STOPPED, JobState.CANCELED):
        return EXIT_STOPPED
    return job.exitCode if 0 <= job.exitCode <= 255 else EXIT_UNKNOWN


def check_known(client: "Client", job_ids: Iterable[str]) -> None:
    """Raises what the gateway says of the first id that names no job."""
    from joblet.api.job_pb2 import GetJobStatusReq

    for job_id in job_ids:
        client.call_repeatable(lambda stub: stub.GetJobStatus, GetJobStatusReq(uuid=job_id), PATIENCE_SECONDS)


def until_end(client: "Client", job_id: str, deadline: float | None = None) -> "GetJobStatusRes":
    """The job's final state. Raises StillRunning at `deadline` (of time.monotonic; None for never)."""
    from joblet.api.job_pb2 import WaitJobReq

    while True:
        left = STEP_SECONDS if deadline is None else min(STEP_SECONDS, deadline - time.monotonic())
        request = WaitJobReq(uuid=job_id, timeoutSeconds=max(1, round(left)))
        job = client.call_repeatable(lambda stub: stub.WaitJob, request, PATIENCE_SECONDS).job
        if job.status in TERMINAL:
            return job
        if deadline is not None and time.monotonic() >= deadline:
            raise StillRunning(f"job {job.uuid} has not ended yet (current status: {job.status})")


@contextmanager
def unanswered_on_interrupt(request_id: str, say: Say) -> Iterator[None]:
    """Ctrl+C before RunJob is answered: says that there may be a job, and how to find out, and lets the interrupt
    pass."""
    try:
        yield
    except KeyboardInterrupt:
        say("\nLeft before the gateway had answered: the job may have been accepted, or not.")
        say("  rnx job list -o table --limit 10    # the newest jobs: it is among them or not")
        say(f"  {again(request_id)}    # the same command once more: gives that job, or starts it now")
        raise


def again(request_id: str) -> str:
    """The beginning of the command that asks the same once more, for a terminal."""
    from rnx import output

    return output.printable(f"rnx job run --request-id={shlex.quote(request_id)} ...")


@contextmanager
def leaving_on_interrupt(job_id: str, say: Say) -> Iterator[None]:
    """Ctrl+C: says how to come back to the job, which goes on, and lets the interrupt pass."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nLeft: job {job_id} goes on.")
        say(f"  rnx job log {job_id}     # its output, from the beginning")
        say(f"  rnx job wait {job_id}    # until it has ended")
        raise


@contextmanager
def stopping_on_interrupt(client: "Client", job_id: str, say: Say, *, wanted: bool) -> Iterator[None]:
    """If `wanted`: the first Ctrl+C stops the job, in a thread of its own, so that output is followed to its end
    undisturbed; the next one leaves at once. Where Ctrl+C is ignored (a shell's background job), it stays so."""

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say("\nStopping the job; Ctrl+C again leaves at once.")
        threading.Thread(target=_stop, args=(client, job_id, say), daemon=True).start()

    before = signal.getsignal(signal.SIGINT)
    if not wanted or before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(client: "Client", job_id: str, say: Say) -> None:
    from joblet.api.job_pb2 import StopJobReq

    try:
        client.call(lambda stub: stub.StopJob, StopJobReq(uuid=job_id))
    except FailedPrecondition:
        return  # it ended by itself meanwhile, and that is what is waited for
    except JobletError as error:
        say(f"The job could not be stopped: {error.message}")
