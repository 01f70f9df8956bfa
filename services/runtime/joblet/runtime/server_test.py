"""The runtime service as a process: it starts, serves, and ends on SIGTERM with 0."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from joblet.api.internal.runtime_node_pb2 import ListNodeRuntimesRequest, ListNodeRuntimesResponse
from joblet.api.internal.runtime_node_pb2_grpc import RuntimeNodeServiceStub
from joblet.common import config
from joblet.common.config import TlsFiles
from joblet.common.pki import Bundle, write_bundle
from joblet.common.rpc import connect
from joblet.common.rpc.access import methods_of
from joblet.runtime.server import ACCESS, SERVICE

NODE = "node-1"
TIMEOUT_SECONDS = 120.0
COMMAND = [sys.executable, "-m", "joblet.runtime", "--config"]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path)}


@dataclass(frozen=True, slots=True)
class Running:
    process: "subprocess.Popen[str]"
    config: Path
    bundle: Bundle
    port: int
    metrics_port: int

    def client(self, certificate: str) -> grpc.aio.Channel:
        tls = TlsFiles(self.bundle.ca_cert, self.bundle.cert(certificate), self.bundle.key(certificate))
        return connect(f"127.0.0.1:{self.port}", tls, config.load(self.config).grpc, target_name=NODE)

    def http(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=TIMEOUT_SECONDS) as answer:
            return str(answer.read().decode())


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)
    path = write_config(tmp_path, bundle, port=0)
    with subprocess.Popen([*COMMAND, str(path)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert "[INFO] listening | " in line, line + process.stderr.read()
            fields = dict(field.split("=", 1) for field in line.split(" | ")[1].split())
            port = int(fields["address"].rpartition(":")[2])
            yield Running(process, path, bundle, port, int(fields["metricsPort"]))
        finally:
            process.kill()


def write_config(directory: Path, bundle: Bundle, port: int) -> Path:
    path = directory / "joblet-config.yml"
    tls = f"{{ca: {bundle.ca_cert}, cert: {bundle.cert('node')}, key: {bundle.key('node')}}}"
    path.write_text(
        f"runtime:\n  listen: 127.0.0.1:{port}\n  metricsListen: 127.0.0.1:0\n  directory: runtimes\n  tls: {tls}\n"
    )
    return path


def test_every_rpc_is_for_the_gateway_alone() -> None:
    assert sorted(ACCESS) == sorted(methods_of(SERVICE))
    assert {role.value for access in ACCESS.values() for role in access.roles} == {"gateway"}


def test_it_serves_health_metrics_and_an_empty_list_and_stops(running: Running) -> None:
    async def main() -> None:
        async with running.client("viewer-client") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
            answer = await health.Check(request, timeout=TIMEOUT_SECONDS)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with running.client("gateway") as channel:
            stub = RuntimeNodeServiceStub(channel)
            assert await stub.ListRuntimes(ListNodeRuntimesRequest(), timeout=TIMEOUT_SECONDS) == (
                ListNodeRuntimesResponse()
            )
        async with running.client("admin-client") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await RuntimeNodeServiceStub(channel).ListRuntimes(ListNodeRuntimesRequest(), timeout=TIMEOUT_SECONDS)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert caught.value.details() == "role admin is not allowed to perform operation list_runtimes"

    asyncio.run(main())
    assert running.http("/healthz") == running.http("/readyz") == "ok\n"
    assert 'joblet_rpc_total{code="OK",method="ListRuntimes",service="joblet.internal.RuntimeNodeService"} 1.0' in (
        running.http("/metrics")
    )
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(TIMEOUT_SECONDS) == 0


def test_a_taken_port_is_refused_by_name(running: Running, tmp_path: Path) -> None:
    path = write_config(tmp_path, running.bundle, running.port)
    second = subprocess.run([*COMMAND, str(path)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert second.returncode == 1
    assert second.stderr == f"Error: cannot listen on 127.0.0.1:{running.port}: address already in use\n"
