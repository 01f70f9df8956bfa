"""Roles, certificates and limits, seen by a client through a real socket."""

import asyncio
import socket
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from joblet.common import pki
from joblet.common.config import GrpcConfig, TlsFiles
from joblet.common.errors import StartError
from joblet.common.metrics import REGISTRY
from joblet.common.roles import Role
from joblet.common.rpc import RpcServer, error_from_rpc
from joblet.common.rpc.echo_fixture import (
    ACCESS,
    DESCRIPTOR,
    METHODS,
    Authority,
    Echo,
    Serving,
    add_echo_to_server,
    ask,
    serving,
)

health_messages: Any = health_pb2  # whose type stubs lack List

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
DENIED = grpc.StatusCode.PERMISSION_DENIED
OK = grpc.StatusCode.OK
ADMIN_ONLY = ("One", "Collect")


async def outcome(channel: grpc.aio.Channel, name: str) -> tuple[grpc.StatusCode, str | None]:
    try:
        await ask(channel, name)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return OK, None


def handshake(
    port: int, authority: Authority, client: TlsFiles | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> bytes:
    """The server's certificate (DER) after a handshake that both sides finished. Raises OSError otherwise."""
    context = ssl.create_default_context(cafile=authority.directory / "ca.pem")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if client is not None:
        context.load_cert_chain(client.cert, client.key)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=120) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        # In TLS 1.3 the client is done before the server has seen its certificate: only a byte of HTTP/2 is proof.
        if not secure.recv(1):
            raise ConnectionResetError("closed by the server")
        certificate = secure.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ou", ["admin", "viewer", "auditor", "node", ""])
def test_role_matrix(tmp_path: Path, ou: str, name: str) -> None:
    async def main() -> tuple[grpc.StatusCode, str | None]:
        async with serving(tmp_path) as serve, serve.channel(serve.authority.files(ou)) as channel:
            return await outcome(channel, name)

    if ou == "admin" or (ou == "viewer" and name not in ADMIN_ONLY):
        expected: tuple[grpc.StatusCode, str | None] = OK, None
    elif ou == "":
        expected = (
            grpc.StatusCode.UNAUTHENTICATED,
            "failed to extract client role: no organizational unit found in the certificate",
        )
    else:
        expected = DENIED, f"role {ou} is not allowed to perform operation {name.lower()}"
    assert asyncio.run(main()) == expected


@pytest.mark.parametrize("name", METHODS)
def test_refused_certificates_reach_no_handler(tmp_path: Path, name: str) -> None:
    """Expired, of another CA, none: all end in the handshake."""

    async def main() -> list[grpc.StatusCode]:
        async with serving(tmp_path) as serve:
            authority = serve.authority
            refused = [
                authority.files(Role.ADMIN, lifetime=timedelta(seconds=-5)),
                authority.files(Role.ADMIN, signed_by=pki.create_ca("jbtest other CA")),
            ]
            codes = []
            for files in refused:
                async with serve.channel(files) as channel:
                    codes.append((await outcome(channel, name))[0])
            anonymous = grpc.ssl_channel_credentials(authority.ca.cert)
            async with grpc.aio.secure_channel(serve.address, anonymous) as channel:
                codes.append((await outcome(channel, name))[0])
            return codes

    assert asyncio.run(main()) == [UNAVAILABLE] * 3


def test_a_server_of_another_ca_is_refused_by_the_client(tmp_path: Path) -> None:
    async def main() -> grpc.StatusCode:
        (tmp_path / "other").mkdir()
        other = Authority(tmp_path / "other").files(Role.ADMIN)
        async with serving(tmp_path) as serve, serve.channel(other) as channel:
            return (await outcome(channel, "One"))[0]

    assert asyncio.run(main()) == UNAVAILABLE


def test_only_tls_1_3(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as serve:
            admin = serve.authority.files(Role.ADMIN)
            await asyncio.to_thread(handshake, serve.port, serve.authority, admin)
            with pytest.raises(OSError):
                await asyncio.to_thread(handshake, serve.port, serve.authority, admin, ssl.TLSVersion.TLSv1_2)

    asyncio.run(main())


def test_garbage_on_the_port_changes_nothing(tmp_path: Path) -> None:
    def talk(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=120) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(4096))
            try:
                return plain.recv(1024)
            except ConnectionResetError:
                return b""

    async def main() -> list[bytes]:
        async with serving(tmp_path) as serve, serve.channel() as channel:
            assert await asyncio.to_thread(talk, serve.port) == b""
            return await ask(channel, "One")

    assert asyncio.run(main()) == [b"hello"]


def test_new_certificates_are_used_without_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as serve:
            before = await asyncio.to_thread(handshake, serve.port, serve.authority, serve.authority.files(Role.ADMIN))
            replace(serve, serve.authority.server_files())
            after = await asyncio.to_thread(handshake, serve.port, serve.authority, serve.authority.files(Role.ADMIN))
            assert before != after
            assert after == ssl.PEM_cert_to_DER_cert(serve.files.cert.read_text())

    asyncio.run(main())


def test_broken_new_certificates_leave_the_old_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(tmp_path) as serve:
            admin = serve.authority.files(Role.ADMIN)
            before = await asyncio.to_thread(handshake, serve.port, serve.authority, admin)
            serve.files.cert.write_bytes(b"-----BEGIN CERTIFICATE-----\nhalf")
            for _ in range(3):
                assert await asyncio.to_thread(handshake, serve.port, serve.authority, admin) == before
            serve.files.key.unlink()
            assert await asyncio.to_thread(handshake, serve.port, serve.authority, admin) == before
            replace(serve, serve.authority.server_files())
            assert await asyncio.to_thread(handshake, serve.port, serve.authority, admin) != before

    asyncio.run(main())
    failures = [record for record in caplog.records if "not reloaded" in record.getMessage()]
    assert len(failures) == 2  # once for each way of being broken, not once a handshake


def replace(serve: Serving, files: TlsFiles) -> None:
    """The way `rnx certs` renews: each file replaced atomically, one after the other."""
    pki.write_pair(pki.read_pair(files.cert, files.key), serve.files.cert, serve.files.key)


def test_a_message_above_the_limit_is_refused_and_the_connection_lives_on(tmp_path: Path) -> None:
    too_large = bytes(GrpcConfig().max_recv_msg_size + 1)

    async def main() -> None:
        # internal=True on the client's side only, so that it is the server who refuses.
        async with serving(tmp_path) as serve, serve.channel(internal=True) as channel:
            for name in METHODS:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ask(channel, name, too_large)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await ask(channel, "One", bytes(500_000)) == [bytes(500_000)]

    asyncio.run(main())


def test_internal_servers_take_four_mebibytes(tmp_path: Path) -> None:
    async def main() -> list[bytes]:
        async with serving(tmp_path, internal=True) as serve, serve.channel(internal=True) as channel:
            return await ask(channel, "One", bytes(4_000_000))

    assert asyncio.run(main()) == [bytes(4_000_000)]


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        authority = Authority(tmp_path)
        server = RpcServer("jbtest", f"127.0.0.1:{port}", authority.server_files(), GrpcConfig(), ACCESS)
        with pytest.raises(StartError, match=f"^cannot listen on 127.0.0.1:{port}: address already in use$"):
            await server.start()
        await server.stop(grace_seconds=0)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        asyncio.run(main(taken.getsockname()[1]))


def test_two_servers_do_not_share_a_port(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as serve:
            second = RpcServer("jbtest", f"127.0.0.1:{serve.port}", serve.files, GrpcConfig(), ACCESS)
            with pytest.raises(StartError, match="address already in use"):
                await second.start()
            await second.stop(grace_seconds=0)

    asyncio.run(main())


def test_start_names_what_is_missing(tmp_path: Path) -> None:
    async def main() -> None:
        files = Authority(tmp_path).server_files()
        incomplete = {name: row for name, row in ACCESS.items() if name != "/jbtest.Echo/Chat"}
        server = RpcServer("jbtest", "127.0.0.1:0", files, GrpcConfig(), incomplete)
        server.add(DESCRIPTOR, add_echo_to_server, Echo())
        with pytest.raises(StartError, match="no row for /jbtest.Echo/Chat$"):
            await server.start()
        with pytest.raises(StartError, match="jbtest.Echo has no method Nope"):
            server.add_generic(DESCRIPTOR, {"Nope": grpc.unary_unary_rpc_method_handler(Echo().One)})
        files.key.unlink()
        server = RpcServer("jbtest", "127.0.0.1:0", files, GrpcConfig(), ACCESS)
        with pytest.raises(StartError, match=f"{files.key}: No such file or directory"):
            await server.start()
        await server.stop(grace_seconds=0)

    asyncio.run(main())


def test_raw_handlers_pass_bytes_and_go_first(tmp_path: Path) -> None:
    async def raw(request: bytes, context: object) -> bytes:
        assert isinstance(request, bytes)
        return BytesValue(value=b"raw").SerializeToString()

    async def main() -> list[list[bytes]]:
        authority = Authority(tmp_path)
        server = RpcServer("jbtest", "127.0.0.1:0", authority.server_files(), GrpcConfig(), ACCESS)
        server.add_generic(DESCRIPTOR, {"One": grpc.unary_unary_rpc_method_handler(raw)})
        server.add(DESCRIPTOR, add_echo_to_server, Echo())
        port = await server.start()
        serve = Serving(authority, server, authority.files(Role.ADMIN), port)
        async with serve.channel() as channel:
            answers = [await ask(channel, "One"), await ask(channel, "Collect")]
        await server.stop(grace_seconds=0)
        return answers

    assert asyncio.run(main()) == [[b"raw"], [b"hello"]]


@pytest.mark.parametrize("method", ["/jbtest.Echo/Nope", "/jbtest.Other/One", "/grpc.health.v1.Health/Nope", "One"])
def test_a_method_that_nobody_has_added_is_unimplemented(tmp_path: Path, method: str) -> None:
    async def main() -> grpc.aio.AioRpcError:
        async with serving(tmp_path) as serve, serve.channel() as channel:
            call: Any = channel.unary_unary(method)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", timeout=120)
            return caught.value

    assert asyncio.run(main()).code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_for_any_certificate_of_ours(tmp_path: Path) -> None:
    serving_status = health_pb2.HealthCheckResponse.SERVING

    async def main() -> None:
        async with serving(tmp_path) as serve, serve.channel(serve.authority.files("auditor")) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            for name in ("", "jbtest.Echo"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=120)
                assert answer.status == serving_status
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Check(health_pb2.HealthCheckRequest(service="jbtest.Other"), timeout=120)
            assert error_from_rpc(caught.value).code == "NOT_FOUND"
            statuses = (await stub.List(health_messages.HealthListRequest(), timeout=120)).statuses
            assert {name: status.status for name, status in statuses.items()} == {
                "": serving_status,
                "jbtest.Echo": serving_status,
            }

    asyncio.run(main())


def test_stop_tells_health_watchers_and_ends_in_time(tmp_path: Path) -> None:
    async def main() -> list[int]:
        async with serving(tmp_path) as serve, serve.channel() as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service="jbtest.Echo"))
            seen = [(await watch.read()).status]
            stopping = asyncio.create_task(serve.server.stop(grace_seconds=3))
            seen.append((await watch.read()).status)
            async with asyncio.timeout(120):
                await stopping
            return seen

    assert asyncio.run(main()) == [
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    ]


def test_refused_handshakes_show_as_a_difference(tmp_path: Path) -> None:
    def counted() -> tuple[float, float]:
        begun = REGISTRY.get_sample_value("joblet_tls_handshakes_total", {"service": "jbtest"}) or 0.0
        return begun, REGISTRY.get_sample_value("joblet_rpc_connections_total") or 0.0

    async def main() -> None:
        async with serving(tmp_path) as serve, serve.channel() as channel:
            await ask(channel, "One")
            await ask(channel, "One")
            with pytest.raises(OSError):
                await asyncio.to_thread(handshake, serve.port, serve.authority, None)

    before = counted()
    asyncio.run(main())
    after = counted()
    assert (after[0] - before[0], after[1] - before[1]) == (2, 1)
