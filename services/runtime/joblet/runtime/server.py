"""The runtime service's whole life: what it serves, who may ask, start and stop."""

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from joblet.api.internal.runtime_node_pb2 import DESCRIPTOR, ListNodeRuntimesRequest, ListNodeRuntimesResponse
from joblet.api.internal.runtime_node_pb2_grpc import (
    RuntimeNodeServiceServicer,
    add_RuntimeNodeServiceServicer_to_server,
)
from joblet.common import metrics
from joblet.common.config import Config
from joblet.common.log import get_logger
from joblet.common.roles import Role
from joblet.common.rpc import Access, AccessTable, RpcServer
from joblet.runtime.catalogue import Catalogue

if TYPE_CHECKING:  # generic in the type stubs only
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = DESCRIPTOR.services_by_name["RuntimeNodeService"]
ACCESS: AccessTable = {f"/{SERVICE.full_name}/ListRuntimes": Access("list_runtimes", frozenset({Role.GATEWAY}))}
GRACE_SECONDS = 5.0

log = get_logger(__name__)


class RuntimeNode(RuntimeNodeServiceServicer):
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def ListRuntimes(self, request: ListNodeRuntimesRequest, context: "Context") -> ListNodeRuntimesResponse:
        return ListNodeRuntimesResponse(runtimes=await asyncio.to_thread(self._catalogue.runtimes))


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Raises StartError when an address or a certificate cannot be used."""
    own = config.runtime
    ready = False
    with ExitStack() as stack:
        catalogue = Catalogue(own.directory)
        probes = metrics.start_http(own.metrics_listen, metrics.REGISTRY, lambda: None if ready else "not serving")
        stack.callback(probes.stop)
        rpc = RpcServer("runtime", own.listen, own.tls, config.grpc, ACCESS, internal=True)
        rpc.add(SERVICE, add_RuntimeNodeServiceServicer_to_server, RuntimeNode(catalogue))
        port = await rpc.start()
        ready = True
        log.info("listening", address=f"{own.listen.rpartition(':')[0]}:{port}", metricsPort=probes.port)
        await stop.wait()
        ready = False
        await rpc.stop(GRACE_SECONDS)
    log.info("stopped")
