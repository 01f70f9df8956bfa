"""A service with all four kinds of RPC, and the certificates to call it with, for the tests of this package.

Real servers on 127.0.0.1, port 0; real certificates; nothing is replaced by a double.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.wrappers_pb2 import BytesValue

from joblet.common import pki
from joblet.common.config import GrpcConfig, TlsFiles
from joblet.common.pki import KeyPair
from joblet.common.roles import Role
from joblet.common.rpc import Access, AccessTable, RpcServer, connect

SERVICE = "jbtest.Echo"
METHODS = ("One", "Many", "Collect", "Chat")
READERS = frozenset({Role.ADMIN, Role.VIEWER})
TIMEOUT_SECONDS = 120.0


def describe_service() -> ServiceDescriptor:
    file = descriptor_pb2.FileDescriptorProto(
        name="jbtest/echo.proto", package="jbtest", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    service = file.service.add(name="Echo")
    for name in METHODS:
        service.method.add(
            name=name,
            input_type=".google.protobuf.BytesValue",
            output_type=".google.protobuf.BytesValue",
            client_streaming=name in ("Collect", "Chat"),
            server_streaming=name in ("Many", "Chat"),
        )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindServiceByName(SERVICE)


DESCRIPTOR = describe_service()

# One and Collect are for admins, Many and Chat for viewers too: both roles meet unary and streaming refusals.
ACCESS: AccessTable = {
    f"/{SERVICE}/One": Access("one", frozenset({Role.ADMIN})),
    f"/{SERVICE}/Many": Access("many", READERS),
    f"/{SERVICE}/Collect": Access("collect", frozenset({Role.ADMIN})),
    f"/{SERVICE}/Chat": Access("chat", READERS),
}


class Echo:
    """Gives back what it is sent. A test overrides the method it is about."""

    async def One(self, request: BytesValue, context: Any) -> BytesValue:
        return request

    async def Many(self, request: BytesValue, context: Any) -> AsyncIterator[BytesValue]:
        for _ in range(3):
            yield request

    async def Collect(self, requests: AsyncIterator[BytesValue], context: Any) -> BytesValue:
        return BytesValue(value=b"".join([request.value async for request in requests]))

    async def Chat(self, requests: AsyncIterator[BytesValue], context: Any) -> AsyncIterator[BytesValue]:
        async for request in requests:
            yield request


def add_echo_to_server(echo: Any, server: grpc.aio.Server) -> None:
    """What protoc would generate."""
    makers: dict[str, Callable[..., Any]] = {
        "One": grpc.unary_unary_rpc_method_handler,
        "Many": grpc.unary_stream_rpc_method_handler,
        "Collect": grpc.stream_unary_rpc_method_handler,
        "Chat": grpc.stream_stream_rpc_method_handler,
    }
    handlers = {
        name: make(
            getattr(echo, name),
            request_deserializer=BytesValue.FromString,
            response_serializer=BytesValue.SerializeToString,
        )
        for name, make in makers.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


@dataclass
class Authority:
    """A CA in a directory, and certificates from it on demand."""

    directory: Path
    ca: KeyPair = field(default_factory=pki.create_ca)

    def __post_init__(self) -> None:
        pki.write_file(self.directory / "ca.pem", self.ca.cert, mode=0o644)

    def files(
        self,
        role: str,
        *,
        name: str = "jbtest",
        hosts: Sequence[str] = (),
        signed_by: KeyPair | None = None,
        lifetime: timedelta = timedelta(days=1),
    ) -> TlsFiles:
        """A new certificate; a lifetime below zero gives one that has ended."""
        now = datetime.now(UTC)
        pair = pki.issue(
            signed_by or self.ca, name, role, hosts=hosts, not_before=now - timedelta(days=2), not_after=now + lifetime
        )
        stem = f"{role or 'none'}-{pki.identity_of(pair.cert).serial:x}"
        files = TlsFiles(
            self.directory / "ca.pem", self.directory / f"{stem}-cert.pem", self.directory / f"{stem}-key.pem"
        )
        pki.write_pair(pair, files.cert, files.key)
        return files

    def server_files(self) -> TlsFiles:
        return self.files(Role.GATEWAY, hosts=("localhost", "127.0.0.1"))


@dataclass(frozen=True)
class Serving:
    """A running server and how to call it."""

    authority: Authority
    server: RpcServer
    files: TlsFiles
    port: int

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def channel(self, files: TlsFiles | None = None, **options: Any) -> grpc.aio.Channel:
        """A channel as `files`, an admin's unless given."""
        return connect(self.address, files or self.authority.files(Role.ADMIN), GrpcConfig(), **options)


@asynccontextmanager
async def serving(
    directory: Path, echo: object | None = None, *, access: AccessTable = ACCESS, **options: Any
) -> AsyncIterator[Serving]:
    authority = Authority(directory)
    files = authority.server_files()
    server = RpcServer("jbtest", "127.0.0.1:0", files, GrpcConfig(), access, **options)
    server.add(DESCRIPTOR, add_echo_to_server, echo or Echo())
    port = await server.start()
    try:
        yield Serving(authority, server, files, port)
    finally:
        await server.stop(grace_seconds=0)


def method(channel: grpc.aio.Channel, name: str) -> Callable[..., Any]:
    """One of the four as a stub would have it, with a deadline."""
    kinds = {
        "One": channel.unary_unary,
        "Many": channel.unary_stream,
        "Collect": channel.stream_unary,
        "Chat": channel.stream_stream,
    }
    make: Any = kinds[name]
    call = make(
        f"/{SERVICE}/{name}",
        request_serializer=BytesValue.SerializeToString,
        response_deserializer=BytesValue.FromString,
    )
    return lambda request, **options: call(request, **{"timeout": TIMEOUT_SECONDS, **options})


async def ask(channel: grpc.aio.Channel, name: str, *values: bytes, **options: Any) -> list[bytes]:
    """Calls a method with `values` (one, where the method takes one) and returns every answer."""
    requests = [BytesValue(value=value) for value in values or (b"hello",)]
    argument = iter(requests) if name in ("Collect", "Chat") else requests[0]
    call = method(channel, name)(argument, **options)
    if name in ("Many", "Chat"):
        return [answer.value async for answer in call]
    return [(await call).value]
