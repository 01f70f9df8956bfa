"""Who can reach a port and may not use it: garbage, no TLS, half-open and slow connections, huge messages.

Every port of a running system, the public one, those between the services and those for metrics, is treated the same.
Meanwhile and afterwards jobs run, and every service ends with the memory and the open files it had before (SLACK).
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from gate import gate
from local_system import LocalSystem, run_rnx
from vitals import Slack, Vitals, channel, compare, credentials, vitals, wait_until_as_before

from joblet.api import job_pb2, job_pb2_grpc

pytestmark = [pytest.mark.root, pytest.mark.slow]

HALF_OPEN = 1000
ROUNDS = 3
GARBAGE_BYTES = 64 * 1024
SLOW_SECONDS = 4.0
SLOW_CLIENTS = 20
BYTE_SECONDS = 0.05
CALL_SECONDS = 120.0
KEEPALIVE_SECONDS = 1
INTERVALS = 4
HTTP2_PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
)  # with empty SETTINGS (RFC 9113, 3.4)
# The beginning of a TLS 1.3 ClientHello (RFC 8446): a record of 512 bytes, of which one comes at a time.
CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(range(256))
# fds: a connection of rnx local status or of a client that is not closed yet. Memory: a connection takes about 45 kB,
# and malloc keeps the pages of a thousand at once in whichever of its arenas they were (with MALLOC_ARENA_MAX=1 the
# figure stands still after the first round). A leak of every connection would be 135 MB after three rounds.
SLACK = Slack(fds=8, pss=110 << 20)

Attack = Callable[[int], None]
"""Takes a port of the loopback interface and returns when it has done its worst there, all closed."""


def connect(port: int) -> socket.socket:
    """A connection to a port of ours; refused or reset connections are the caller's."""
    return socket.create_connection(("127.0.0.1", port), timeout=CALL_SECONDS)


def send_and_read(port: int, data: bytes) -> bytes:
    """What the port answers to `data` until it closes or, after a moment, does not."""
    answer = b""
    with connect(port) as connection, contextlib.suppress(OSError):  # reset, or closed before we were done
        connection.settimeout(2)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            answer += part
    return answer


def garbage(port: int) -> None:
    """Bytes of no protocol, many times."""
    noise = random.Random(port)
    for _ in range(20):
        send_and_read(port, noise.randbytes(GARBAGE_BYTES))


def plaintext(port: int) -> None:
    """HTTP/2 and HTTP/1 without TLS, and gRPC by a client that uses none."""
    for data in (HTTP2_PREFACE, b"GET / HTTP/1.1\r\nHost: joblet\r\n\r\n", b"\r\n" * 1000):
        send_and_read(port, data)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as opened, pytest.raises(grpc.RpcError):
        job_pb2_grpc.JobServiceStub(opened).ListJobs(job_pb2.EmptyRequest(), timeout=2)


def half_open(port: int) -> None:
    """A thousand connections that say nothing, all at once, and all gone; ROUNDS times."""
    for _ in range(ROUNDS):
        with contextlib.ExitStack() as stack:
            for _ in range(HALF_OPEN):
                stack.enter_context(connect(port))


def slowly(port: int) -> None:
    """Handshakes that come a byte at a time, by clients that never finish them."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(SLOW_CLIENTS)]
        until = time.monotonic() + SLOW_SECONDS
        for byte in CLIENT_HELLO:
            clients = [client for client in clients if _sent(client, byte)]
            if time.monotonic() > until or not clients:
                break
            select.select(clients, [], [], BYTE_SECONDS)


def _sent(client: socket.socket, byte: int) -> bool:
    """Whether the server still takes bytes of this client; False once it has had enough of it."""
    try:
        client.send(bytes([byte]))
        client.setblocking(False)
        return bool(client.recv(4096))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


ATTACKS: tuple[Attack, ...] = (garbage, plaintext, half_open, slowly)
WAITING = (plaintext, slowly)


def ports(system: LocalSystem) -> dict[str, int]:
    """Every port that a service of the system listens on."""
    found: dict[str, int] = {}
    answer = json.loads(run_rnx("--json", "local", "status", "--dir", system.directory).stdout)
    for row in answer["services"]:
        found[row["service"]] = int(row["address"].rpartition(":")[2])
        found[f"{row['service']} metrics"] = urlsplit(row["metrics"]).port or 0
    return found


def run_job(stub: job_pb2_grpc.JobServiceStub) -> float:
    """Seconds that one ordinary job took to its end, output and all."""
    start = time.monotonic()
    job_id = stub.RunJob(job_pb2.RunJobReq(command="echo", args=["hello"]), timeout=CALL_SECONDS).job.uuid
    logs = stub.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job_id), timeout=CALL_SECONDS)
    assert b"".join(chunk.payload for chunk in logs) == b"hello\n"
    job = stub.WaitJob(job_pb2.WaitJobReq(uuid=job_id), timeout=CALL_SECONDS).job
    assert (job.status, job.exitCode) == ("COMPLETED", 0)
    return time.monotonic() - start


@contextlib.contextmanager
def jobs_all_the_while(system: LocalSystem) -> Iterator[list[float]]:
    """Runs one job after the other, each on a connection of its own, until the body ends; how long each took."""
    taken: list[float] = []
    failures: list[Exception] = []
    ended = threading.Event()

    def client() -> None:
        try:
            while not (taken and ended.is_set()):
                with channel(system, ("grpc.use_local_subchannel_pool", 1)) as opened:
                    taken.append(run_job(job_pb2_grpc.JobServiceStub(opened)))
        except (grpc.RpcError, AssertionError) as error:  # raised again by the test's own thread
            failures.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield taken
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(scope="module")
def before(joblet: LocalSystem) -> dict[str, Vitals]:
    """The services after some work, before any abuse."""
    with channel(joblet) as opened:
        for _ in range(20):
            run_job(job_pb2_grpc.JobServiceStub(opened))
    return vitals(joblet)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_abuse_of_every_port(joblet: LocalSystem, before: dict[str, Vitals], attack: Attack) -> None:
    pids = joblet.pids()
    victims = ports(joblet).values()
    # What takes long because it waits is done to all ports at once.
    with jobs_all_the_while(joblet) as taken, ThreadPoolExecutor(len(victims) if attack in WAITING else 1) as attackers:
        for _ in attackers.map(attack, victims):
            pass
    assert joblet.pids() == pids, "a service was restarted"
    print(f"{attack.__name__}: {len(taken)} jobs meanwhile, the slowest in {max(taken):.2f} s")
    print(compare(before, wait_until_as_before(joblet, before, SLACK)))


def test_nothing_is_said_to_strangers(joblet: LocalSystem) -> None:
    """Ports of gRPC answer nothing but TLS alerts (0x15) and HTTP/2's farewell to what is no TLS."""
    for name, port in ports(joblet).items():
        if not name.endswith("metrics"):
            assert b"joblet" not in send_and_read(port, b"GET /metrics HTTP/1.1\r\nHost: joblet\r\n\r\n").lower(), name


def test_oversized_messages_on_every_port(joblet: LocalSystem, before: dict[str, Vitals]) -> None:
    """16 MB to each service by a client with the best certificate for it; refused before the handler sees it."""
    huge = bytes(16 << 20)
    rpcs = {
        "gateway": ("client", "/joblet.JobService/RunJob"),
        "executor": ("gateway", "/joblet.internal.ExecutorService/StartJob"),
        "logstore": ("gateway", "/joblet.internal.LogStoreService/ReadLogs"),
        "runtime": ("gateway", "/grpc.health.v1.Health/Check"),
    }
    found = ports(joblet)
    with jobs_all_the_while(joblet):
        for service, (certificate, method) in rpcs.items():
            address = f"127.0.0.1:{found[service]}"
            with grpc.secure_channel(address, credentials(joblet, certificate)) as opened:
                for _ in range(5):
                    call: Any = opened.unary_stream(method)  # one answer is a stream of one
                    with pytest.raises(grpc.RpcError) as refused:
                        list(call(huge, timeout=CALL_SECONDS))
                    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, (service, refused.value)
    print(compare(before, wait_until_as_before(joblet, before, SLACK)))


def test_an_idle_follower_gets_its_line(own_joblet: LocalSystem) -> None:
    """A quiet job's follower outlives several keepalive intervals of both sides, then gets what the job prints."""
    keepalive = (
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", int(CALL_SECONDS * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
    )
    quiet = KEEPALIVE_SECONDS * INTERVALS
    with channel(own_joblet, *keepalive) as opened, gate() as between:
        stub = job_pb2_grpc.JobServiceStub(opened)
        wait = f"cat </dev/tcp/127.0.0.1/{between.port}"
        script = f"sleep {quiet}; echo late; {wait}; sleep {quiet}; echo later"
        request = job_pb2.RunJobReq(command="bash", args=["-c", script])
        start = time.monotonic()
        job_id = stub.RunJob(request, timeout=CALL_SECONDS).job.uuid
        logs = stub.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job_id), timeout=CALL_SECONDS)
        assert next(logs).payload == b"late\n"
        between.wait_for()
        between.open()
        assert b"".join(chunk.payload for chunk in logs) == b"later\n"
        assert time.monotonic() - start >= 2 * quiet
