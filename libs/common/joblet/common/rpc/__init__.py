"""gRPC as Joblet uses it: mutual TLS 1.3, roles checked before any handler runs, errors as statuses, metrics, health.

server = RpcServer("gateway", "0.0.0.0:50051", tls, grpc_config, ACCESS)
server.add(DESCRIPTOR.services_by_name["JobService"], add_JobServiceServicer_to_server, Jobs())
port = await server.start()
...
await server.stop(grace_seconds=5)

async with connect("node-7:50052", tls, grpc_config, target_name="node-7") as channel:
    await ExecutorServiceStub(channel).StopJob(request, timeout=5)
"""

from joblet.common.rpc.access import Access, AccessTable, current_identity
from joblet.common.rpc.client import connect
from joblet.common.rpc.server import RpcServer
from joblet.common.rpc.status import error_from_rpc

__all__ = ["Access", "AccessTable", "RpcServer", "connect", "current_identity", "error_from_rpc"]
