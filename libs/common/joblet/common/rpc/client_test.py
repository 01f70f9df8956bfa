import asyncio
from pathlib import Path

import grpc
import pytest

from joblet.common.config import GrpcConfig, TlsFiles
from joblet.common.errors import FailedPrecondition
from joblet.common.roles import Role
from joblet.common.rpc import RpcServer, connect
from joblet.common.rpc.echo_fixture import ACCESS, DESCRIPTOR, METHODS, Authority, Echo, add_echo_to_server, ask
from joblet.common.rpc.options import MIN_PING_INTERVAL_MS, client_options, server_options


def test_a_node_is_dialled_by_its_id(tmp_path: Path) -> None:
    """Its certificate names no address at all."""

    async def main() -> list[list[bytes]]:
        authority = Authority(tmp_path)
        server = RpcServer("jbtest", "127.0.0.1:0", authority.files(Role.NODE, name="node-7"), GrpcConfig(), ACCESS)
        server.add(DESCRIPTOR, add_echo_to_server, Echo())
        address, admin = f"127.0.0.1:{await server.start()}", authority.files(Role.ADMIN)
        async with connect(address, admin, GrpcConfig(), target_name="node-7") as channel:
            answers = [await ask(channel, name) for name in METHODS]
        async with connect(address, admin, GrpcConfig(), target_name="node-8") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(channel, "One")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await server.stop(grace_seconds=0)
        return answers

    assert asyncio.run(main()) == [[b"hello"], [b"hello"] * 3, [b"hello"], [b"hello"]]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = TlsFiles(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")

    async def main() -> None:
        with pytest.raises(FailedPrecondition, match=f"^cannot read {missing.ca}: No such file or directory$"):
            connect("localhost:1", missing, GrpcConfig())

    asyncio.run(main())


def test_both_ends_agree_on_sizes_and_pings() -> None:
    config = GrpcConfig(max_recv_msg_size=400_000, max_send_msg_size=500_000, keep_alive_time_seconds=1.0)
    server = dict(server_options(config, internal=False))
    client = dict(client_options(config, internal=False, target_name=None))
    assert client["grpc.max_send_message_length"] == server["grpc.max_receive_message_length"] == 400_000
    assert client["grpc.max_receive_message_length"] == server["grpc.max_send_message_length"] == 500_000
    keepalive = client["grpc.keepalive_time_ms"]
    assert isinstance(keepalive, int)
    assert keepalive > MIN_PING_INTERVAL_MS
