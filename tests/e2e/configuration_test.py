"""Every key of the specification's configuration has its effect; wrong ones stop the start by name."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import grpc
import pytest
import yaml
from local_system import CALL_SECONDS, CLEAN_ENVIRONMENT, REPOSITORY, RNX, SERVICES, LocalSystem, local_system
from vitals import channel

from joblet.api import job_pb2, job_pb2_grpc

pytestmark = pytest.mark.root

CONFIGURATION = REPOSITORY / "libs/common/joblet/common/config.py"
OWN = {f"{name.capitalize()}Config": name for name in SERVICES}

TIMEOUT_SECONDS = 20  # a job that ends by itself needs less of them, also on a busy machine
CHOSEN = {
    "joblet": {
        "defaultCpuLimit": 70,
        "defaultMemoryLimit": 96,
        "defaultIoLimit": 1_000_000,
        "maxConcurrentJobs": 2,
        "jobTimeout": f"{TIMEOUT_SECONDS}s",
        "cleanupTimeout": "2s",
        "maxProcesses": 77,
        "defaultNetwork": "none",
    },
    "executor": {"tmpSizeMb": 32, "workSizeMb": 48, "stopGrace": "10s"},
    "grpc": {"maxRecvMsgSize": 300_000, "maxSendMsgSize": 600_000, "keepAliveTime": "5s"},
}


@pytest.fixture(scope="module")
def configured(clean_machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    directory = tmp_path_factory.mktemp("jbtest") / "joblet"
    (directory / "config").mkdir(parents=True)
    (directory / "config/joblet-config.yml").write_text(yaml.safe_dump(CHOSEN))
    with local_system(directory) as system:
        yield system


@contextmanager
def calls(joblet: LocalSystem) -> Iterator[job_pb2_grpc.JobServiceStub]:
    with channel(joblet) as opened:
        yield job_pb2_grpc.JobServiceStub(opened)


def test_defaults_of_jobs(configured: LocalSystem) -> None:
    """defaultCpuLimit, defaultMemoryLimit, defaultIoLimit, maxProcesses, defaultNetwork, jobTimeout."""
    job = configured.json("run", "--wait", "cat", "/proc/self/net/dev")
    assert (job["maxCPU"], job["maxMemory"], job["maxIOBPS"]) == (70, 96, 1_000_000)
    assert (job["maxProcesses"], job["network"], job["timeoutSeconds"]) == (77, "none", TIMEOUT_SECONDS)
    interfaces = configured.log(str(job["uuid"])).decode().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_job_timeout(configured: LocalSystem) -> None:
    done = configured.rnx("--json", "run", "--wait", "sleep", "600")
    assert done.returncode == 124
    refused = configured.rnx("run", f"--timeout={TIMEOUT_SECONDS + 1}s", "true")
    assert refused.stderr.decode().startswith("Error: job creation failed: timeoutSeconds exceeds system limits\n")


def test_max_concurrent_jobs(configured: LocalSystem) -> None:
    with calls(configured) as stub:
        job = job_pb2.RunJobReq(command="sleep", args=["600"])
        answers = [stub.RunJob(job, timeout=CALL_SECONDS).job.status for _ in range(3)]
    assert answers == ["INITIALIZING", "INITIALIZING", "PENDING"]
    for line in configured.output("list", "--status=RUNNING", "--status=PENDING").splitlines():
        configured.rnx("stop", line.split()[0])


def test_sizes_of_directories(configured: LocalSystem) -> None:
    """executor.tmpSizeMb, executor.workSizeMb."""
    tell = "import os; print([os.statvfs(d).f_blocks * os.statvfs(d).f_frsize >> 20 for d in ('/tmp', '/work')])"
    assert configured.rnx("run", "--follow", "python3", "-c", tell).stdout == b"[32, 48]\n"


def test_stop_grace(configured: LocalSystem) -> None:
    """executor.stopGrace: with the default of 100 ms this job would not live to say goodbye."""
    program = "trap 'sleep 0.5; echo goodbye; exit 5' TERM; echo ready; sleep 600 & wait"
    with calls(configured) as stub:  # not rnx: the job has no more than jobTimeout
        job_id = stub.RunJob(job_pb2.RunJobReq(command="sh", args=["-c", program]), timeout=CALL_SECONDS).job.uuid
        output = stub.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job_id), timeout=CALL_SECONDS)
        assert next(output).payload == b"ready\n"
        stub.StopJob(job_pb2.StopJobReq(uuid=job_id), timeout=CALL_SECONDS)
        assert b"".join(chunk.payload for chunk in output) == b"goodbye\n"


def test_message_sizes(configured: LocalSystem) -> None:
    """maxRecvMsgSize bounds what a request may hold, maxSendMsgSize a page of the list."""
    with calls(configured) as stub:
        large = job_pb2.RunJobReq(command="true", args=["x" * 100_000 for _ in range(2)])
        for _ in range(4):
            stub.RunJob(large, timeout=CALL_SECONDS)
        with pytest.raises(grpc.RpcError) as refused:
            stub.RunJob(job_pb2.RunJobReq(command="true", args=["x" * 100_000 for _ in range(3)]), timeout=CALL_SECONDS)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        page = stub.ListJobs(job_pb2.EmptyRequest(), timeout=CALL_SECONDS)
        assert page.nextPageToken
        assert page.ByteSize() < 600_000


WRONG = """
jobs: {}
joblet: {maxConcurrentJob: 3, jobTimeout: soon, defaultIoLimit: -1, defaultCpuLimit: 1.5}
grpc: {maxRecvMsgSize: 1, keepAliveTime: 10}
"""
PROBLEMS = (
    "jobs: unknown key",
    "joblet.maxConcurrentJob: unknown key",
    "joblet.jobTimeout: expected",
    "joblet.defaultIoLimit: expected",
    "joblet.defaultCpuLimit: expected",
    "grpc.maxRecvMsgSize: expected",
    "grpc.keepAliveTime: expected",
)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_does_not_start_with_a_wrong_key(tmp_path: Path, service: str) -> None:
    """Every problem is named, not the first one only."""
    file = tmp_path / "joblet-config.yml"
    file.write_text(WRONG)
    command: list[str | Path] = [RNX.parent / f"joblet-{service}", "--config", file]
    done = subprocess.run(
        command, env=CLEAN_ENVIRONMENT, capture_output=True, text=True, timeout=CALL_SECONDS, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert [problem for problem in PROBLEMS if problem not in done.stderr] == []


def test_no_key_is_read_by_nobody() -> None:
    """A key of a service's section has to be read in that service, a shared one anywhere but in the command line."""
    everywhere = _attributes(REPOSITORY / "services") | _attributes(REPOSITORY / "libs/common")
    unread = []
    for section, key in _keys():
        if section in OWN:
            read = key in _attributes(REPOSITORY / "services" / OWN[section])
        else:
            read = section == "Config" or key in everywhere
        if not read:
            unread.append(f"{section}.{key}")
    assert unread == []


def _keys() -> list[tuple[str, str]]:
    classes = [node for node in ast.parse(CONFIGURATION.read_text()).body if isinstance(node, ast.ClassDef)]
    assert set(OWN) < {node.name for node in classes}
    return [
        (node.name, field.target.id)
        for node in classes
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    ]


@cache
def _attributes(folder: Path) -> set[str]:
    """Every name that a module of the product reads after a dot."""
    modules = [
        path for path in folder.rglob("*.py") if not path.name.endswith(("_test.py", "testing.py", "conftest.py"))
    ]
    return {
        node.attr
        for path in modules
        if path != CONFIGURATION
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
