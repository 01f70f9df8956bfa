"""How many questions a second the gateway answers with many jobs in its store, beside a bare mutual-TLS gRPC server.

Run as root: `python bench/rpc.py [--seconds S]`. Prints Markdown. The bare server answers the same bytes from memory,
in a process of its own, with the same library and certificates: what it reaches is what the library and TLS allow.
Jobs are copies of one real row, made while the gateway is down.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import socket
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
from launch import channel, run_to_end
from local_system import LocalSystem, free_port, local_system, wait_for
from measure import machine

from joblet.api import job_pb2, job_pb2_grpc

CLIENTS = (1, 8, 64)
STORED = (1_000, 10_000)
Ask = Callable[["job_pb2_grpc.JobServiceAsyncStub"], Awaitable[object]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    print(f"## bench/rpc\n\n{machine()}\n")
    print("| call | jobs stored | clients | calls/s | median ms | x bare server |\n|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="joblet-bench-") as name:
        directory = Path(name) / "joblet"
        with local_system(directory) as system:
            stub = job_pb2_grpc.JobServiceStub(channel(system))
            run_to_end(stub, "none")
            listed = stub.ListJobs(job_pb2.EmptyRequest(), timeout=60)
            status = stub.GetJobStatus(job_pb2.GetJobStatusReq(uuid=listed.jobs[0].id), timeout=60)
        for stored in STORED:
            fill(directory, stored)
            with local_system(directory) as system, bare_server(system, status.SerializeToString()) as bare:
                measure(system, bare, stored, status.uuid, options.seconds)


def measure(system: LocalSystem, bare: str, stored: int, job_id: str, seconds: float) -> None:
    """Print the lines for one size of the store."""
    files = [(system.certificates / name).read_bytes() for name in ("ca-cert.pem", "client-key.pem", "client-cert.pem")]
    credentials = grpc.ssl_channel_credentials(*files)

    async def get_status(stub: job_pb2_grpc.JobServiceAsyncStub) -> object:
        return await stub.GetJobStatus(job_pb2.GetJobStatusReq(uuid=job_id), timeout=60)

    async def list_all(stub: job_pb2_grpc.JobServiceAsyncStub) -> object:
        count, token = 0, ""
        while True:
            page = await stub.ListJobs(job_pb2.EmptyRequest(pageToken=token), timeout=60)
            count, token = count + len(page.jobs), page.nextPageToken
            if not token:
                break
        if count < stored:
            raise RuntimeError(f"{count} jobs listed, {stored} stored")
        return count

    for call, ask in (("GetJobStatus", get_status), ("ListJobs, all", list_all)):
        for clients in CLIENTS:
            rate, median = asyncio.run(load(system.address, credentials, clients, seconds, ask))
            ratio = "-"
            if ask is get_status:
                peer, _ = asyncio.run(load(bare, credentials, clients, seconds, ask))
                ratio = f"{rate / peer:.2f}"
            print(f"| {call} | {stored} | {clients} | {rate:.0f} | {median * 1e3:.1f} | {ratio} |", flush=True)


async def load(
    address: str, credentials: grpc.ChannelCredentials, clients: int, seconds: float, ask: Ask
) -> tuple[float, float]:
    """Calls per second and the median of one call in seconds; `clients` ask without a pause, each on its connection."""
    taken: list[float] = []
    # Channels of equal target and options would share one connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 << 20)]
    until = 0.0

    async def client(channel: grpc.aio.Channel) -> None:
        stub = job_pb2_grpc.JobServiceStub(channel)
        while time.perf_counter() < until:
            start = time.perf_counter()
            await ask(stub)
            taken.append(time.perf_counter() - start)

    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.secure_channel(address, credentials, options))
            for _ in range(clients)
        ]
        for opened in channels:
            await ask(job_pb2_grpc.JobServiceStub(opened))
        start = time.perf_counter()
        until = start + seconds
        async with asyncio.TaskGroup() as group:
            for opened in channels:
                group.create_task(client(opened))
        return len(taken) / (time.perf_counter() - start), statistics.median(taken)


def fill(directory: Path, wanted: int) -> None:
    """Copy the newest job until the store of a stopped system holds `wanted`."""
    (database,) = directory.rglob("gateway.db")
    with contextlib.closing(sqlite3.connect(database)) as store, store:
        columns = [row[1] for row in store.execute("PRAGMA table_info(jobs)")]
        newest = dict(zip(columns, store.execute("SELECT * FROM jobs ORDER BY sequence DESC").fetchone(), strict=True))
        have = store.execute("SELECT count(*) FROM jobs").fetchone()[0]
        statement = f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        for number in range(1, wanted - have + 1):
            identity = str(uuid.uuid4())
            own = {"id": identity, "sequence": newest["sequence"] + number, "request_id": identity}
            own["listing"] = newest["listing"].replace(newest["id"].encode(), identity.encode())
            store.execute(statement, [own.get(column, newest[column]) for column in columns])


@contextlib.contextmanager
def bare_server(system: LocalSystem, answer: bytes) -> Iterator[str]:
    """A gRPC server that answers every GetJobStatus with the same bytes; its address."""
    port = free_port()
    names = ("gateway-key.pem", "gateway-cert.pem", "ca-cert.pem")
    key, cert, ca = ((system.certificates / name).read_bytes() for name in names)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(port, key, cert, ca, answer))
    process.start()
    try:
        wait_for("bare server", lambda: _listens(port))
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.join()


def _serve(port: int, key: bytes, cert: bytes, ca: bytes, answer: bytes) -> None:
    async def handler(request: bytes, context: object) -> bytes:
        return answer

    async def serve() -> None:
        server = grpc.aio.server()
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "GetJobStatus": grpc.unary_unary_rpc_method_handler(handler)
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("joblet.JobService", handlers),))
        server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(key, cert)], ca, True))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(serve())


def _listens(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


if __name__ == "__main__":
    main()
