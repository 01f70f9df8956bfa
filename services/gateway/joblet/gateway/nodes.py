"""The registry of nodes: heartbeats, leases, links, and which nodes a job can be given to.

A node is known by its certificate's CN. Its heartbeat is stored, gives it a lease and, the first time, a Link that is
followed as long as the gateway runs; links to stored nodes are opened at start, before any heartbeat. A node whose
lease has run out is asked once more directly; if it does not answer, it is LOST and its jobs are failed.
"""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable

from joblet.api.internal import executor_pb2, registry_pb2
from joblet.common import log
from joblet.common.config import GatewayConfig, GrpcConfig
from joblet.common.errors import InvalidArgument, JobletError, NotFound, Unavailable
from joblet.common.roles import Identity
from joblet.common.units import NS_PER_SECOND, format_cpu_list, parse_cpu_list
from joblet.common.yamlschema import split_address
from joblet.gateway.changes import Changes
from joblet.gateway.link import Link
from joblet.gateway.store import nodes as node_queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.model import Node, NodeState

PROBE_SECONDS = 3.0
CONNECT_SECONDS = 2.0  # how long a new job waits for a node that is just being connected

_log = log.get_logger(__name__)


class Nodes:
    """`follow(link)` runs for every link until it is cancelled: `joblet.gateway.events`."""

    def __init__(
        self,
        database: Database,
        changes: Changes,
        config: GatewayConfig,
        grpc_config: GrpcConfig,
        follow: Callable[[Link], Awaitable[None]],
    ) -> None:
        self._database = database
        self._changes = changes
        self._config = config
        self._grpc_config = grpc_config
        self._follow = follow
        self._lease_ns = config.node_lease_seconds * NS_PER_SECOND
        self._links: dict[str, Link] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._grace_until = 0.0

    async def run(self) -> None:
        """Until cancelled. Leases that ran out while no gateway was running get one more term."""
        self._grace_until = time.monotonic() + self._config.node_lease_seconds
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for node in await self._database.read(node_queries.all_nodes):
                self._open(node)
            while True:
                await asyncio.sleep(min(1.0, self._config.node_lease_seconds / 3))
                try:
                    await self._check_leases()
                except JobletError as error:
                    _log.error("leases cannot be checked", error=error.message)

    async def heartbeat(self, identity: Identity, request: registry_pb2.HeartbeatRequest) -> int:
        """Registers or renews; returns the lease in seconds."""
        description = describe(identity, request)
        known = self._links.get(description.node_id)
        node = await self._database.write(node_queries.heartbeat, description, time.time_ns(), self._lease_ns)
        if known is None:
            _log.info("node registered", nodeId=node.id, address=node.executor_address)
            self._open(node)
        elif not known.addresses_of(node):
            _log.info("node has a new address", nodeId=node.id, address=node.executor_address)
            self._following[node.id].cancel()
            self._open(node)
        else:
            grown = _room(known.node) != _room(node)
            known.node = node
            if grown:
                self._changes.announce_room()
        return self._config.node_lease_seconds

    def link(self, node_id: str) -> Link:
        """Raises Unavailable for a node that is not known (any more)."""
        try:
            return self._links[node_id]
        except KeyError:
            raise Unavailable(f"node {node_id} is not available: it is not registered") from None

    async def reachable(self, wanted: str) -> list[Link]:
        """The nodes that a new job may go to: the one named, or all, at least one of them connected. Raises NotFound
        for a name that is not registered, Unavailable when no node can be reached."""
        links = self.registered(wanted)
        if not await _any_ready(links):
            raise _none_ready(links)
        return links

    def registered(self, wanted: str) -> list[Link]:
        """As `reachable`, connected or not."""
        links = self.suitable(wanted)
        if wanted and not links:
            raise NotFound(f"node not found: {wanted}")
        if not links:
            raise _none_ready(links)
        return links

    def suitable(self, wanted: str) -> list[Link]:
        """The node named, or all; none when there is none."""
        return [link for link in self._links.values() if wanted in ("", link.node.id)]

    def ready(self) -> list[Link]:
        """The nodes that can take jobs now."""
        return [link for link in self._links.values() if self.is_ready(link)]

    def others(self, node_id: str) -> list[Link]:
        """The nodes that can be asked instead of this one."""
        return [link for link in self.ready() if link.node.id != node_id]

    @staticmethod
    def is_ready(link: Link) -> bool:
        return link.connected.is_set() and link.node.state is NodeState.READY

    def missing(self) -> str | None:
        """What keeps this gateway from running jobs, None when nothing does. Called from any thread."""
        links = list(self._links.values())
        if not links:
            return "no node is registered"
        if not any(self.is_ready(link) for link in links):
            return f"no node is connected ({', '.join(sorted(link.node.id for link in links))})"
        return None

    def _open(self, node: Node) -> None:
        assert self._tasks is not None
        link = Link(node, self._config.tls, self._grpc_config)
        self._links[node.id] = link
        # In a context of its own: not as part of the request that happened to register the node.
        self._following[node.id] = self._tasks.create_task(
            self._run_link(link), name=f"node {node.id}", context=contextvars.Context()
        )

    async def _run_link(self, link: Link) -> None:
        try:
            await self._follow(link)
        finally:
            link.connected.clear()
            await link.close()

    async def _check_leases(self) -> None:
        if time.monotonic() < self._grace_until:
            return
        now_ns = time.time_ns()
        late = [
            link
            for link in self._links.values()
            if link.node.state is NodeState.READY and link.node.lease_until_ns <= now_ns
        ]
        for link in late:
            await self._probe(link)

    async def _probe(self, link: Link) -> None:
        try:
            await link.call(link.executor.ListJobs, executor_pb2.ListNodeJobsRequest(), PROBE_SECONDS)
        except JobletError as error:
            await self._lose(link, error)
            return
        _log.warn("node answers but sends no heartbeats", nodeId=link.node.id)
        await self._database.write(node_queries.extend_lease, link.node.id, time.time_ns(), self._lease_ns)
        await self._reload(link)

    async def _lose(self, link: Link, error: JobletError) -> None:
        lost = await self._database.write(node_queries.mark_lost, link.node.id, time.time_ns())
        await self._reload(link)
        if link.node.state is NodeState.LOST:
            _log.error("node lost", nodeId=link.node.id, jobs=len(lost), error=error.message)
            link.restart.set()
            self._changes.announce_schedule()  # some may be tried again
        self._changes.announce(lost)

    async def _reload(self, link: Link) -> None:
        node = await self._database.read(node_queries.get, link.node.id)
        if node is not None:
            link.node = node


def describe(identity: Identity, request: registry_pb2.HeartbeatRequest) -> node_queries.Description:
    """Raises InvalidArgument on anything that no node of ours would send."""
    if not identity.common_name:
        raise InvalidArgument("the node's certificate has no common name")
    for field in ("executor_address", "logstore_address", "runtime_address"):
        _check_address(field, getattr(request, field))
    if request.cpu_cores <= 0 or request.memory_bytes <= 0:
        raise InvalidArgument("a heartbeat without the node's capacity: cpu_cores and memory_bytes must be positive")
    for field in ("max_processes", "work_bytes", "content_bytes"):
        value = getattr(request, field)
        if value < 0:
            raise InvalidArgument(f"{field} must not be negative: {value}", field=field)
    return node_queries.Description(
        node_id=identity.common_name,
        executor_address=request.executor_address,
        logstore_address=request.logstore_address,
        runtime_address=request.runtime_address,
        boot_id=request.boot_id,
        cpu_cores=request.cpu_cores,
        memory_bytes=request.memory_bytes,
        labels=dict(request.labels),
        version=request.version,
        system=request.system,
        cores=format_cpu_list(parse_cpu_list(request.cores)) if request.cores else "",
        max_processes=request.max_processes,
        work_bytes=request.work_bytes,
        content_bytes=request.content_bytes,
    )


def _room(node: Node) -> tuple[object, ...]:
    """What decides which jobs the node can take."""
    return (
        node.cpu_cores, node.memory_bytes, node.cores, node.max_processes, node.work_bytes, node.content_bytes
    )  # fmt: skip


def _check_address(field: str, address: str) -> None:
    try:
        _, port = split_address(address)
    except ValueError as error:
        raise InvalidArgument(f"invalid {field}: {error}", field=field) from error
    if port == 0:
        raise InvalidArgument(f"invalid {field}: {address} has no port", field=field)


async def _any_ready(links: list[Link]) -> bool:
    """Whether one of them can take a job, now or in a moment: executors and gateways restart, and a client that comes
    just then need not notice."""
    if any(Nodes.is_ready(link) for link in links) or not links:
        return bool(links)
    waiting = [asyncio.create_task(link.connected.wait()) for link in links]
    try:
        await asyncio.wait(waiting, timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return any(Nodes.is_ready(link) for link in links)


def _none_ready(links: list[Link]) -> Unavailable:
    if not links:
        return Unavailable("no node is registered", hint="start the executor of a node")
    names = ", ".join(sorted(link.node.id for link in links))
    word = "node" if len(links) == 1 else "nodes"
    verb = "is" if len(links) == 1 else "are"
    return Unavailable(f"{word} {names} {verb} not available: not connected")
