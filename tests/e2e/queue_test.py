"""More jobs than there is room for: never more at a time than the cap, each once, in their order, whatever is killed.

    JOBLET_QUEUE=10000 pytest tests/e2e/queue_test.py -s     # so many jobs instead of a few hundred

The intervals in which jobs ran come from the gateway's store: their starts are the executor's, their ends their inits'.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from local_system import LocalSystem, give_a_long_lease, local_system, wait_for
from vitals import channel

from joblet.api import job_pb2, job_pb2_grpc

pytestmark = [pytest.mark.root, pytest.mark.slow]

JOBS = int(os.environ.get("JOBLET_QUEUE", "200"))
CAP = 8
CLIENTS = 16
CALL_SECONDS = 120.0
# Jobs that are placed one after the other may begin in another order: launches overlap, and so do their reports.
DISORDER = 4 * CAP
NOT_ANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True, slots=True)
class Ran:
    """A job's row in the store; times in nanoseconds."""

    job_id: str
    state: str
    queued_ns: int
    started_ns: int
    ended_ns: int
    output_bytes: int


@pytest.fixture
def capped(clean_machine: None, tmp_path: Path) -> Iterator[LocalSystem]:
    with _capped(tmp_path / "jbtest") as system:
        yield system


@contextmanager
def _capped(directory: Path) -> Iterator[LocalSystem]:
    give_a_long_lease(directory)
    with (directory / "config/joblet-config.yml").open("a") as config:
        config.write(f"joblet: {{maxConcurrentJobs: {CAP}}}\n")
    with local_system(directory) as system:
        yield system


def test_never_more_than_the_cap(capped: LocalSystem) -> None:
    with channel(capped) as opened:
        stub = job_pb2_grpc.JobServiceStub(opened)
        first = [_run(stub, job_pb2.RunJobReq(command="sleep", args=["1000"], maxMemory=64)) for _ in range(CAP)]
        ids = _submit_all(stub)
        assert {row.state for row in _rows(capped) if row.job_id in ids} == {"PENDING"}
        for job_id in first:
            stub.StopJob(job_pb2.StopJobReq(uuid=job_id), timeout=CALL_SECONDS)
        _wait_for_all(capped)
    _check(capped, ids)


def test_the_same_when_services_are_killed_in_the_middle(capped: LocalSystem) -> None:
    with channel(capped) as opened:
        stub = job_pb2_grpc.JobServiceStub(opened)
        with ThreadPoolExecutor(1) as background:
            submitting = background.submit(_submit_all, stub)
            for number, service in enumerate(("gateway", "executor", "logstore"), start=1):
                wait_for("a quarter more of the jobs", lambda n=number: _ended(capped) >= n * JOBS / 4, 1800)  # type: ignore[misc]
                capped.kill(service)
            ids = submitting.result()
        _wait_for_all(capped)
    _check(capped, ids, cut=1)


def _submit_all(stub: job_pb2_grpc.JobServiceStub) -> list[str]:
    begun = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        ids = list(clients.map(lambda number: _submit(stub, number), range(JOBS)))
    print(f"\n{JOBS} jobs submitted in {time.monotonic() - begun:.1f} s")
    return ids


def _submit(stub: job_pb2_grpc.JobServiceStub, number: int) -> str:
    request = job_pb2.RunJobReq(
        command="sh", args=["-c", "sleep 0.05; printf x"], network="none", maxMemory=64, requestId=f"r-{number}"
    )
    return _run(stub, request)


def _run(stub: job_pb2_grpc.JobServiceStub, request: job_pb2.RunJobReq) -> str:
    while True:
        try:
            return str(stub.RunJob(request, timeout=CALL_SECONDS, wait_for_ready=True).job.uuid)
        except grpc.RpcError as error:
            if error.code() not in NOT_ANSWERED:
                raise
        time.sleep(0.05)  # between two attempts


def _wait_for_all(system: LocalSystem) -> None:
    begun = time.monotonic()
    wait_for("the end of all jobs", lambda: _ended(system) == JOBS, 1800)
    print(f"all ended {time.monotonic() - begun:.1f} s later; gateway's peak memory {_peak_kib(system)} KiB")


def _check(system: LocalSystem, ids: list[str], *, cut: int = 0) -> None:
    """At most `cut` jobs may have failed without having begun. An executor that is killed orders again what it had not
    parked; between the journal's row of a parked job and its GO there is one job at a time."""
    everything = [row for row in _rows(system) if row.state != "STOPPED"]
    assert sorted(row.job_id for row in everything) == sorted(ids), "a job is missing, or there twice"
    rows = [row for row in everything if row.started_ns]
    print(f"{len(everything) - len(rows)} launches cut off")
    assert len(everything) - len(rows) <= cut
    assert {(row.state, row.output_bytes) for row in rows} == {("COMPLETED", 1)}
    most = _most_at_once([row for row in _rows(system) if row.started_ns])
    waited = [row.started_ns - row.queued_ns for row in rows]
    print(f"at most {most} at a time; waited up to {max(waited) / 1e9:.1f} s")
    assert most <= CAP
    begun = sorted(rows, key=lambda row: row.started_ns)
    places = {row.job_id: place for place, row in enumerate(sorted(rows, key=lambda row: row.queued_ns))}
    disorder = max(abs(place - places[row.job_id]) for place, row in enumerate(begun))
    assert disorder <= DISORDER, f"a job was overtaken by {disorder}"
    assert "job refused" not in (system.directory / "logs/executor.log").read_text()


def _most_at_once(rows: list[Ran]) -> int:
    """At equal times ends count first."""
    changes = sorted([(row.started_ns, 1) for row in rows] + [(row.ended_ns, -1) for row in rows])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _rows(system: LocalSystem) -> list[Ran]:
    with _store(system) as store:
        names = "id, state, queued_ns, started_ns, ended_ns, output_bytes"
        return [Ran(*row) for row in store.execute(f"SELECT {names} FROM jobs ORDER BY sequence")]


def _ended(system: LocalSystem) -> int:
    with _store(system) as store:
        (count,) = store.execute("SELECT count(*) FROM jobs WHERE state IN ('COMPLETED', 'FAILED')").fetchone()
        return int(count)


@contextmanager
def _store(system: LocalSystem) -> Iterator[sqlite3.Connection]:
    path = system.directory / "state/gateway/gateway.db"
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=CALL_SECONDS)
    try:
        yield database
    finally:
        database.close()


def _peak_kib(system: LocalSystem) -> int:
    status = Path(f"/proc/{system.pids()['gateway']}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
