"""One request id, one job: asked for by two hundred at once, asked again with another body, and with the gateway killed
in the middle."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from local_system import LocalSystem, wait_for

from joblet.api import job_pb2, job_pb2_grpc

pytestmark = pytest.mark.root

CLIENTS = 200
PATIENCE_SECONDS = 240.0


def channel(joblet: LocalSystem) -> grpc.Channel:
    files = [joblet.certificates / name for name in ("ca-cert.pem", "client-key.pem", "client-cert.pem")]
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    return grpc.secure_channel(
        joblet.address,
        credentials,
        options=[("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)],
    )


def request(name: str, *arguments: str) -> job_pb2.RunJobReq:
    return job_pb2.RunJobReq(command="echo", args=arguments, requestId=name)


def submit(stub: job_pb2_grpc.JobServiceStub, wanted: job_pb2.RunJobReq) -> str:
    """Asks until it is answered, as rnx does, but for longer."""
    while True:
        try:
            return stub.RunJob(wanted, timeout=PATIENCE_SECONDS, wait_for_ready=True).job.uuid
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise


def jobs_of(joblet: LocalSystem) -> list[str]:
    return [line.split()[0] for line in joblet.output("list").splitlines()]


def test_two_hundred_at_once(own_joblet: LocalSystem) -> None:
    together = threading.Barrier(CLIENTS)
    with channel(own_joblet) as connection, ThreadPoolExecutor(CLIENTS) as clients:
        stub = job_pb2_grpc.JobServiceStub(connection)

        def one(_: int) -> str:
            together.wait()
            return submit(stub, request("the-one", "hello"))

        answers = set(clients.map(one, range(CLIENTS)))
        assert jobs_of(own_joblet) == list(answers)
        (job_id,) = answers
        with pytest.raises(grpc.RpcError) as refused:
            stub.RunJob(request("the-one", "other"), timeout=PATIENCE_SECONDS)
        assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert refused.value.details() == f"requestId the-one was used for a different job: {job_id}"
    assert own_joblet.log(job_id) == b"hello\n"
    assert jobs_of(own_joblet) == [job_id]


def test_a_gateway_killed_in_the_middle(own_joblet: LocalSystem) -> None:
    """Every client gets an answer in the end; clients with the same request id get the same job, and it ran once."""
    names = [f"request-{number % 20}" for number in range(CLIENTS)]
    answered = threading.Semaphore(0)
    with channel(own_joblet) as connection, ThreadPoolExecutor(CLIENTS) as clients:
        stub = job_pb2_grpc.JobServiceStub(connection)

        def one(name: str) -> str:
            job_id = submit(stub, request(name, name))
            answered.release()
            return job_id

        answers = clients.map(one, names)
        killed: list[int] = []
        for _ in range(2):
            assert answered.acquire(timeout=PATIENCE_SECONDS)
            killed.append(wait_for("a gateway", lambda: own_joblet.serving().get("gateway", 0)))
            os.kill(killed[-1], signal.SIGKILL)
        assert killed[0] != killed[1]
        by_name: dict[str, set[str]] = {}
        for name, job_id in zip(names, answers, strict=True):
            by_name.setdefault(name, set()).add(job_id)
    assert all(len(ids) == 1 for ids in by_name.values())
    # The second kill may have come after the last answer.
    wait_for("the gateway back", lambda: own_joblet.rnx("list").returncode == 0)
    assert sorted(jobs_of(own_joblet)) == sorted(job_id for ids in by_name.values() for job_id in ids)
    for name, ids in by_name.items():
        (job_id,) = ids
        wait_for("the end", lambda job_id=job_id: own_joblet.status(job_id)["Status"] == "COMPLETED")  # type: ignore[misc]
        assert own_joblet.log(job_id) == f"{name}\n".encode()
