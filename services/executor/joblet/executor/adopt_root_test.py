"""kill -9 of a real executor: its jobs go on, and the next one knows how they ended."""

import asyncio
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from joblet.api.internal import executor_pb2
from joblet.executor import exitrecord, procfs
from joblet.executor.cgroup.detect import detect
from joblet.executor.cgroup.spare import PREFIX, STOCK
from joblet.executor.exitrecord import EndReason, RecordFlag
from joblet.executor.jobspec import Stage
from joblet.executor.logs import LogStore
from joblet.executor.testing_node import (
    NodeProcesses,
    Watch,
    cgroups_below,
    go_on,
    inits_of,
    node_processes,
    runs,
    spec,
    start,
    stop,
    wait_until,
    waiting,
)

pytestmark = pytest.mark.root


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcesses]:
    with node_processes(tmp_path) as started:
        yield started


async def started(node: NodeProcesses, *jobs: executor_pb2.JobSpec) -> None:
    """Starts jobs and waits until their commands run."""
    async with node.client() as stub, Watch(stub) as watch:
        await asyncio.gather(*(start(stub, job) for job in jobs))
        for job in jobs:
            await watch.seen(job.job_id, "started")


def started_and_waiting(node: NodeProcesses, *jobs: executor_pb2.JobSpec) -> None:
    """Starts jobs that are `waiting`, and comes back when they are."""
    asyncio.run(started(node, *jobs))
    for job in jobs:
        output = node.directory / "logs" / job.job_id / "output"
        wait_until(lambda output=output: output.stat().st_size > 0, lambda: "the command prints nothing")  # type: ignore[misc]


async def events_until_end(node: NodeProcesses, *jobs: executor_pb2.JobSpec) -> list[executor_pb2.JobEvent]:
    async with node.client() as stub, Watch(stub) as watch:
        for job in jobs:
            await watch.end(job.job_id)
        return watch.events


def restart(node: NodeProcesses, number: signal.Signals) -> None:
    code = node.executor.end(number)
    assert code == (0 if number is signal.SIGTERM else -number)
    node.start_executor()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_running_jobs_outlive_the_executor(node: NodeProcesses, tmp_path: Path, number: signal.Signals) -> None:
    jobs = [spec(*waiting(f"echo after; exit {code}")) for code in range(4)]
    started_and_waiting(node, *jobs)
    inits = inits_of(tmp_path / "state/journal.db")
    assert len(inits) == 4
    restart(node, number)
    assert inits_of(tmp_path / "state/journal.db") == inits
    go_on(tmp_path / "state/journal.db")
    events = asyncio.run(events_until_end(node, *jobs))
    assert [event.sequence for event in events] == list(range(1, 9))
    outcomes = {event.job_id: event.ended for event in events if event.WhichOneof("event") == "ended"}
    for code, job in enumerate(jobs):
        outcome = outcomes[job.job_id]
        assert (outcome.status, outcome.exit_code, outcome.reason) == ("FAILED" if code else "COMPLETED", code, "exit")
        assert outcome.usage.peakMemoryBytes > 0
        assert outcome.output_bytes == len(b"before\nafter\n")
        assert asyncio.run(node.output(job.job_id)) == b"before\nafter\n"


def spare_cgroups(node: NodeProcesses) -> frozenset[Path]:
    return frozenset(path for path in cgroups_below(node.cgroup_parent) if path.name.startswith(PREFIX))


def test_cgroups_made_ahead_go_when_the_next_executor_begins(node: NodeProcesses) -> None:
    job = spec(*waiting("exit 0"))
    started_and_waiting(node, job)
    if detect(node.cgroup_parent).version == 1:
        wait_until(lambda: len(spare_cgroups(node)) >= 5 * STOCK, lambda: f"{spare_cgroups(node)}")
    node.executor.end(signal.SIGKILL)
    left = spare_cgroups(node)
    node.start_executor()
    assert not left & spare_cgroups(node)
    go_on(node.directory / "state/journal.db")
    *_, last = asyncio.run(events_until_end(node, job))
    assert (last.ended.status, last.ended.exit_code) == ("COMPLETED", 0)


def test_jobs_that_end_while_nobody_watches(node: NodeProcesses, tmp_path: Path) -> None:
    job = spec(*waiting("echo done; exit 5"))
    started_and_waiting(node, job)
    node.executor.end(signal.SIGKILL)
    go_on(tmp_path / "state/journal.db")
    wait_until(lambda: not inits_of(tmp_path / "state/journal.db"), lambda: "the job did not end")
    assert (tmp_path / "state/jobs" / job.job_id / "exit").exists()
    node.start_executor()
    *_, last = asyncio.run(events_until_end(node, job))
    assert (last.ended.status, last.ended.exit_code, last.ended.reason) == ("FAILED", 5, "exit")
    assert last.ended.usage.cpuUserSeconds + last.ended.usage.cpuSystemSeconds > 0
    kept = tmp_path / "state/jobs"
    wait_until(lambda: not list(kept.iterdir()), lambda: f"left: {list(kept.iterdir())}")


@pytest.mark.parametrize("alive", [True, False])
def test_killed_between_go_and_the_news_of_it(node: NodeProcesses, tmp_path: Path, alive: bool) -> None:
    """The command ran, but the journal has it parked: both events come, with what was attested."""
    job = spec(*waiting("exit 4"))
    started_and_waiting(node, job)
    node.executor.end(signal.SIGKILL)
    with closing(sqlite3.connect(tmp_path / "state/journal.db")) as journal, journal:
        journal.execute("UPDATE jobs SET state = 'INITIALIZING', started_ns = 0")
        journal.execute("DELETE FROM events")
        journal.execute("UPDATE counter SET last_sequence = 0")
    if not alive:
        go_on(tmp_path / "state/journal.db")
        wait_until(lambda: not inits_of(tmp_path / "state/journal.db"), lambda: "the job did not end")
    node.start_executor()
    if alive:
        go_on(tmp_path / "state/journal.db")
    first, last = asyncio.run(events_until_end(node, job))
    assert (first.sequence, first.started.attestation.facts["Seccomp"]) == (1, "2")
    assert (last.sequence, last.ended.exit_code, last.ended.reason) == (2, 4, "exit")
    assert 0 < last.ended.started_ns < last.ended.ended_ns


def test_an_adopted_job_can_be_stopped(node: NodeProcesses) -> None:
    async def scenario() -> None:
        async with node.client() as stub:
            assert (await start(stub, job)).status == "RUNNING"
            outcome = await stop(stub, job.job_id)
            assert (outcome.status, outcome.exit_code) == ("STOPPED", -1)

    job = spec("sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000")
    asyncio.run(started(node, job))
    restart(node, signal.SIGKILL)
    asyncio.run(scenario())


def test_an_adopted_job_keeps_its_uid_range(node: NodeProcesses, tmp_path: Path) -> None:
    first = spec("sleep", "1000")
    asyncio.run(started(node, first))
    restart(node, signal.SIGKILL)
    second = spec("sleep", "1000")
    asyncio.run(started(node, second))
    with closing(sqlite3.connect(tmp_path / "state/journal.db")) as journal:
        bases = dict(journal.execute("SELECT job_id, uid_base FROM jobs").fetchall())
    assert bases[first.job_id] != bases[second.job_id]


@pytest.mark.parametrize("alive", [True, False])
def test_an_init_that_was_killed(node: NodeProcesses, tmp_path: Path, alive: bool) -> None:
    """With an executor watching, and while there is none."""
    job = spec("sh", "-c", "echo printed; sleep 1000")
    asyncio.run(started(node, job))
    journal = tmp_path / "state/journal.db"
    (init,) = inits_of(journal)
    if not alive:
        node.executor.end(signal.SIGKILL)
    os.kill(init, signal.SIGKILL)
    if not alive:
        wait_until(lambda: not inits_of(journal), lambda: "init is still there")
        node.start_executor()
    *_, last = asyncio.run(events_until_end(node, job))
    assert (last.ended.status, last.ended.exit_code, last.ended.reason) == ("FAILED", -1, "supervisor-killed")
    assert asyncio.run(node.output(job.job_id)).startswith(b"printed"[: last.ended.output_bytes])


def test_how_much_was_printed_is_not_known_while_the_logstore_is_away(node: NodeProcesses, tmp_path: Path) -> None:
    """Not to an executor that has found the job again, and has no descriptor of its log: it does not say "nothing"."""
    job = spec("sh", "-c", "echo printed; sleep 1000")
    started_and_waiting(node, job)
    (init,) = inits_of(tmp_path / "state/journal.db")
    node.executor.end(signal.SIGKILL)
    node.logstore.end(signal.SIGKILL)
    os.kill(init, signal.SIGKILL)
    node.start_executor()
    *_, last = asyncio.run(events_until_end(node, job))
    assert (last.ended.reason, last.ended.output_bytes) == ("supervisor-killed", -1)
    node.start_logstore()
    assert asyncio.run(node.output(job.job_id)) == b"printed\n"


def test_how_much_was_printed_is_known_to_who_started_the_job(node: NodeProcesses, tmp_path: Path) -> None:
    """Also while the logstore is away."""
    job = spec("sh", "-c", "echo printed; sleep 1000")
    started_and_waiting(node, job)
    node.logstore.end(signal.SIGKILL)
    (init,) = inits_of(tmp_path / "state/journal.db")
    os.kill(init, signal.SIGKILL)
    *_, last = asyncio.run(events_until_end(node, job))
    assert (last.ended.reason, last.ended.output_bytes) == ("supervisor-killed", len(b"printed\n"))
    node.start_logstore()
    assert asyncio.run(node.output(job.job_id)) == b"printed\n"


def test_a_node_that_restarted(node: NodeProcesses, tmp_path: Path) -> None:
    job = spec("sleep", "1000")
    asyncio.run(started(node, job))
    (init,) = inits_of(tmp_path / "state/journal.db")
    node.executor.end(signal.SIGKILL)
    with closing(sqlite3.connect(tmp_path / "state/journal.db")) as journal, journal:
        stored = json.loads(journal.execute("SELECT init FROM jobs").fetchone()[0])
        journal.execute("UPDATE jobs SET init = ?", (json.dumps({**stored, "boot_id": "another boot"}),))
    os.kill(init, signal.SIGKILL)
    wait_until(lambda: not runs(init), lambda: "init is still there")
    node.start_executor()
    *_, last = asyncio.run(events_until_end(node, job))
    assert (last.ended.status, last.ended.reason) == ("FAILED", "node-restarted")


async def an_open_log(node: NodeProcesses, job_id: str) -> None:
    """As an executor that was killed has left it."""
    with closing(LogStore(node.directory / "control.sock")) as logs, closing(logs.opening(job_id)) as opening:
        await opening.files()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("row", [False, True])
def test_what_was_accepted_but_never_started_is_dropped(
    node: NodeProcesses, tmp_path: Path, late: bool, row: bool
) -> None:
    """As after a kill before the command waited for GO: the same order starts it, once. However late it comes: its log
    has not ended. A row of it was made by executors that wrote version 1 of the journal."""
    job = spec("sh", "-c", "echo ran")
    asyncio.run(started(node, spec("true")))
    node.executor.end(signal.SIGKILL)
    if row:
        with closing(sqlite3.connect(tmp_path / "state/journal.db")) as journal, journal:
            journal.execute(
                "INSERT INTO jobs"
                " (job_id, state, command, uid_base, memory_bytes, timeout_seconds, not_isolated, created_ns)"
                " VALUES (?, 'INITIALIZING', 'sh', 1879048192, 1048576, 0, '[]', 1)",
                (job.job_id,),
            )
    (tmp_path / "state/jobs" / job.job_id).mkdir()
    log = tmp_path / "logs" / job.job_id
    asyncio.run(an_open_log(node, job.job_id))

    async def scenario() -> None:
        async with node.client() as stub, Watch(stub) as watch:
            listed = await stub.ListJobs(executor_pb2.ListNodeJobsRequest())
            assert job.job_id not in {known.job_id for known in listed.jobs}
            if late:
                wait_until(lambda: not log.exists(), lambda: "the empty log stays")
            await start(stub, job)
            assert (await watch.end(job.job_id)).status == "COMPLETED"
            assert watch.of(job.job_id) == ["started", "ended"]
        assert await node.output(job.job_id) == b"ran\n"

    node.start_executor()
    asyncio.run(scenario())


NEVER_RAN = exitrecord.ExitRecord(
    exit_code=125, signal=0, reason=EndReason.LAUNCH_FAILED, stage=Stage.PARK, error=0, flags=RecordFlag(0), start_ns=1,
    end_ns=2, user_us=0, system_us=0, maxrss_bytes=0, oom_kills=0, voluntary_switches=0, involuntary_switches=0,
    detail="",
)  # fmt: skip


def a_zombie() -> subprocess.Popen[bytes]:
    """A process that has ended and that nobody has reaped: an orphan's new parent may take its time."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


@pytest.mark.parametrize(
    ("record", "dropped"),
    [
        (NEVER_RAN, True),
        (replace(NEVER_RAN, exit_code=126, stage=Stage.EXEC, flags=RecordFlag.STARTED), False),
        (replace(NEVER_RAN, exit_code=127, stage=Stage.RESOLVE), False),
        (replace(NEVER_RAN, exit_code=-1, reason=EndReason.STOPPED), False),
    ],
)
def test_what_waited_for_go_when_the_executor_was_killed(
    node: NodeProcesses, tmp_path: Path, record: exitrecord.ExitRecord, dropped: bool
) -> None:
    """As after a kill between the journal's row about the waiting command and GO."""
    waited, other, zombie = spec("sh", "-c", "echo ran"), spec("sleep", "1000"), a_zombie()
    asyncio.run(started(node, other))
    node.executor.end(signal.SIGKILL)
    with closing(sqlite3.connect(tmp_path / "state/journal.db")) as journal, journal:
        ((init, start_body),) = journal.execute("SELECT init, body FROM jobs JOIN starts ON number = start").fetchall()
        pid, start_ticks = zombie.pid, procfs.start_ticks(zombie.pid)
        gone = json.dumps({**json.loads(init), "pid": pid, "start_ticks": start_ticks, "command_pid": 2**22})
        number = journal.execute("INSERT INTO starts (body) VALUES (?)", (start_body,)).lastrowid
        journal.execute(
            "INSERT INTO jobs (job_id, state, command, uid_base, memory_bytes, timeout_seconds, not_isolated,"
            " created_ns, init, start) VALUES (?, 'INITIALIZING', 'sh', 1879048192, 1048576, 0, '[]', 1, ?, ?)",
            (waited.job_id, gone, number),
        )
    state = tmp_path / "state/jobs" / waited.job_id
    state.mkdir()
    (state / exitrecord.NAME).write_bytes(record.encode())

    async def scenario() -> None:
        async with node.client() as stub, Watch(stub) as watch:
            listed = {known.job_id for known in (await stub.ListJobs(executor_pb2.ListNodeJobsRequest())).jobs}
            assert (waited.job_id not in listed) == dropped
            if dropped:
                await start(stub, waited)
            outcome = await watch.end(waited.job_id)
            assert (outcome.status == "COMPLETED") == dropped
            if dropped:
                assert watch.of(waited.job_id) == ["started", "ended"]
                assert await node.output(waited.job_id) == b"ran\n"

    node.start_executor()
    asyncio.run(scenario())
    assert zombie.wait() == 0


def test_killed_at_random_moments_of_launches(node: NodeProcesses, tmp_path: Path) -> None:
    """Whenever the executor dies: ordered again if the next one does not know it, a job is started once."""

    async def launch_and_kill(delay_seconds: float) -> None:
        async with node.client() as stub:
            calls = [asyncio.ensure_future(start(stub, job)) for job in batch]
            await asyncio.sleep(delay_seconds)  # the moment of the kill is what varies
            os.kill(node.executor.pid, signal.SIGKILL)
            await asyncio.gather(*calls, return_exceptions=True)

    async def retry_and_finish() -> list[executor_pb2.JobEvent]:
        async with node.client() as stub, Watch(stub) as watch:
            listed = {job.job_id for job in (await stub.ListJobs(executor_pb2.ListNodeJobsRequest())).jobs}
            for job in batch:
                if job.job_id not in listed:
                    await start(stub, job)
                await watch.end(job.job_id)
            return watch.events

    for delay_milliseconds in (2, 5, 9, 14, 20, 30):
        batch = [spec("sh", "-c", "echo x") for _ in range(6)]
        asyncio.run(launch_and_kill(delay_milliseconds / 1000))
        restart(node, signal.SIGKILL)
        events = asyncio.run(retry_and_finish())
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        for job in batch:
            kinds = [str(event.WhichOneof("event")) for event in events if event.job_id == job.job_id]
            assert kinds == ["started", "ended"], kinds
            assert asyncio.run(node.output(job.job_id)) == b"x\n"


def test_the_timeout_comes_while_outputs_are_collected(tmp_path: Path) -> None:
    """A job that ended by itself in time has done so, however long its outputs take; init leaves when theirs is up. Its
    end is one that the timeout would bring about, too."""
    with node_processes(tmp_path, joblet="  cleanupTimeout: 100ms\n", executor="  outputTimeout: 10s\n") as node:
        job = spec(*waiting("for n in $(seq 200); do : > file$n; done; kill -9 $$"), outputs=["**"], timeout_seconds=8)
        started_and_waiting(node, job)
        result = tmp_path / "state/jobs" / job.job_id / "outputs.tmp"
        result.unlink()
        os.mkfifo(result)
        pipe = os.open(result, os.O_RDWR | os.O_NONBLOCK)  # nobody reads from it: the collector waits
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        try:
            go_on(tmp_path / "state/journal.db")
            *_, last = asyncio.run(events_until_end(node, job))
        finally:
            os.close(pipe)
        assert (last.ended.status, last.ended.signal, last.ended.reason) == ("FAILED", signal.SIGKILL, "signal")
        assert "outputs are lost" in last.ended.message
        assert asyncio.run(node.output(job.job_id)) == b"before\n"


def test_an_init_that_does_not_react_is_killed(tmp_path: Path) -> None:
    async def scenario(node: NodeProcesses) -> None:
        async with node.client() as stub, Watch(stub) as watch:
            await start(stub, job)
            await watch.seen(job.job_id, "started")
            (init,) = inits_of(tmp_path / "state/journal.db")
            os.kill(init, signal.SIGSTOP)
            outcome = await stop(stub, job.job_id)
            assert (outcome.status, outcome.exit_code, outcome.reason) == ("STOPPED", -1, "stopped")
            assert outcome.message == "killed, it did not end in time"
        assert await node.output(job.job_id) == b""

    job = spec("sleep", "1000")
    with node_processes(tmp_path, joblet="  cleanupTimeout: 300ms\n") as node:
        asyncio.run(scenario(node))


def test_a_restarted_logstore_is_waited_for(node: NodeProcesses) -> None:
    async def scenario() -> None:
        job = spec("echo", "after all")
        async with node.client() as stub, Watch(stub) as watch:
            node.logstore.end(signal.SIGKILL)
            starting = asyncio.create_task(start(stub, job))
            await asyncio.to_thread(node.start_logstore)
            await starting
            assert (await watch.end(job.job_id)).status == "COMPLETED"
        assert await node.output(job.job_id) == b"after all\n"

    asyncio.run(scenario())
