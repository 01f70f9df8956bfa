"""A real executor process with a real logstore, asked as a gateway asks."""

import asyncio
import os
import signal
import socket
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from joblet.api.internal import executor_pb2
from joblet.executor import reserve, sparelogs, syscalls
from joblet.executor.cgroup.detect import detect
from joblet.executor.launch import LANDLOCK_SCOPES
from joblet.executor.testing_node import (
    MIB,
    NodeProcesses,
    Watch,
    children,
    node_processes,
    nurslings,
    spec,
    start,
    stop,
    upload,
    wait_until,
)

pytestmark = pytest.mark.root

SOON_SECONDS = 60.0  # on a busy machine; much less than what the jobs sleep


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcesses]:
    with node_processes(tmp_path_factory.mktemp("jbtest-node")) as started:
        yield started


async def run(node: NodeProcesses, job: executor_pb2.JobSpec) -> tuple[executor_pb2.Outcome, bytes]:
    """A job's outcome and output."""
    async with node.client() as stub, Watch(stub, await last_sequence(node)) as watch:
        assert (await start(stub, job)).status == "INITIALIZING"
        outcome = await watch.end(job.job_id)
        return outcome, await node.output(job.job_id)


async def last_sequence(node: NodeProcesses) -> int:
    async with node.client() as stub:
        return (await stub.ListJobs(executor_pb2.ListNodeJobsRequest())).last_sequence


def ran(node: NodeProcesses, job: executor_pb2.JobSpec) -> tuple[executor_pb2.Outcome, bytes]:
    return asyncio.run(run(node, job))


def test_true(node: NodeProcesses) -> None:
    outcome, output = ran(node, spec("true"))
    assert (outcome.status, outcome.exit_code, outcome.reason, output) == ("COMPLETED", 0, "exit", b"")
    assert 0 < outcome.started_ns < outcome.ended_ns
    assert outcome.usage.peakMemoryBytes > 0
    assert outcome.usage.wallSeconds > 0


def test_usage_of_fifty_milliseconds(node: NodeProcesses) -> None:
    burn = "import time\nend = time.process_time() + 0.05\nwhile time.process_time() < end: pass"
    usage = ran(node, spec("python3", "-ISc", burn))[0].usage
    assert usage.cpuUserSeconds + usage.cpuSystemSeconds >= 0.04  # a tick is 10 ms at most
    assert usage.wallSeconds >= 0.05
    assert usage.peakMemoryBytes > 1 << 20
    assert usage.voluntaryContextSwitches + usage.involuntaryContextSwitches > 0


@pytest.mark.parametrize("code", [1, 7, 125, 255])
def test_exit_codes(node: NodeProcesses, code: int) -> None:
    outcome, output = ran(node, spec("sh", "-c", f"echo out; echo err >&2; exit {code}"))
    assert (outcome.status, outcome.exit_code, outcome.reason) == ("FAILED", code, "exit")
    assert output == b"out\nerr\n"
    assert outcome.output_bytes == len(output)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_signals(node: NodeProcesses, number: signal.Signals) -> None:
    outcome, _ = ran(node, spec("sh", "-c", f"kill -{int(number)} $$"))
    assert (outcome.status, outcome.exit_code, outcome.signal, outcome.reason) == (
        "FAILED", 128 + number, number, "signal",
    )  # fmt: skip
    assert outcome.message == f"ended by {number.name}"


def test_out_of_memory(node: NodeProcesses) -> None:
    outcome, _ = ran(node, spec("python3", "-c", "b = bytearray(200 << 20)"))
    assert (outcome.status, outcome.exit_code, outcome.reason) == ("FAILED", 137, "oom")
    assert outcome.usage.oomKills >= 1
    assert outcome.message == "out of memory: the limit is 64 MB"


def test_timeout(node: NodeProcesses) -> None:
    outcome, _ = ran(node, spec("sleep", "1000", timeout_seconds=1))
    assert (outcome.status, outcome.exit_code, outcome.reason) == ("STOPPED", -1, "timeout")
    assert 0.9 < outcome.usage.wallSeconds < SOON_SECONDS


@pytest.mark.parametrize(
    ("command", "code", "reason", "message"),
    [
        ("invalid-command", 127, "not-found", "command not found: invalid-command"),
        ("/no/such/file", 127, "not-found", "command not found: /no/such/file"),
        ("/etc/passwd", 126, "not-executable", "command cannot be executed: /etc/passwd: permission denied"),
    ],
)
def test_commands_that_cannot_run_are_never_running(
    node: NodeProcesses, command: str, code: int, reason: str, message: str
) -> None:
    async def scenario() -> None:
        job = spec(command)
        async with node.client() as stub, Watch(stub, await last_sequence(node)) as watch:
            await start(stub, job)
            outcome = await watch.end(job.job_id)
            assert (outcome.status, outcome.exit_code, outcome.reason) == ("FAILED", code, reason)
            assert (outcome.message, outcome.started_ns) == (message, 0)
            assert watch.of(job.job_id) == ["ended"]
        assert await node.output(job.job_id) == b""

    asyncio.run(scenario())


def test_what_the_job_sees(node: NodeProcesses) -> None:
    job = spec(
        "sh", "-c", "pwd; id -u; cat in/a; ls -l in; echo $COLOUR-$TOKEN; env; ls /opt; cat /etc/shadow /run/x",
        environment={"COLOUR": "green"}, secret_environment={"TOKEN": "t0ken"}, work_dir="/work",
        uploads=[upload("in", is_directory=True, mode=0o750), upload("in/a", b"content\n", 0o640)],
    )  # fmt: skip
    outcome, output = ran(node, job)
    assert outcome.exit_code == 1  # cat
    lines = output.decode().splitlines()
    assert lines[:3] == ["/work", "1000", "content"]
    assert "-rw-r-----" in output.decode()
    assert "green-t0ken" in lines
    assert f"JOB_ID={job.job_id}" in lines
    assert "JBTEST_CANARY" not in output.decode()
    for directory, _, names in os.walk(node.directory / "state"):
        for path in (Path(directory, name) for name in names):
            with suppress(FileNotFoundError):  # cleared away meanwhile
                assert not path.is_file() or b"t0ken" not in path.read_bytes(), path
    assert "t0ken" not in "".join(node.executor.log)


def test_attestation_and_what_is_not_isolated_arrive_with_the_start(node: NodeProcesses) -> None:
    async def scenario() -> None:
        job = spec("sleep", "0.05", network="host")
        async with node.client() as stub, Watch(stub, await last_sequence(node)) as watch:
            await start(stub, job)
            started = (await watch.seen(job.job_id, "started")).started
            assert started.attestation.facts["CapBnd"] == "0" * 16
            assert started.attestation.facts["Seccomp"] == "2"
            assert started.attestation.facts["ns.shared"] == "net"
            assert started.attestation.facts["limit.memoryBytes"] == str(64 * MIB)
            assert started.attestation.time.seconds > 0
            assert [text.split(":")[0] for text in started.not_isolated][:1] == ["network"]
            await watch.end(job.job_id)

    asyncio.run(scenario())


def test_what_the_hosts_network_gives_and_what_not(node: NodeProcesses) -> None:
    """As `not_isolated` says: listeners on loopback can be reached, abstract unix sockets cannot, given Landlock."""
    program = (
        "import socket, sys\n"
        "socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "try: socket.socket(socket.AF_UNIX).connect('\\0' + sys.argv[2])\n"
        "except PermissionError: print('refused')\n"
    )
    name = f"jbtest-{node.executor.pid}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        job = spec("python3", "-c", program, str(tcp.getsockname()[1]), name, network="host")
        outcome, output = ran(node, job)
    assert outcome.status == "COMPLETED", output
    assert output == (b"refused\n" if syscalls.landlock_abi() >= LANDLOCK_SCOPES else b"")


def test_stop(node: NodeProcesses) -> None:
    async def scenario() -> None:
        job = spec("sh", "-c", "trap '' TERM; setsid sleep 1000 & echo ready; sleep 1000")
        async with node.client() as stub, Watch(stub, await last_sequence(node)) as watch:
            await start(stub, job)
            await watch.seen(job.job_id, "started")
            outcomes = await asyncio.gather(stop(stub, job.job_id), stop(stub, job.job_id))
            for outcome in outcomes:
                assert (outcome.status, outcome.exit_code, outcome.reason) == ("STOPPED", -1, "stopped")
                assert outcome.usage.wallSeconds < SOON_SECONDS
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stop(stub, job.job_id)
            assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert refusal.value.details() == f"job is not running: {job.job_id} (current status: STOPPED)"

    asyncio.run(scenario())


def test_stop_while_launching(node: NodeProcesses) -> None:
    async def scenario() -> None:
        async with node.client() as stub, Watch(stub, await last_sequence(node)) as watch:
            for _ in range(5):
                job = spec("sleep", "1000")
                await start(stub, job)
                outcome = await stop(stub, job.job_id)
                assert (outcome.status, outcome.exit_code, outcome.reason) == ("STOPPED", -1, "stopped")
                assert (await watch.end(job.job_id)).status == "STOPPED"

    asyncio.run(scenario())


def test_a_job_that_ends_before_the_stop_keeps_its_end(node: NodeProcesses) -> None:
    async def scenario() -> None:
        job = spec("sh", "-c", "exit 3")
        async with node.client() as stub, Watch(stub, await last_sequence(node)) as watch:
            await start(stub, job)
            await watch.end(job.job_id)
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stop(stub, job.job_id)
            assert refusal.value.details() == f"job is not running: {job.job_id} (current status: FAILED)"

    asyncio.run(scenario())


def test_starting_is_idempotent(node: NodeProcesses) -> None:
    async def scenario() -> None:
        job = spec("sh", "-c", "echo once")
        async with node.client() as stub, Watch(stub, await last_sequence(node)) as watch:
            answers = await asyncio.gather(*(start(stub, job) for _ in range(20)))
            assert {answer.job_id for answer in answers} == {job.job_id}
            await watch.end(job.job_id)
            again = await start(stub, job)
            assert again.status == "COMPLETED"
            assert watch.of(job.job_id) == ["started", "ended"]
        assert await node.output(job.job_id) == b"once\n"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"memory_bytes": 1 << 50}, "INVALID_ARGUMENT", "job creation failed: maxMemory exceeds system limits"),
        ({"cpu_percent": 10_000_000}, "INVALID_ARGUMENT", "job creation failed: maxCPU exceeds system limits"),
        ({"cpu_cores": "0,4095"}, "INVALID_ARGUMENT", "job creation failed: cpuCores exceeds system limits"),
        ({"network": "bridge"}, "INVALID_ARGUMENT", "unknown network: 'bridge' (this node has: host, none)"),
        ({"job_id": "../x"}, "INVALID_ARGUMENT", "invalid job id: '../x'"),
        ({"work_dir": "x"}, "INVALID_ARGUMENT", "workDir must be an absolute path inside the job, got 'x'"),
        ({"uploads": [upload("../x")]}, "INVALID_ARGUMENT",
         "upload path must stay below the job's directory: '../x'"),
    ],
)  # fmt: skip
def test_refused_orders_leave_nothing(node: NodeProcesses, changes: dict[str, object], code: str, text: str) -> None:
    async def scenario() -> None:
        before = await last_sequence(node)
        async with node.client() as stub:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await start(stub, spec("true", **changes))
            assert (refusal.value.code().name, refusal.value.details()) == (code, text)
        assert await last_sequence(node) == before

    asyncio.run(scenario())
    jobs = node.directory / "state/jobs"  # those of earlier jobs go some time after their ends
    wait_until(lambda: not list(jobs.iterdir()), lambda: f"left: {list(jobs.iterdir())}")


def test_a_full_node_refuses(node: NodeProcesses) -> None:
    async def scenario() -> None:
        jobs = [spec("sleep", "1000", memory_bytes=16 * MIB) for _ in range(8)]
        async with node.client() as stub:
            await asyncio.gather(*(start(stub, job) for job in jobs))
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await start(stub, spec("true"))
            assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await asyncio.gather(*(stop(stub, job.job_id) for job in jobs))
        outcome, _ = await run(node, spec("true"))
        assert outcome.status == "COMPLETED"

    asyncio.run(scenario())


def test_events_are_acknowledged_and_jobs_forgotten(node: NodeProcesses) -> None:
    async def scenario() -> None:
        job = spec("true")
        await run(node, job)
        async with node.client() as stub:
            listed = await stub.ListJobs(executor_pb2.ListNodeJobsRequest())
            assert job.job_id in {known.job_id for known in listed.jobs}
            await stub.ForgetJob(executor_pb2.ForgetJobRequest(job_id=job.job_id))
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await stub.ForgetJob(executor_pb2.ForgetJobRequest(job_id=job.job_id))
            assert unknown.value.details() == f"job not found: {job.job_id}"
            call = stub.Follow()
            await call.write(executor_pb2.FollowRequest(after=listed.last_sequence + 1))
            with pytest.raises(grpc.aio.AioRpcError) as beyond:
                await call.read()
            assert beyond.value.code() is grpc.StatusCode.OUT_OF_RANGE

    asyncio.run(scenario())


def test_many_jobs_are_forgotten_at_once(node: NodeProcesses) -> None:
    async def scenario() -> None:
        ended, running = spec("true"), spec("sleep", "1000")
        await run(node, ended)
        async with node.client() as stub:
            await stub.StartJob(executor_pb2.StartJobRequest(spec=running))
            ids = [running.job_id, str(uuid.uuid4()), ended.job_id]
            answer = await stub.ForgetJob(executor_pb2.ForgetJobRequest(job_ids=ids))
            assert list(answer.kept) == [running.job_id]
            listed = {job.job_id for job in (await stub.ListJobs(executor_pb2.ListNodeJobsRequest())).jobs}
            assert listed.isdisjoint({ended.job_id})
            assert running.job_id in listed
            await stop(stub, running.job_id)

    asyncio.run(scenario())


def test_only_gateways_may_ask(node: NodeProcesses) -> None:
    async def scenario() -> None:
        for certificate in ("node", "admin-client"):
            async with node.client(certificate) as stub:
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await start(stub, spec("true"))
                assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(scenario())


def settle(node: NodeProcesses) -> None:
    """Until only the inits prepared for later jobs are there, of both networks: none on cgroup v2."""
    prepared = reserve.MOST if detect("jbtest").version == 1 else 0

    def inits() -> int:
        return len(nurslings(node.executor.pid))

    wait_until(lambda: inits() == prepared, lambda: f"{inits()} inits")


@pytest.mark.parametrize("memory_bytes", [32 * MIB, 100 * MIB])
def test_shared_memory_is_the_jobs_in_an_init_prepared_before_it(node: NodeProcesses, memory_bytes: int) -> None:
    ran(node, spec("true"))
    ran(node, spec("true", network="host"))
    settle(node)
    shown = "stat -f -c '%b %S %c' /dev/shm; stat -c %a /dev/shm; echo x > /dev/shm/file && cat /dev/shm/file"
    _, output = ran(node, spec("sh", "-c", shown, memory_bytes=memory_bytes))
    assert output.decode() == f"{memory_bytes // 4096} 4096 {1 << 18}\n1777\nx\n"


def test_jobs_leave_no_descriptor_and_no_process(node: NodeProcesses) -> None:
    def descriptors() -> list[str]:
        """All but TCP connections, which are the test's and closed some time later, and the two of each spare log."""
        tables = "".join(table.read_text() for table in Path("/proc/net").glob("tcp*"))  # tcp6 may be missing
        tcp = {line.split()[9] for line in tables.splitlines()}
        names = []
        for descriptor in Path(f"/proc/{node.executor.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                names.append(str(descriptor.readlink()))
        spares = [name for name in names if "/logs/spare-" in name]
        assert len(spares) <= 2 * sparelogs.STOCK
        kept = (name for name in names if name.removeprefix("socket:[").rstrip("]") not in tcp and name not in spares)
        # The sockets of prepared inits are others each time.
        return sorted("socket" if name.startswith("socket:[") else name for name in kept)

    ran(node, spec("true"))
    ran(node, spec("true", network="host"))
    settle(node)
    before = descriptors()
    for _ in range(5):
        ran(node, spec("true"))
        ran(node, spec("invalid-command"))
    settle(node)
    # Not the same: what is open for a moment may have been so before.
    wait_until(lambda: not Counter(descriptors()) - Counter(before), lambda: f"{descriptors()} instead of {before}")


def test_an_order_that_is_still_with_a_nursery_that_is_killed(node: NodeProcesses) -> None:
    async def scenario() -> None:
        job = spec("true", profile="build")  # for which no init is prepared
        (nursery,) = children(node.executor.pid)
        async with node.client() as stub, Watch(stub, await last_sequence(node)) as watch:
            os.kill(nursery, signal.SIGSTOP)
            await start(stub, job)
            os.kill(nursery, signal.SIGKILL)
            assert (await watch.end(job.job_id)).status == "COMPLETED"
            assert children(node.executor.pid) != [nursery]

    ran(node, spec("true"))
    asyncio.run(scenario())
