"""kill -9 of a real gateway process at any moment: no job is lost, doubled or stuck."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from joblet.api import job_pb2
from joblet.api.internal.registry_pb2_grpc import RegistryServiceStub
from joblet.api.job_pb2_grpc import JobServiceStub
from joblet.common import rpc
from joblet.common.config import Config, TlsFiles
from joblet.common.pki import Bundle, write_bundle
from joblet.gateway.testing import NODE, FakeNode, run_true

if TYPE_CHECKING:
    from joblet.api.job_pb2_grpc import JobServiceAsyncStub

TIMEOUT_SECONDS = 240.0  # only ends a wait for what never comes
JOBS = 60
KILLS = 5


class DidNotStart(Exception):
    """With what it said and its exit code."""


class Process:
    """`python -m joblet.gateway`, always on the same port."""

    def __init__(self, directory: Path, bundle: Bundle) -> None:
        self.directory, self.bundle, self.port = directory, bundle, 0

    def start(self) -> None:
        tls = f"{{ca: {self.bundle.ca_cert}, cert: {self.bundle.cert('gateway')}, key: {self.bundle.key('gateway')}}}"
        config = self.directory / "joblet-config.yml"
        config.write_text(
            f"joblet: {{maxConcurrentJobs: 50}}\n"
            f"gateway:\n  listen: 127.0.0.1:{self.port}\n  metricsListen: 127.0.0.1:0\n  tls: {tls}\n"
            f"  database: sqlite:///{self.directory}/gateway.db\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "joblet.gateway", "--config", str(config)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if "listening" in line:
                self.port = int(line.partition("address=")[2].split()[0].rpartition(":")[2])
                return
        raise DidNotStart("".join(lines), self.end(signal.SIGTERM))

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=TIMEOUT_SECONDS)  # what it says at its end has to go somewhere
        return self.process.returncode


@contextmanager
def gateway(directory: Path, bundle: Bundle) -> Iterator[Process]:
    process = Process(directory, bundle)
    process.start()
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.end(signal.SIGKILL)


async def heartbeats(node: FakeNode, port: int) -> None:
    """Every moment, so that a gateway that has just started knows its node."""
    async with rpc.connect(f"127.0.0.1:{port}", node.tls, Config().grpc) as channel:
        while True:
            await RegistryServiceStub(channel).Heartbeat(node.heartbeat(), wait_for_ready=True)
            await asyncio.sleep(0.2)


async def submit(client: "JobServiceAsyncStub", number: int) -> str:
    """As a client does that wants its job to run once: again and again with one request id."""
    request = job_pb2.RunJobReq(command="true", args=[str(number)], requestId=f"request-{number}")
    while True:
        try:
            answer = await client.RunJob(request, wait_for_ready=True, timeout=TIMEOUT_SECONDS)
            return answer.job.uuid
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise
            await asyncio.sleep(0.05)


@pytest.mark.slow
def test_kill_while_jobs_are_submitted(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)
    admin = TlsFiles(bundle.ca_cert, bundle.cert("admin-client"), bundle.key("admin-client"))

    async def scenario(process: Process) -> None:
        node = FakeNode(bundle)
        node.script = run_true
        await node.up()
        beating = asyncio.ensure_future(heartbeats(node, process.port))
        try:
            async with rpc.connect(f"127.0.0.1:{process.port}", admin, Config().grpc, internal=False) as channel:
                client: JobServiceAsyncStub = JobServiceStub(channel)
                submitting = [asyncio.ensure_future(submit(client, number)) for number in range(JOBS)]
                for kill in range(KILLS):
                    wanted = len(node.starts) + JOBS // (KILLS + 1)
                    async with asyncio.timeout(TIMEOUT_SECONDS):
                        while len(node.starts) < wanted and not all(one.done() for one in submitting):
                            await asyncio.sleep(0.001 * (kill + 1))
                    await asyncio.to_thread(process.end, signal.SIGKILL)
                    await asyncio.to_thread(process.start)
                ids = [await one for one in submitting]
                for job_id in ids:
                    wait = job_pb2.WaitJobReq(uuid=job_id)
                    job = (await client.WaitJob(wait, wait_for_ready=True, timeout=TIMEOUT_SECONDS)).job
                    assert (job.status, job.exitCode) == ("COMPLETED", 0)
                listed = await client.ListJobs(job_pb2.EmptyRequest())
            assert len(set(ids)) == JOBS
            assert {job.id for job in listed.jobs} == set(ids)
            events = [event.job_id for event in node.events if event.WhichOneof("event") == "started"]
            assert sorted(events) == sorted(ids)  # each ran once
        finally:
            beating.cancel()
            await node.down()

    with gateway(tmp_path, bundle) as process:
        asyncio.run(scenario(process))
        assert process.end(signal.SIGTERM) == 0


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)
    with gateway(tmp_path, bundle) as process:
        second = tmp_path / "second"
        second.mkdir()
        other = Process(second, bundle)
        other.port = process.port
        with pytest.raises(DidNotStart) as caught:
            other.start()
        said, code = caught.value.args
        assert said.splitlines()[-1] == f"Error: cannot listen on 127.0.0.1:{process.port}: address already in use"
        assert code == 1
        assert process.end(signal.SIGTERM) == 0
