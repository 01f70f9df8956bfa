"""A gRPC server of Joblet: what every service needs and none should have to think about."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import joblet.common
from joblet.common.config import GrpcConfig, TlsFiles
from joblet.common.errors import StartError
from joblet.common.rpc.access import AccessTable, check_complete
from joblet.common.rpc.guard import Guard, Handler
from joblet.common.rpc.options import server_options
from joblet.common.rpc.tls import ServerCertificates
from joblet.common.yamlschema import split_address

Handlers = Mapping[str, Handler]


class HealthServicer(health.aio.HealthServicer):
    """grpc.health.v1 with List, which grpcio-health-checking 1.85 declares and does not implement."""

    async def List(self, request: object, context: object) -> object:
        messages: Any = health_pb2  # whose type stubs lack List as well
        statuses: dict[str, Any] = self._server_status  # type: ignore[attr-defined]
        answers = {service: messages.HealthCheckResponse(status=status) for service, status in statuses.items()}
        return messages.HealthListResponse(statuses=answers)


class _Methods(grpc.GenericRpcHandler):
    """Every method that is served, guarded, by its full name. Generated functions add a service as they would to grpc's
    server.

    None is "registered" with grpc: at every call its loop begins to wait anew for each registered method, which for the
    fifty of a gateway is a tenth of what a short call costs (grpcio 1.85, measured).
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._handlers: dict[str, Handler] = {}

    def add_registered_method_handlers(self, service: str, handlers: Handlers) -> None:
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._handlers[method] = self._guard.guarded(method, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same methods once more, in the form that grpc had before methods were registered."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """None, which grpc answers with UNIMPLEMENTED, for a method that nobody has added."""
        return self._handlers.get(handler_call_details.method)


class RpcServer:
    """Mutual TLS 1.3, a role check by `access`, health. Make it, add services, start; inside a running event loop.

    `internal` servers talk to other services of ours: 4 MiB in both directions instead of the configured limits.
    """

    def __init__(
        self,
        service: str,
        listen: str,
        tls: TlsFiles,
        grpc_config: GrpcConfig,
        access: AccessTable,
        *,
        internal: bool = False,
    ) -> None:
        self._service = service
        self._listen = listen
        self._tls = tls
        self._access = access
        self._descriptors: list[ServiceDescriptor] = []
        self._generic: list[tuple[ServiceDescriptor, Handlers]] = []
        self.health = HealthServicer()
        self._methods = _Methods(Guard(access))
        self.server = grpc.aio.server(handlers=(self._methods,), options=server_options(grpc_config, internal=internal))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._methods)  # type: ignore[arg-type]

    def add(
        self,
        descriptor: ServiceDescriptor,
        add_to_server: Callable[[Any, Any], object],
        servicer: object,
    ) -> None:
        """A service by its generated function, `add_JobServiceServicer_to_server`."""
        self._descriptors.append(descriptor)
        add_to_server(servicer, self._methods)

    def add_generic(self, descriptor: ServiceDescriptor, handlers: Handlers) -> None:
        """Handlers by method name ("GetJobLogs"); with no (de)serializer they get and give raw bytes.

        They go before those of a servicer added for the same service, whichever came first.
        """
        names = {method.name for method in descriptor.methods}
        unknown = sorted(set(handlers) - names)
        if unknown:
            raise StartError(f"{descriptor.full_name} has no method {', '.join(unknown)}")
        self._descriptors.append(descriptor)
        self._generic.append((descriptor, handlers))

    async def start(self) -> int:
        """Starts serving and returns the port. Raises StartError naming what is wrong: a row, a file or the address."""
        check_complete(self._access, self._descriptors)
        if not joblet.common.grpc_is_set:
            raise StartError("grpc was imported before joblet.common, which has settings for it")
        certificates = ServerCertificates(self._service, self._tls)
        for descriptor, handlers in self._generic:
            self._methods.add_registered_method_handlers(descriptor.full_name, handlers)
        await asyncio.to_thread(_check_free, self._listen)
        try:
            port = self.server.add_secure_port(self._listen, certificates.credentials())
        except RuntimeError as error:
            raise StartError(f"cannot listen on {self._listen}: {error}") from error
        await self.server.start()
        for descriptor in self._descriptors:
            await self.health.set(descriptor.full_name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Health says NOT_SERVING, new calls are refused, running ones get `grace_seconds` to finish."""
        await self.health.enter_graceful_shutdown()
        await self.server.stop(grace_seconds)


def _check_free(listen: str) -> None:
    """Raises StartError if any of the addresses that `listen` stands for is taken.

    grpc is content when one of several addresses (127.0.0.1 and ::1 of localhost) can be bound, and when none can it
    does not say why.
    """
    host, port = split_address(listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(f"cannot listen on {listen}: {error.strerror}") from error
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            # As grpc does: a port in TIME_WAIT is free, one that is listened on is not.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise StartError(f"cannot listen on {listen}: {(error.strerror or str(error)).lower()}") from error
