import asyncio
from pathlib import Path
from typing import Any

from joblet.api.internal.registry_pb2 import DESCRIPTOR, HeartbeatRequest, HeartbeatResponse
from joblet.api.internal.registry_pb2_grpc import RegistryServiceServicer, add_RegistryServiceServicer_to_server
from joblet.common.config import Config, ExecutorConfig, GrpcConfig, TlsFiles
from joblet.common.errors import Unavailable
from joblet.common.pki import write_bundle
from joblet.common.roles import Role
from joblet.common.rpc import Access, RpcServer, current_identity
from joblet.executor.registry import beat
from joblet.executor.server import heartbeat

NODE = "node-7"
SERVICE = DESCRIPTOR.services_by_name["RegistryService"]
ACCESS = {f"/{SERVICE.full_name}/Heartbeat": Access("heartbeat", frozenset({Role.NODE}))}
TIMEOUT_SECONDS = 120.0


class Registry(RegistryServiceServicer):
    """A gateway that is short of breath: refuses the first heartbeat, gives leases of a second."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, HeartbeatRequest]] = []
        self.refusals = 1
        self.enough = asyncio.Event()

    async def Heartbeat(self, request: HeartbeatRequest, context: Any) -> HeartbeatResponse:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("not now")
        self.seen.append((current_identity().common_name, request))
        if len(self.seen) >= 3:
            self.enough.set()
        return HeartbeatResponse(lease_seconds=1)


def test_a_node_registers_and_keeps_renewing(tmp_path: Path) -> None:
    async def scenario() -> None:
        bundle = write_bundle(tmp_path / "certs", node_id=NODE)
        own = TlsFiles(bundle.ca_cert, bundle.cert("node"), bundle.key("node"))
        theirs = TlsFiles(bundle.ca_cert, bundle.cert("gateway"), bundle.key("gateway"))
        registry = Registry()
        rpc = RpcServer("gateway", "127.0.0.1:0", theirs, GrpcConfig(), ACCESS)
        rpc.add(SERVICE, add_RegistryServiceServicer_to_server, registry)
        port = await rpc.start()
        config = Config(executor=ExecutorConfig(tls=own, labels={"zone": "a"}, logstore_address="n7:2"))
        beating = asyncio.create_task(beat(f"127.0.0.1:{port}", config, heartbeat(config, 4711)))
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await registry.enough.wait()
        finally:
            beating.cancel()
            await asyncio.wait([beating])
            await rpc.stop(0)
        name, request = registry.seen[0]
        assert name == NODE
        assert (request.executor_address, request.logstore_address) == ("localhost:4711", "n7:2")
        assert (dict(request.labels), request.system) == ({"zone": "a"}, "linux")
        assert request.cpu_cores > 0
        assert request.memory_bytes > 0
        assert request.boot_id

    asyncio.run(scenario())


def test_the_advertised_address_comes_first() -> None:
    config = Config(executor=ExecutorConfig(advertise="node-7.example.com:50052"))
    assert heartbeat(config, 4711).executor_address == "node-7.example.com:50052"
