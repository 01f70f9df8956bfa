"""Logs made ahead, on a real node, when one of its processes is stopped or killed between an order and its command."""

import asyncio
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from joblet.api.internal import executor_pb2
from joblet.executor.sparelogs import STOCK
from joblet.executor.testing_node import (
    NodeProcesses,
    Watch,
    node_processes,
    nurslings,
    spec,
    start,
    stop,
    wait_until,
)

if TYPE_CHECKING:
    from joblet.api.internal.executor_pb2_grpc import ExecutorServiceAsyncStub

pytestmark = pytest.mark.root

QUIET_SECONDS = 0.5  # many times what a command needs to be started


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcesses]:
    """With a full stock of spare logs."""
    with node_processes(tmp_path) as started:
        asyncio.run(run(started, spec("true")))
        full_stock(started)
        yield started


def spares(node: NodeProcesses) -> set[str]:
    return {path.name for path in (node.directory / "logs").iterdir() if path.name.startswith("spare-")}


def full_stock(node: NodeProcesses) -> None:
    """Waits until the executor has received all that it wants: there is a moment when the logstore has only made
    them."""

    def received() -> set[str]:
        found = set()
        for fd in Path(f"/proc/{node.executor.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                found.add(fd.readlink().parent.name)
        return found & spares(node)

    wait_until(lambda: len(received()) == STOCK == len(spares(node)), lambda: f"spares: {received()}, {spares(node)}")


def logs(node: NodeProcesses) -> set[str]:
    return {path.name for path in (node.directory / "logs").iterdir()} - spares(node)


def held(node: NodeProcesses) -> set[str]:
    """Spares that an executor, or an init that has not left yet, can still write to."""
    return {name for name in spares(node) if locked(node.directory / "logs" / name / "output")}


def locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def run(node: NodeProcesses, job: executor_pb2.JobSpec) -> executor_pb2.Outcome:
    async with node.client() as stub, Watch(stub) as watch:
        await start(stub, job)
        return await watch.end(job.job_id)


@asynccontextmanager
async def unnamed(node: NodeProcesses, job: executor_pb2.JobSpec) -> "AsyncIterator[ExecutorServiceAsyncStub]":
    """The logstore is stopped, the job accepted and its init there; the log it will write to is a spare."""
    logstore = node.logstore.pid
    os.kill(logstore, signal.SIGSTOP)
    wait_until(lambda: states(logstore) == {"T"}, lambda: f"threads of the logstore: {states(logstore)}")
    try:
        async with node.client() as stub:
            assert (await start(stub, job)).status == "INITIALIZING"
            assert len(spares(node)) == STOCK
            yield stub
    except BaseException:
        os.kill(logstore, signal.SIGCONT)  # lest it cannot be ended
        raise


def states(pid: int) -> set[str]:
    """Of a process's threads: T is stopped (proc_pid_stat(5))."""
    found = set()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since it was listed
            found.add(stat.read_text().rpartition(")")[2].split()[0])
    return found


def printing() -> executor_pb2.JobSpec:
    return spec("sh", "-c", "echo printed")


def no_spares(node: NodeProcesses) -> None:
    wait_until(lambda: not spares(node), lambda: f"spares: {spares(node)}")


def complete(node: NodeProcesses, job: executor_pb2.JobSpec, outcome: executor_pb2.Outcome) -> None:
    assert (outcome.status, outcome.exit_code, outcome.output_bytes) == ("COMPLETED", 0, 8), outcome.message
    assert asyncio.run(node.output(job.job_id)) == b"printed\n"


def test_spares_are_used_up_and_made_again_and_go_with_the_executor(node: NodeProcesses) -> None:
    first = spares(node)
    jobs = [printing() for _ in range(STOCK // 2)]
    for number, job in enumerate(jobs, 1):
        complete(node, job, asyncio.run(run(node, job)))
        assert len(first & spares(node)) == STOCK - number
    full_stock(node)
    node.executor.end(signal.SIGTERM)
    no_spares(node)


def test_no_command_runs_before_its_log_has_the_jobs_name(node: NodeProcesses) -> None:
    job = printing()

    async def scenario() -> executor_pb2.Outcome:
        async with unnamed(node, job) as stub, Watch(stub) as watch:
            second = printing()
            await start(stub, second)
            with pytest.raises(TimeoutError):  # nothing says that it does not come
                async with asyncio.timeout(QUIET_SECONDS):
                    await watch.seen(job.job_id, "started")
            os.kill(node.logstore.pid, signal.SIGCONT)
            await watch.end(second.job_id)
            return await watch.end(job.job_id)

    complete(node, job, asyncio.run(scenario()))


def test_the_logstore_is_killed_before_it_has_named_the_log(node: NodeProcesses) -> None:
    job = printing()

    async def scenario() -> executor_pb2.Outcome:
        async with unnamed(node, job) as stub, Watch(stub) as watch:
            node.logstore.end(signal.SIGKILL)
            assert job.job_id not in logs(node)
            assert watch.of(job.job_id) == []
            await asyncio.to_thread(node.start_logstore)
            return await watch.end(job.job_id)

    complete(node, job, asyncio.run(scenario()))
    after = printing()
    complete(node, after, asyncio.run(run(node, after)))


def test_no_job_fails_when_the_next_logstore_has_another_directory(node: NodeProcesses) -> None:
    node.logstore.end(signal.SIGKILL)
    node.logs = node.directory / "other"
    node.start_logstore()
    for _ in range(STOCK + 1):
        job = printing()
        complete(node, job, asyncio.run(run(node, job)))


@pytest.mark.parametrize("with_logstore", [False, True], ids=["executor", "both"])
def test_the_executor_is_killed_before_the_log_is_named(node: NodeProcesses, with_logstore: bool) -> None:
    """The command never runs; a second order for the job gets a log that works."""
    job = printing()

    async def scenario() -> None:
        async with unnamed(node, job):
            node.executor.end(signal.SIGKILL)

    asyncio.run(scenario())
    if with_logstore:
        node.logstore.end(signal.SIGKILL)
        node.start_logstore()
    else:
        wait_until(lambda: not held(node), lambda: f"held: {held(node)}")
        os.kill(node.logstore.pid, signal.SIGCONT)  # it was asked to name the log, by somebody who is gone
    no_spares(node)
    assert job.job_id not in logs(node)
    node.start_executor()
    asyncio.run(run(node, spec("true")))
    full_stock(node)
    complete(node, job, asyncio.run(run(node, job)))


def test_a_job_that_is_stopped_before_its_log_is_named(node: NodeProcesses) -> None:
    job = spec("sleep", "1000")

    async def scenario() -> executor_pb2.Outcome:
        async with unnamed(node, job) as stub:
            stopping = asyncio.ensure_future(stop(stub, job.job_id))
            await stub.ListJobs(executor_pb2.ListNodeJobsRequest())  # probably it has been asked to stop by now
            os.kill(node.logstore.pid, signal.SIGCONT)
            return await stopping

    assert asyncio.run(scenario()).status == "STOPPED"
    assert asyncio.run(node.output(job.job_id)) == b""


def test_init_is_killed_before_its_log_is_named(node: NodeProcesses) -> None:
    job = printing()

    async def scenario() -> executor_pb2.Outcome:
        async with unnamed(node, job) as stub, Watch(stub) as watch:
            inits = nurslings(node.executor.pid)
            assert inits
            for pid in inits:
                os.kill(pid, signal.SIGKILL)
            os.kill(node.logstore.pid, signal.SIGCONT)
            return await watch.end(job.job_id)

    outcome = asyncio.run(scenario())
    assert (outcome.status, outcome.output_bytes) == ("FAILED", 0)
    assert asyncio.run(node.output(job.job_id)) == b""


def test_a_log_that_cannot_get_its_name_fails_the_job(node: NodeProcesses) -> None:
    job = printing()
    (node.directory / "logs" / job.job_id).write_bytes(b"in the way")
    outcome = asyncio.run(run(node, job))
    assert (outcome.status, outcome.reason, outcome.exit_code) == ("FAILED", "launch-failed", 125)
    assert f"the logstore could not name the log of job {job.job_id}: " in outcome.message
    assert "Not a directory" in outcome.message
    after = printing()
    complete(node, after, asyncio.run(run(node, after)))
    wait_until(lambda: len(spares(node)) == STOCK - 2, lambda: f"spares: {spares(node)}")  # that one has gone
