"""A thousand ends, 16 at a time: exit codes, signals, stop races. Each exact, each with its byte, nothing left behind.

The ends are drawn with SEED, so a failure can be repeated. A job that is stopped is stopped when its byte has been
seen, while it is about to exit by itself: whoever comes first decides, and the answer to StopJob must agree with what
the job then says of itself for ever.
"""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import leftovers
import pytest
from inits import all_prepared
from local_system import LocalSystem, wait_for
from logstore_settings import set_logstore
from vitals import Slack, channel, compare, executor_directories, executor_rows, vitals, wait_until_as_before

from joblet.api import job_pb2, job_pb2_grpc

pytestmark = [pytest.mark.root, pytest.mark.slow]

NETWORKS = ("host", "none")
CGROUP_1 = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
SEED = 20240115
JOBS = 1000
WARM_UP = 64
CLIENTS = 16
CALL_SECONDS = 120.0
RACE_SECONDS = 0.08  # within this time after its byte a job that is stopped ends by itself
# Those that end a process, by number on x86-64 and arm64 (signal(7)), with both ends of the real-time signals.
SIGNALS = (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 31, 34, 64)
STOPPED_EXIT_CODE = -1
# fds: a database connection more in a pool, a client's connection not closed yet. Memory: a thousand rows in caches and
# what malloc keeps of the busiest moment; a leak of 16 kB per job would show.
SLACK = Slack(fds=6, pss=16 << 20)


@dataclass(frozen=True, slots=True)
class End:
    """How a job is to end: with `exit_code`, or by `signal` (0: none), or by whoever is first if it is `raced`."""

    exit_code: int
    signal: int = 0
    raced: bool = False
    delay_seconds: float = 0.0

    @property
    def program(self) -> str:
        if self.signal:
            return f"printf x; kill -{self.signal} $$"
        if self.raced:
            return f"printf x; sleep {self.delay_seconds:.4f}; exit {self.exit_code}"
        return f"printf x; exit {self.exit_code}"

    @property
    def result(self) -> tuple[str, int, int, str]:
        """Status, exit code, signal and reason of a job that was not stopped."""
        if self.signal:
            return "FAILED", 128 + self.signal, self.signal, "signal"
        return "FAILED" if self.exit_code else "COMPLETED", self.exit_code, 0, "exit"


STOPPED = ("STOPPED", STOPPED_EXIT_CODE)


def drawn(count: int) -> list[End]:
    """Four in five exit by themselves, the others half and half by signal and raced."""
    chance = random.Random(SEED)

    def one() -> End:
        kind = chance.random()
        if kind < 0.1:
            return End(0, signal=chance.choice(SIGNALS))
        code = chance.randrange(256)
        return End(code, raced=kind < 0.2, delay_seconds=chance.uniform(0, RACE_SECONDS))

    return [one() for _ in range(count)]


def run(stub: job_pb2_grpc.JobServiceStub, end: End, network: str) -> tuple[str, str]:
    """Run one job to its end and check everything about it; its id, and what became of it."""
    request = job_pb2.RunJobReq(command="sh", args=["-c", end.program], network=network)
    job_id = stub.RunJob(request, timeout=CALL_SECONDS).job.uuid
    was_stopped = False
    if end.raced:
        logs = stub.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job_id), timeout=CALL_SECONDS)
        output = next(logs).payload
        was_stopped = stop(stub, job_id, end)
        output += b"".join(chunk.payload for chunk in logs)
    job = stub.WaitJob(job_pb2.WaitJobReq(uuid=job_id), timeout=CALL_SECONDS).job
    if not end.raced:
        logs = stub.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job_id), timeout=CALL_SECONDS)
        output = b"".join(chunk.payload for chunk in logs)
    said = f"{end}: {job}"
    assert output == b"x", said
    if was_stopped:
        assert (job.status, job.exitCode, job.reason) == (*STOPPED, "stopped"), said
        return job_id, "stopped"
    assert (job.status, job.exitCode, job.signal, job.reason) == end.result, said
    return job_id, "raced, own end" if end.raced else "signal" if end.signal else "exit"


def stop(stub: job_pb2_grpc.JobServiceStub, job_id: str, end: End) -> bool:
    """Whether StopJob ended the job; if not, it must say how the job had ended already."""
    try:
        stopped = stub.StopJob(job_pb2.StopJobReq(uuid=job_id), timeout=CALL_SECONDS).job
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error.details()
        assert error.details() == f"job is not running: {job_id} (current status: {end.result[0]})"
        return False
    assert (stopped.status, stopped.exitCode) == STOPPED
    assert stopped.endTime
    return True


def run_all(stub: job_pb2_grpc.JobServiceStub, ends: list[End]) -> dict[str, tuple[str, End]]:
    """Run `ends`, CLIENTS at a time, every other one without a network; what became of each job id."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(run, stub, end, NETWORKS[n % 2]) for n, end in enumerate(ends)]
        results = [future.result() for future in running]
    return {job_id: (how, end) for (job_id, how), end in zip(results, ends, strict=True)}


def listed(stub: job_pb2_grpc.JobServiceStub) -> dict[str, tuple[str, int]]:
    """Status and exit code of every job, over all pages."""
    found: dict[str, tuple[str, int]] = {}
    token = ""
    while True:
        page = stub.ListJobs(job_pb2.EmptyRequest(pageToken=token), timeout=CALL_SECONDS)
        found |= {job.id: (job.status, job.exitCode) for job in page.jobs}
        token = page.nextPageToken
        if not token:
            return found


def test_a_thousand_ends(own_joblet: LocalSystem) -> None:
    set_logstore(own_joblet, sealAfter="1h")  # the logs stay as they were written, however long all the jobs take
    with channel(own_joblet) as opened:
        stub = job_pb2_grpc.JobServiceStub(opened)
        # The first jobs open what stays open: connections, threads, pools.
        run_all(stub, drawn(WARM_UP))
        wait_for("the journal to be empty", lambda: executor_rows(own_joblet) == {"jobs": 0, "events": 0})
        if CGROUP_1:
            all_prepared(own_joblet.pids()["executor"], len(NETWORKS))
        things, before = leftovers.snapshot(), vitals(own_joblet)

        results = run_all(stub, drawn(JOBS))

        shown = {job_id: end for job_id, end in listed(stub).items() if job_id in results}
    print(Counter(how for how, _ in results.values()))
    assert len(results) == JOBS, "two jobs had one id"
    assert shown == {job_id: STOPPED if how == "stopped" else end.result[:2] for job_id, (how, end) in results.items()}

    wait_for("the journal to be empty", lambda: executor_rows(own_joblet) == {"jobs": 0, "events": 0})
    wait_for("the machine as before", lambda: not leftovers.snapshot() - things)
    wait_for("the jobs' directories to be gone", lambda: executor_directories(own_joblet) == [])
    logs = own_joblet.directory / "state/logstore"
    assert {job_id: (logs / job_id / "output").stat().st_size for job_id in results} == dict.fromkeys(results, 1)
    print(compare(before, wait_until_as_before(own_joblet, before, SLACK)))
