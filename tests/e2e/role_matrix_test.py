"""Who may call what: every RPC of the public port with every kind of certificate, and what rnx makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from certificates import authority, client, save, stranger
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from local_system import CALL_SECONDS, LocalSystem, run_rnx

from joblet.api import job_pb2, network_pb2, node_pb2, runtime_pb2, volume_pb2
from joblet.api.internal import registry_pb2

pytestmark = pytest.mark.root

FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR for module in (job_pb2, runtime_pb2, network_pb2, volume_pb2, node_pb2, registry_pb2)
)
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
}
# Written out by hand, so that the gateway's own table cannot make this test agree with it.
VIEWER_READS = {
    "GetJobStatus", "ListJobs", "GetJobLogs", "WaitJob", "GetWorkflowStatus", "ListWorkflows", "GetWorkflowJobs",
    "ListRuntimes", "GetRuntimeInfo", "ListNetworks", "ListVolumes", "ListNodes", "GetNode", "GetSystemStatus",
    "WatchSystemStatus", "GetJobMetrics", "ListJobOutputs", "GetJobOutput",
}  # fmt: skip
REFUSED_BY_HANDSHAKE = ("none", "expired", "other CA")


def operation(method: MethodDescriptor) -> str:
    """RunJob -> run_job."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()


@pytest.fixture(scope="module")
def channels(joblet: LocalSystem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, grpc.Channel]]:
    """An open channel for each kind of caller."""
    root = (joblet.certificates / "ca-cert.pem").read_bytes()
    ca = authority(joblet.certificates)
    callers = {
        "admin": client(ca, "admin"),
        "viewer": client(ca, "viewer"),
        "unknown OU": client(ca, "intern"),
        "expired": client(ca, "admin", days=-1),
        "other CA": client(stranger(), "admin"),
    }
    opened = {
        kind: grpc.secure_channel(joblet.address, grpc.ssl_channel_credentials(root, pair.key, pair.cert))
        for kind, pair in callers.items()
    }
    opened["none"] = grpc.secure_channel(joblet.address, grpc.ssl_channel_credentials(root))
    yield opened
    for channel in opened.values():
        channel.close()


def call(channel: grpc.Channel, path: str, method: MethodDescriptor) -> tuple[grpc.StatusCode, str]:
    """Call with an empty request (one, for a client stream); the code and text the caller sees."""
    request = GetMessageClass(method.input_type)()
    kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
    stub = getattr(channel, kind)(
        path,
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    try:
        answer = stub(iter([request]) if method.client_streaming else request, timeout=CALL_SECONDS)
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("path", METHODS)
def test_raw_client(channels: dict[str, grpc.Channel], path: str) -> None:
    method = METHODS[path]
    internal = "internal" in path
    denied = {
        kind: (
            grpc.StatusCode.PERMISSION_DENIED,
            f"role {role} is not allowed to perform operation {operation(method)}",
        )
        for kind, role in (("admin", "admin"), ("viewer", "viewer"), ("unknown OU", "intern"))
    }
    for kind, role_channel in channels.items():
        code, text = call(role_channel, path, method)
        if kind in REFUSED_BY_HANDSHAKE:
            assert code is grpc.StatusCode.UNAVAILABLE, (kind, text)
        elif kind == "unknown OU" or internal or (kind == "viewer" and method.name not in VIEWER_READS):
            assert (code, text) == denied[kind], kind
        else:
            assert code not in (
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.UNKNOWN,
                grpc.StatusCode.INTERNAL,
            ), (kind, text)


VERBS = {"run_job": ("run", "true"), "get_job_status": ("status", "0000"), "list_jobs": ("list",),
         "stop_job": ("stop", "0000"), "get_job_logs": ("log", "0000")}  # fmt: skip


@pytest.mark.parametrize("operation_name", VERBS)
def test_what_rnx_prints(joblet: LocalSystem, tmp_path: Path, operation_name: str) -> None:
    ca = authority(joblet.certificates)
    save(client(ca, "intern"), tmp_path, "intern")
    save(client(ca, "admin", days=-1), tmp_path, "expired")
    save(client(stranger(), "admin"), tmp_path, "other")

    def said(base: Path) -> str:
        done = run_rnx("--server", joblet.address, "--cert", f"{base}-cert.pem", "--key", f"{base}-key.pem",
                       "--ca", joblet.certificates / "ca-cert.pem", "job", *VERBS[operation_name])  # fmt: skip
        return done.stderr.decode().splitlines()[0] if done.returncode else ""

    assert said(tmp_path / "intern") == f"Error: role intern is not allowed to perform operation {operation_name}"
    assert said(tmp_path / "expired") == "Error: certificate verify failed: certificate has expired"
    assert said(tmp_path / "other").startswith("Error: certificate verify failed: ")
    assert said(tmp_path / "absent") == "Error: failed to extract client role: no TLS information found"
    viewer = said(joblet.certificates / "viewer-client")
    if operation_name in ("run_job", "stop_job"):
        assert viewer == f"Error: role viewer is not allowed to perform operation {operation_name}"
    else:
        assert viewer in ("", "Error: job not found: 0000")
