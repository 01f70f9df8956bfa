"""What an executor says on machines that cannot run jobs, in the words of the API reference."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from joblet.api.internal import executor_pb2
from joblet.common.config import Config, ExecutorConfig
from joblet.common.errors import Code, JobletError
from joblet.executor import machine
from joblet.executor.testing_node import TIMEOUT_SECONDS, NodeProcesses, node_processes, spec, start, wait_until

pytestmark = pytest.mark.root

OTHER_USER = 65534
NO_CGROUPS = "cgroup setup failed: permission denied"
NO_NAMESPACES = "failed to create isolated environment: operation not permitted"


@pytest.mark.parametrize("system", ["Darwin", "FreeBSD"])
def test_other_systems(tmp_path: Path, system: str) -> None:
    config = Config(executor=ExecutorConfig(state_dir=tmp_path))
    with ExitStack() as stack, pytest.raises(JobletError) as refusal:
        machine.prepare(config, stack, system)
    assert str(refusal.value) == f"job execution requires Linux server (current: {system.lower()})"
    assert refusal.value.code is Code.INTERNAL


def test_a_whole_executor_elsewhere(tmp_path: Path) -> None:
    """Only the name of the system is another; there is no jobinit either, which nobody misses there."""
    program = (
        "import platform, sys; platform.system = lambda: 'Darwin';"
        "from joblet.executor.__main__ import main; sys.exit(main())"
    )
    with node_processes(tmp_path, executor="  jobinit: missing\n", program=("-c", program)) as node:
        asyncio.run(refuses(node, "job execution requires Linux server (current: darwin)"))


def test_a_missing_jobinit_is_told_at_the_start(tmp_path: Path) -> None:
    told = pytest.raises(AssertionError, match="jobinit is not an executable file")
    with told, node_processes(tmp_path, executor="  jobinit: missing\n"):
        pass


# Imports first: the other user need not be able to read the checkout.
AS_OTHER_USER = f"""
import os, sys
import joblet.executor.server
from joblet.executor.__main__ import main
os.setgroups([])
os.setresgid({OTHER_USER}, {OTHER_USER}, {OTHER_USER})
os.setresuid({OTHER_USER}, {OTHER_USER}, {OTHER_USER})
sys.exit(main())
"""
EXECUTOR = ("-m", "joblet.executor")


@pytest.mark.parametrize(
    ("prefix", "program", "text"),
    [
        ((), ("-c", AS_OTHER_USER), NO_CGROUPS),
        (("setpriv", "--bounding-set=-sys_admin"), EXECUTOR, NO_NAMESPACES),
    ],
    ids=["another user", "no CAP_SYS_ADMIN"],
)
def test_without_the_privileges_it_needs(prefix: Sequence[str], program: Sequence[str], text: str) -> None:
    with (
        TemporaryDirectory(prefix="jbtest") as name,
        node_processes(Path(name), prefix=prefix, program=program, owner=OTHER_USER) as node,
    ):
        asyncio.run(refuses(node, text))
        with pytest.raises(HTTPError) as unready:
            urlopen(f"http://127.0.0.1:{node.executor.metrics_port}/readyz", timeout=TIMEOUT_SECONDS)
        with unready.value:
            assert unready.value.read().decode().strip() == text
        told = "this machine cannot run jobs"
        wait_until(lambda: any(told in line for line in node.executor.log), lambda: "".join(node.executor.log))


async def refuses(node: NodeProcesses, text: str) -> None:
    async with node.client() as executor:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await start(executor, spec("true"))
        assert refusal.value.code() is grpc.StatusCode.INTERNAL
        assert refusal.value.details() == text
        listed = await executor.ListJobs(executor_pb2.ListNodeJobsRequest())
        assert (list(listed.jobs), listed.last_sequence) == ([], 0)
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await executor.StopJob(executor_pb2.StopJobRequest(job_id="f47ac10b-58cc-4372-a567-0e02b2c3d479"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    async with node.channel(node.executor.port, "gateway") as channel:
        for service in ("", "joblet.internal.ExecutorService"):
            stub: Any = health_pb2_grpc.HealthStub(channel)
            health = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
