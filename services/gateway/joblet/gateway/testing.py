"""For tests: a node without a kernel. Real gRPC servers of ExecutorService and LogStoreService over real mutual TLS,
whose jobs do what the test says; and a gateway in this process with clients for it."""

import asyncio
import socket
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import CollectorRegistry

from joblet.api import job_pb2
from joblet.api.internal import executor_pb2, executor_pb2_grpc, logstore_pb2, logstore_pb2_grpc, registry_pb2
from joblet.api.internal.registry_pb2_grpc import RegistryServiceStub
from joblet.api.job_pb2_grpc import JobServiceStub
from joblet.common import framed, rpc
from joblet.common.config import Config, GatewayConfig, JobletConfig, TlsFiles
from joblet.common.errors import (
    JobletError,
)
from joblet.common.pki import Bundle, issue, read_pair, write_bundle, write_pair
from joblet.common.roles import Role
from joblet.common.rpc import Access, RpcServer
from joblet.gateway.server import Gateway
from joblet.gateway.store.database import Database
from joblet.gateway.testing_executor import Executor
from joblet.gateway.testing_logstore import LogStore

if TYPE_CHECKING:
    from joblet.api.job_pb2_grpc import JobServiceAsyncStub

NODE = "node-1"
MIB = 1 << 20
TIMEOUT_SECONDS = 120.0

GATEWAY_ONLY = frozenset({Role.GATEWAY})


@dataclass
class FakeJob:
    spec: executor_pb2.JobSpec
    status: str = "INITIALIZING"
    started_ns: int = 0
    outcome: executor_pb2.Outcome | None = None
    output: bytearray = field(default_factory=bytearray)
    written: list[tuple[int, int]] = field(default_factory=list)  # bytes of output, and when there were so many (ns)
    has_log: bool = True
    log_has_end: bool = True  # once the job has ended
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def before(self, time_ns: int) -> int:
        """How much output there was before that time."""
        return max((size for size, when_ns in self.written if when_ns < time_ns), default=0)


class FakeNode:
    """A node's state: it outlives the servers, which `up` and `down` start and kill."""

    def __init__(self, bundle: Bundle, *, node_id: str = NODE) -> None:
        self.node_id = node_id
        if not bundle.cert(_certificate(node_id)).exists():
            ca = read_pair(bundle.ca_cert, bundle.ca_key)
            pair = issue(ca, node_id, Role.NODE, hosts=("localhost", "127.0.0.1"))
            write_pair(pair, bundle.cert(_certificate(node_id)), bundle.key(_certificate(node_id)))
        self.tls = TlsFiles(bundle.ca_cert, bundle.cert(_certificate(node_id)), bundle.key(_certificate(node_id)))
        self.jobs: dict[str, FakeJob] = {}
        self.finished: dict[str, FakeJob] = {}  # forgotten by the executor; their logs are still there
        self.events: list[executor_pb2.JobEvent] = []
        self.first_event = 1  # those before are forgotten
        self.more = asyncio.Event()
        self.starts: list[str] = []  # one entry per StartJob received
        self.forgotten: list[str] = []
        self.outputs: dict[str, dict[str, bytes]] = {}  # by job id and path
        self.read_outputs: list[job_pb2.GetJobOutputReq] = []
        self.contents: dict[str, bytes] = {}  # what PutContent brought, by digest
        self.refuse: JobletError | None = None  # what StartJob answers
        self.lose_answers = 0  # so many StartJobs are carried out and never answered
        self.ends_before_stop = False
        self.script: Callable[[FakeNode, FakeJob], Coroutine[Any, Any, None]] | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.read_requests: list[int] = []  # offsets of ReadLogs
        self.last_read = logstore_pb2.ReadLogsRequest()
        self.readers = 0  # calls of ReadLogs in progress
        self.senders: dict[str, socket.socket] = {}  # by ticket: where output goes that is not to go by the call
        self.lines: socket.socket | None = None  # listens where the gateway looks for an executor of its machine
        self.greetings: list[bytes] = []  # what comes there in place of an empty message; nothing at all: an end
        self.followed: list[str] = []  # the way of each call of Follow
        self.impatient = 0  # so many ReadLogs end after one chunk, as for a reader that takes nothing
        self.work_bytes = 1024 * MIB
        self.executor_port = 0
        self.logstore_port = 0
        self._executor: RpcServer | None = None
        self._logstore: RpcServer | None = None

    async def line(self, ticket: str) -> framed.Line | None:
        """The connection that the ticket came by, too."""
        if self.lines is not None and ticket:
            sock, _ = self.lines.accept()
            while sock.recv(100) != ticket.encode():  # of a call that failed
                sock.close()
                sock, _ = self.lines.accept()
            sock.setblocking(False)
            greeting = self.greetings.pop() if self.greetings else framed.EMPTY
            if sock.send(greeting):
                self.followed.append("socket")
                return await framed.Line.over(sock)
            sock.close()
        self.followed.append("call")
        return None

    async def up(self) -> None:
        if self._executor is None:
            await self.executor_up()
        if self._logstore is None:
            await self.logstore_up()

    async def executor_up(self) -> None:
        server = RpcServer(
            "executor", f"127.0.0.1:{self.executor_port}", self.tls, Config().grpc, _access(_EXECUTOR), internal=True
        )
        server.add(_EXECUTOR, executor_pb2_grpc.add_ExecutorServiceServicer_to_server, Executor(self))
        self.executor_port = await server.start()
        self._executor = server

    async def logstore_up(self) -> None:
        server = RpcServer(
            "logstore", f"127.0.0.1:{self.logstore_port}", self.tls, Config().grpc, _access(_LOGSTORE), internal=True
        )
        server.add(_LOGSTORE, logstore_pb2_grpc.add_LogStoreServiceServicer_to_server, LogStore(self))
        self.logstore_port = await server.start()
        self._logstore = server

    async def executor_down(self) -> None:
        if self._executor is not None:
            server, self._executor = self._executor, None
            await server.stop(0)

    async def logstore_down(self) -> None:
        if self._logstore is not None:
            server, self._logstore = self._logstore, None
            await server.stop(0)

    async def down(self) -> None:
        await self.executor_down()
        await self.logstore_down()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def lose_state(self) -> None:
        """As if the state directory had been deleted."""
        self.jobs.clear()
        self.events.clear()

    def heartbeat(self) -> registry_pb2.HeartbeatRequest:
        return registry_pb2.HeartbeatRequest(
            executor_address=f"127.0.0.1:{self.executor_port}",
            logstore_address=f"127.0.0.1:{self.logstore_port}",
            runtime_address="127.0.0.1:1",
            boot_id="boot-1",
            cpu_cores=4,
            memory_bytes=8192 * MIB,
            labels={"zone": "a"},
            version="0.1.0",
            system="linux",
            cores="0-3",
            max_processes=32768,
            work_bytes=self.work_bytes,
            content_bytes=4096 * MIB,
        )

    def accept(self, spec: executor_pb2.JobSpec) -> FakeJob:
        job = self.jobs[spec.job_id] = FakeJob(spec)
        if self.script is not None:
            task = asyncio.get_running_loop().create_task(self.script(self, job))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        return job

    def started(self, job: FakeJob) -> None:
        job.status, job.started_ns = "RUNNING", time.time_ns()
        body = executor_pb2.JobStarted(
            not_isolated=["network: host"],
            attestation=job_pb2.Attestation(time=Timestamp(seconds=5), facts={"CapEff": "0000000000000000"}),
        )
        self._event(job, job.started_ns, started=body)

    def ended(
        self,
        job: FakeJob,
        status: str,
        exit_code: int,
        reason: str = "exit",
        message: str = "",
        output_bytes: int | None = None,
    ) -> None:
        """`output_bytes` is what is told, the truth by default."""
        job.status = status
        job.outcome = executor_pb2.Outcome(
            status=status,
            exit_code=exit_code,
            reason=reason,
            message=message,
            started_ns=job.started_ns,
            ended_ns=time.time_ns(),
            usage=job_pb2.Usage(cpuUserSeconds=0.25, peakMemoryBytes=4096),
            output_bytes=len(job.output) if output_bytes is None else output_bytes,
        )
        self._event(job, job.outcome.ended_ns, ended=job.outcome)
        job.wake()

    def print(self, job: FakeJob, data: bytes) -> None:
        job.output += data
        job.written.append((len(job.output), time.time_ns()))
        job.wake()

    def _event(self, job: FakeJob, time_ns: int, **body: Any) -> None:
        self.events.append(
            executor_pb2.JobEvent(
                sequence=len(self.events) + self.first_event, job_id=job.spec.job_id, time_ns=time_ns, **body
            )
        )
        self.wake()

    def wake(self) -> None:
        self.more.set()
        self.more = asyncio.Event()

    @property
    def last_sequence(self) -> int:
        return len(self.events) + self.first_event - 1


def _certificate(node_id: str) -> str:
    return "node" if node_id == NODE else node_id


_EXECUTOR = executor_pb2.DESCRIPTOR.services_by_name["ExecutorService"]
_LOGSTORE = logstore_pb2.DESCRIPTOR.services_by_name["LogStoreService"]


def _access(service: Any) -> dict[str, Access]:
    return {f"/{service.full_name}/{m.name}": Access(m.name, GATEWAY_ONLY) for m in service.methods}


async def run_true(node: FakeNode, job: FakeJob) -> None:
    """A script: starts, prints its command, ends with 0."""
    node.started(job)
    node.print(job, job.spec.command.encode())
    node.ended(job, "COMPLETED", 0)


async def run_forever(node: FakeNode, job: FakeJob) -> None:
    """A script: starts and never ends by itself."""
    node.started(job)


@dataclass
class World:
    """A running gateway, its node, and clients by the name of their certificate."""

    bundle: Bundle
    config: Config
    gateway: Gateway
    node: FakeNode
    registry: CollectorRegistry
    stack: AsyncExitStack

    async def channel(self, certificate: str = "admin-client") -> grpc.aio.Channel:
        tls = TlsFiles(self.bundle.ca_cert, self.bundle.cert(certificate), self.bundle.key(certificate))
        channel = rpc.connect(f"localhost:{self.gateway.port}", tls, self.config.grpc, internal=False)
        self.stack.push_async_callback(channel.close)
        return channel

    async def client(self, certificate: str = "admin-client") -> "JobServiceAsyncStub":
        return JobServiceStub(await self.channel(certificate))

    async def beat(self, node: FakeNode | None = None) -> None:
        """One heartbeat of a node, and the gateway is connected to it."""
        node = node or self.node
        await self.heartbeat(node)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self.gateway.nodes.link(node.node_id).connected.wait()

    async def heartbeat(self, node: FakeNode | None = None) -> registry_pb2.HeartbeatResponse:
        node = node or self.node
        stub = RegistryServiceStub(await self.channel(_certificate(node.node_id)))
        response: registry_pb2.HeartbeatResponse = await stub.Heartbeat(node.heartbeat(), timeout=TIMEOUT_SECONDS)
        return response

    async def status(self, job_id: str) -> job_pb2.GetJobStatusRes:
        return await self.gateway.jobs.status(job_id)

    async def until(self, job_id: str, status: str) -> job_pb2.GetJobStatusRes:
        """The job's message once it has this status; woken by the gateway's own changes."""
        with self.gateway.changes.watch(job_id) as changed:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while (message := await self.status(job_id)).status != status:
                    await changed.wait()
                    changed.clear()
        return message


async def failure(call: Awaitable[Any]) -> tuple[str, str]:
    """Code and text of the error that a call must end with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    raise AssertionError("the call must fail")


async def output(call: AsyncIterable[job_pb2.DataChunk]) -> bytes:
    """All that GetJobLogs sends; every chunk must begin where the one before ended."""
    received = bytearray()
    first: int | None = None
    async for chunk in call:
        first = chunk.offset if first is None else first
        assert chunk.offset == first + len(received)
        received += chunk.payload
    return bytes(received)


def configure(
    directory: Path, bundle: Bundle, *, lease_seconds: int = 15, reader_timeout_seconds: float = 60.0, **joblet: Any
) -> Config:
    return replace(
        Config(),
        joblet=replace(JobletConfig(), **joblet),
        gateway=replace(
            GatewayConfig(),
            listen="127.0.0.1:0",
            metrics_listen="127.0.0.1:0",
            tls=TlsFiles(bundle.ca_cert, bundle.cert("gateway"), bundle.key("gateway")),
            database=f"sqlite:///{directory}/gateway.db",
            node_lease_seconds=lease_seconds,
            logstore_socket=directory / "logstore.sock",
            executor_socket=directory / "executor.sock",
            reader_timeout_seconds=reader_timeout_seconds,
        ),
    )


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[tuple[Gateway, CollectorRegistry]]:
    """A gateway in this process."""
    registry = CollectorRegistry()
    with Database(config.gateway.database) as database:
        gateway = Gateway(config, database, registry)
        stop = asyncio.Event()
        task = asyncio.get_running_loop().create_task(gateway.serve(stop))
        started = asyncio.get_running_loop().create_task(gateway.started.wait())
        try:
            await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_SECONDS)
            if task.done():
                await task
            yield gateway, registry
        finally:
            started.cancel()
            stop.set()
            await task


@asynccontextmanager
async def world(
    directory: Path, *, bundle: Bundle | None = None, node: FakeNode | None = None, **settings: Any
) -> AsyncIterator[World]:
    """Gateway and node, connected. A node that is given is brought up if need be, and stays up afterwards."""
    bundle = bundle or write_bundle(directory / "certs", node_id=NODE)
    config = configure(directory, bundle, **settings)
    async with AsyncExitStack() as outer:
        if node is None:
            node = FakeNode(bundle)
            outer.push_async_callback(node.down)
        await node.up()
        gateway, registry = await outer.enter_async_context(serving(config))
        async with AsyncExitStack() as stack:
            it = World(bundle, config, gateway, node, registry, stack)
            await it.beat()
            yield it
