"""For tests: a node of real processes, executor and logstore, in one directory, with a gateway's certificate to ask it.

Everything it makes outside of the directory is a cgroup below `jbtest-...`; `close` looks for what is left.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import grpc

from joblet.api import job_pb2
from joblet.api.internal import executor_pb2
from joblet.api.internal.executor_pb2_grpc import ExecutorServiceStub
from joblet.api.internal.logstore_pb2 import ReadLogsRequest
from joblet.api.internal.logstore_pb2_grpc import LogStoreServiceStub
from joblet.common import config
from joblet.common.config import TlsFiles
from joblet.common.ids import new_job_id
from joblet.common.pki import Bundle, write_bundle
from joblet.common.rpc import connect
from joblet.executor.cgroup.driver_for_tests import RUN

if TYPE_CHECKING:
    from joblet.api.internal.executor_pb2_grpc import ExecutorServiceAsyncStub
    from joblet.executor.job import InitProcess

NODE = "node-1"
TIMEOUT_SECONDS = 120.0  # only ends a wait for what never comes
POLL_SECONDS = 0.01
MIB = 1 << 20


class Service:
    """One process, `python -m joblet.<name>`, that says "listening" when it is up; again on the same port."""

    def __init__(
        self, name: str, config_path: Path, prefix: Sequence[str] = (), program: Sequence[str] | None = None
    ) -> None:
        self.name = name
        self.log: list[str] = []
        self.port = 0
        self.metrics_port = 0
        program = program or ("-m", f"joblet.{name}")
        self._command = [*prefix, sys.executable, *program, "--config", str(config_path)]
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._process = process = subprocess.Popen(
            self._command, env={"PYTHONPATH": os.pathsep.join(sys.path), "JBTEST_CANARY": "of-the-executor"},
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line)
            if "] listening | " in line:
                break
        else:
            process.wait(TIMEOUT_SECONDS)
            process.stderr.close()
            self._process = None
            raise AssertionError(f"{self.name} did not start: {''.join(self.log)}")
        fields = dict(field.split("=", 1) for field in line.split(" | ")[1].split())
        self.port = int(fields["address"].rpartition(":")[2])
        self.metrics_port = int(fields["metricsPort"])
        self._reader = Thread(target=self.log.extend, args=(process.stderr,))
        self._reader.start()

    def end(self, number: signal.Signals) -> int:
        """Sends the signal and waits; the exit code."""
        assert self._process is not None
        assert self._process.stderr is not None
        self._process.send_signal(number)
        code = self._process.wait(TIMEOUT_SECONDS)
        self._reader.join()
        self._process.stderr.close()
        self._process = None
        return code

    @property
    def running(self) -> bool:
        return self._process is not None


class NodeProcesses:
    """`joblet` and `executor` are more lines of these sections of the configuration, `prefix` is a command that
    executes the executor, `program` what Python executes instead of the module, `owner` is the directory's."""

    def __init__(
        self,
        directory: Path,
        *,
        joblet: str = "",
        executor: str = "",
        prefix: Sequence[str] = (),
        program: Sequence[str] | None = None,
        owner: int = 0,
    ) -> None:
        self.directory = directory
        self.cgroup_parent = f"{RUN}-{directory.name[-20:]}"
        self.bundle: Bundle = write_bundle(directory / "certs", node_id=NODE)
        self.logs = directory / "logs"
        self._settings = {"joblet": joblet, "executor": executor}
        path = directory / "joblet-config.yml"
        self.logstore = Service("logstore", path)
        self.executor = Service("executor", path, prefix, program)
        for entry in (directory, *directory.rglob("*")):
            os.chown(entry, owner, owner)

    def start(self) -> None:
        self.start_logstore()
        self.start_executor()

    def start_logstore(self) -> None:
        self.write_config()
        self.logstore.start()

    def start_executor(self) -> None:
        self.write_config()
        self.executor.start()

    def write_config(self) -> Path:
        tls = f"{{ca: {self.bundle.ca_cert}, cert: {self.bundle.cert('node')}, key: {self.bundle.key('node')}}}"
        path = self.directory / "joblet-config.yml"
        path.write_text(
            f"joblet:\n  maxConcurrentJobs: 8\n{self._settings['joblet']}"
            f"executor:\n  listen: 127.0.0.1:{self.executor.port}\n"
            f"  metricsListen: 127.0.0.1:{self.executor.metrics_port}\n  stateDir: state\n"
            f"  logstoreSocket: control.sock\n  gateways: ['127.0.0.1:1']\n  cgroupParent: {self.cgroup_parent}\n"
            f"{self._settings['executor']}  tls: {tls}\n"
            f"logstore:\n  listen: 127.0.0.1:{self.logstore.port}\n"
            f"  metricsListen: 127.0.0.1:{self.logstore.metrics_port}\n"
            f"  directory: {self.logs}\n  socket: control.sock\n  tls: {tls}\n"
        )
        return path

    @asynccontextmanager
    async def client(self, certificate: str = "gateway") -> "AsyncIterator[ExecutorServiceAsyncStub]":
        async with self.channel(self.executor.port, certificate) as channel:
            yield ExecutorServiceStub(channel)

    async def output(self, job_id: str) -> bytes:
        """The whole output, to its end."""
        async with self.channel(self.logstore.port, "gateway") as channel:
            call: Any = LogStoreServiceStub(channel).ReadLogs(ReadLogsRequest(job_id=job_id), timeout=TIMEOUT_SECONDS)
            return b"".join([chunk.payload async for chunk in call])

    @asynccontextmanager
    async def channel(self, port: int, certificate: str) -> AsyncIterator[grpc.aio.Channel]:
        tls = TlsFiles(self.bundle.ca_cert, self.bundle.cert(certificate), self.bundle.key(certificate))
        grpc_config = config.load(self.write_config()).grpc
        async with connect(f"127.0.0.1:{port}", tls, grpc_config, target_name=NODE) as channel:
            yield channel

    def close(self) -> None:
        for service in (self.executor, self.logstore):
            if service.running:
                service.end(signal.SIGTERM)


@contextmanager
def node_processes(directory: Path, **settings: Any) -> Iterator[NodeProcesses]:
    """A started node, its jobs and processes ended whatever happens; AssertionError for what it leaves."""
    before = leftovers()
    node = NodeProcesses(directory, **settings)
    try:
        node.start()
        yield node
        if node.executor.running:
            asyncio.run(_stop_all(node))
    finally:
        node.close()
        _kill_jobs(node)
    wait_until(lambda: leftovers() <= before, lambda: f"left behind: {leftovers() - before}")


async def _stop_all(node: NodeProcesses) -> None:
    async with node.client() as stub:
        for job in (await stub.ListJobs(executor_pb2.ListNodeJobsRequest(), timeout=TIMEOUT_SECONDS)).jobs:
            if not job.HasField("outcome"):
                await stub.StopJob(executor_pb2.StopJobRequest(job_id=job.job_id), timeout=TIMEOUT_SECONDS)


def _kill_jobs(node: NodeProcesses) -> None:
    """What a failed test may leave: jobs without an executor, and their cgroups."""
    from joblet.executor.cgroup.detect import detect

    journal = node.directory / "state/journal.db"
    if journal.exists():
        for pid in inits_of(journal):
            with_suppressed_kill(pid)
    driver = detect(node.cgroup_parent)
    for job_id in driver.existing():
        driver.discard(job_id)
    driver.close()


def inits_of(journal: Path) -> list[int]:
    """The inits of jobs that have not ended, by the journal, that are still the same processes."""
    return [init.pid for init in _living(journal)]


def go_on(journal: Path) -> None:
    """SIGUSR1 to the commands of these jobs, see `waiting`."""
    for init in _living(journal):
        os.kill(init.command_pid, signal.SIGUSR1)


def waiting(then: str) -> tuple[str, ...]:
    """A job's command that prints "before" and goes on with `then` when it is told by `go_on`."""
    return "sh", "-c", f'trap "go=1" USR1; echo before; while [ -z "$go" ]; do sleep 0.01; done; {then}'


def _living(journal: Path) -> "list[InitProcess]":
    from contextlib import closing

    from joblet.executor import procfs
    from joblet.executor.journal import Journal

    with closing(Journal(journal)) as opened:
        inits = [job.init for job in opened.jobs() if job.init is not None and job.outcome is None]
    return [init for init in inits if runs(init.pid) and procfs.start_ticks(init.pid) == init.start_ticks]


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only what of it waits to be reaped: whose child an orphan becomes, and
    how soon that one looks after it, is the machine's affair.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def with_suppressed_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def leftovers() -> frozenset[str]:
    """Mounts, cgroups of tests and jobinit processes of this machine, one line each."""
    mounts = {f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    cgroups = {f"cgroup {path}" for path in cgroups_below(f"{RUN}-")}
    return frozenset(mounts | cgroups)


def cgroups_below(prefix: str) -> Iterator[Path]:
    """Those whose name begins so and what is in them; what others remove meanwhile is passed over, which glob is not
    able to."""
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        yield from (Path(directory, name) for name in names if f"/{prefix}" in f"{directory}/{name}")


def wait_until(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Asks again and again until it is true; AssertionError with the text of `otherwise` when time is up."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise())
        time.sleep(POLL_SECONDS)  # between two looks; nothing depends on its length


def nurslings(executor: int) -> list[int]:
    """The inits of its jobs, and those that wait for one: the children of its nursery."""
    return [init for nursery in children(executor) for init in children(nursery)]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def spec(*command: str, **changes: Any) -> executor_pb2.JobSpec:
    """A harmless job."""
    fields: dict[str, Any] = {
        "job_id": new_job_id(), "command": command[0], "args": command[1:], "cpu_percent": 100,
        "memory_bytes": 64 * MIB, "max_processes": 100, "network": "none",
    }  # fmt: skip
    return executor_pb2.JobSpec(**{**fields, **changes})


class Watch:
    """Follows a node's events in the background and hands out those of one job."""

    def __init__(self, stub: "ExecutorServiceAsyncStub", after: int = 0) -> None:
        self._stub = stub
        self._after = after
        self._changed = asyncio.Event()
        self.events: list[executor_pb2.JobEvent] = []

    async def __aenter__(self) -> "Watch":
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *details: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        call: Any = self._stub.Follow()
        await call.write(executor_pb2.FollowRequest(after=self._after))
        async for message in call:
            self.events.extend(message.events)
            self._changed.set()
            self._changed = asyncio.Event()

    def of(self, job_id: str) -> list[str]:
        """What happened to a job, in order."""
        return [str(event.WhichOneof("event")) for event in self.events if event.job_id == job_id]

    async def seen(self, job_id: str, kind: str) -> executor_pb2.JobEvent:
        """The job's first event of this kind, waited for."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                changed = self._changed
                for event in self.events:
                    if event.job_id == job_id and event.WhichOneof("event") == kind:
                        return event
                await changed.wait()

    async def end(self, job_id: str) -> executor_pb2.Outcome:
        return (await self.seen(job_id, "ended")).ended


async def start(stub: "ExecutorServiceAsyncStub", job: executor_pb2.JobSpec) -> executor_pb2.NodeJob:
    return (await stub.StartJob(executor_pb2.StartJobRequest(spec=job), timeout=TIMEOUT_SECONDS)).job


async def stop(stub: "ExecutorServiceAsyncStub", job_id: str) -> executor_pb2.Outcome:
    request = executor_pb2.StopJobRequest(job_id=job_id)
    return (await stub.StopJob(request, timeout=TIMEOUT_SECONDS)).outcome


def upload(path: str, content: bytes = b"", mode: int = 0, *, is_directory: bool = False) -> job_pb2.FileUpload:
    return job_pb2.FileUpload(path=path, content=content, mode=mode, isDirectory=is_directory)
