"""The gateway's life: open the store, follow the nodes, serve, and stop in the reverse order."""

import asyncio
from contextlib import ExitStack

from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DatabaseError

from joblet.api import job_pb2, network_pb2, node_pb2, runtime_pb2, volume_pb2
from joblet.api.internal import registry_pb2
from joblet.common import log, metrics
from joblet.common.config import Config
from joblet.common.rpc import RpcServer
from joblet.common.states import JobState
from joblet.common.yamlschema import split_address
from joblet.gateway.access import ACCESS
from joblet.gateway.changes import Changes
from joblet.gateway.deletion import Deletions
from joblet.gateway.events import Follower
from joblet.gateway.handlers import JobRpcs, RegistryRpcs, handlers_of
from joblet.gateway.jobs import Jobs
from joblet.gateway.launch import Launches
from joblet.gateway.listing import Listings
from joblet.gateway.locallines import LocalLines
from joblet.gateway.localstream import LocalStreams
from joblet.gateway.metrics import JobsByState, Metrics
from joblet.gateway.nodes import Nodes
from joblet.gateway.outputs import Outputs
from joblet.gateway.queue import Queue
from joblet.gateway.schedule import Schedule
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.database import Database, unavailable
from joblet.gateway.streams import Logs
from joblet.gateway.unimplemented import MISSING
from joblet.gateway.uploads import Uploads
from joblet.gateway.vault import Vault

GRACE_SECONDS = 2.0  # what calls in flight get at the end; followers come back to the next gateway by offset

_log = log.get_logger(__name__)


def services() -> list[ServiceDescriptor]:
    """Everything the gateway's port answers, apart from health."""
    return [
        job_pb2.DESCRIPTOR.services_by_name["JobService"],
        job_pb2.DESCRIPTOR.services_by_name["JobletService"],
        runtime_pb2.DESCRIPTOR.services_by_name["RuntimeService"],
        network_pb2.DESCRIPTOR.services_by_name["NetworkService"],
        volume_pb2.DESCRIPTOR.services_by_name["VolumeService"],
        node_pb2.DESCRIPTOR.services_by_name["NodeService"],
        node_pb2.DESCRIPTOR.services_by_name["MonitoringService"],
        registry_pb2.DESCRIPTOR.services_by_name["RegistryService"],
    ]


class Gateway:
    """All parts of one gateway, put together; `port` is known once `started` is set."""

    def __init__(self, config: Config, database: Database, registry: CollectorRegistry) -> None:
        self._config = config
        self.port = 0
        self.started = asyncio.Event()
        self.database = database
        counters = Metrics(registry)
        registry.register(JobsByState(lambda: _count_states(database)))
        self.changes = changes = Changes()
        vault = Vault(config.gateway.secrets_key or database.directory / "secrets.key")
        self.uploads = Uploads(config.gateway, database)
        self.launches = Launches(database, vault, self.uploads, changes, counters)
        lines = LocalLines(config.gateway.executor_socket)
        follower = Follower(database, changes, self.launches, lines, counters)
        self.nodes = Nodes(database, changes, config.gateway, config.grpc, follower.follow)
        self.queue = Queue(config.joblet, database, self.nodes, self.launches, changes, counters)
        self.schedule = Schedule(database, changes)
        self.listings = Listings(database, config.grpc.max_send_msg_size)
        self.jobs = Jobs(
            config, database, self.nodes, self.queue, self.launches, vault, self.uploads, changes, counters
        )
        self.deletions = Deletions(config.joblet, database, self.jobs, self.nodes)
        local = LocalStreams(config.gateway.logstore_socket)
        self.logs = Logs(self.jobs, self.nodes, changes, counters, local, config.gateway.reader_timeout_seconds)

    async def serve(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises StartError when it cannot start."""
        async with asyncio.TaskGroup() as tasks:
            parts = (
                self.launches.run, self.nodes.run, self.queue.run, self.schedule.run, self.uploads.run,
                self.deletions.run,
            )  # fmt: skip
            background = [tasks.create_task(run()) for run in parts]
            server = self._rpc_server()
            self.port = await server.start()
            host, _ = split_address(self._config.gateway.listen)
            _log.info("listening", address=f"{host}:{self.port}")
            self.started.set()
            try:
                await stop.wait()
            finally:
                await server.stop(GRACE_SECONDS)
                for task in background:
                    task.cancel()

    def _rpc_server(self) -> RpcServer:
        gateway = self._config.gateway
        server = RpcServer("gateway", gateway.listen, gateway.tls, self._config.grpc, ACCESS)
        outputs = Outputs(self.jobs, self.nodes)
        job_rpcs = JobRpcs(self.jobs, self.listings, self.deletions, self.logs, self.uploads, outputs)
        served: dict[str, object] = {
            "joblet.JobService": job_rpcs,
            "joblet.JobletService": job_rpcs,
            "joblet.internal.RegistryService": RegistryRpcs(self.nodes),
        }
        for service in services():
            missing = MISSING.get(service.full_name, {})
            server.add_generic(service, handlers_of(service, served.get(service.full_name), missing))
        return server


async def serve(config: Config, stop: asyncio.Event) -> None:
    """The whole process: the store, the metrics' port, the gateway. Raises JobletError when it cannot start."""
    with ExitStack() as stack:
        database = stack.enter_context(Database(config.gateway.database))
        gateway = Gateway(config, database, metrics.REGISTRY)
        http = metrics.start_http(config.gateway.metrics_listen, metrics.REGISTRY, gateway.nodes.missing)
        stack.callback(http.stop)
        await gateway.serve(stop)


def _count_states(database: Database) -> dict[JobState, int]:
    """In the scraper's thread, with a connection of its own."""
    try:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return job_queries.state_counts(connection)
    except DatabaseError as error:
        raise unavailable(error.orig) from error
