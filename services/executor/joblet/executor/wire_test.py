from typing import Any

import pytest

from joblet.api import job_pb2
from joblet.api.internal import executor_pb2
from joblet.common.errors import InvalidArgument
from joblet.common.states import JobState
from joblet.executor import wire
from joblet.executor.job import Event, Network
from joblet.executor.jobspec import Profile
from joblet.executor.testing import JOB_ID, STARTED, outcome, record

DEFAULT_PROCESSES = 77


def spec(**changes: Any) -> executor_pb2.JobSpec:
    fields: dict[str, Any] = {
        "job_id": JOB_ID, "command": "sh", "args": ["-c", "true; $(x)"], "cpu_percent": 50, "memory_bytes": 1 << 20,
        "network": "none",
    }  # fmt: skip
    return executor_pb2.JobSpec(**{**fields, **changes})


def test_an_order_and_its_defaults() -> None:
    order = wire.order_from(spec(cpu_cores="0-1", timeout_seconds=5), DEFAULT_PROCESSES)
    assert (order.command, order.args) == ("sh", ("-c", "true; $(x)"))
    assert (order.limits.cpu_percent, order.limits.cpu_cores) == (50, (0, 1))
    assert (order.limits.max_processes, order.timeout_seconds) == (DEFAULT_PROCESSES, 5)
    assert (order.network, order.profile, order.work_dir) == (Network.NONE, Profile.DEFAULT, "/work")


def test_secrets_do_not_show() -> None:
    order = wire.order_from(
        spec(secret_environment={"TOKEN": "t0ken"}, uploads=[job_pb2.FileUpload(path="a", content=b"c0ntent")]),
        DEFAULT_PROCESSES,
    )
    assert order.secrets == {"TOKEN": "t0ken"}
    assert "t0ken" not in repr(order)
    assert "c0ntent" not in repr(order)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"job_id": ""}, "job_id"),
        ({"job_id": "../../etc"}, "job_id"),
        ({"command": ""}, "command"),
        ({"command": "a\0b"}, "command"),
        ({"args": ["\0"]}, "command"),
        ({"cpu_percent": 0}, "maxCPU"),
        ({"memory_bytes": -1}, "maxMemory"),
        ({"max_processes": -1}, "maxProcesses"),
        ({"timeout_seconds": -1}, "timeoutSeconds"),
        ({"timeout_seconds": 1 << 60}, "timeoutSeconds"),
        ({"network": ""}, "network"),
        ({"network": "bridge"}, "network"),
        ({"profile": "root"}, "profile"),
        ({"work_dir": "relative"}, "workDir"),
        ({"environment": {"": "x"}}, "environment"),
        ({"secret_environment": {"A=": "x"}}, "secretEnvironment"),
    ],
)
def test_refusals_name_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        wire.order_from(spec(**changes), DEFAULT_PROCESSES)
    assert refusal.value.field == field


@pytest.mark.parametrize("cores", ["x", "3-1", "-1", "0,,1"])
def test_lists_of_cores_that_are_none(cores: str) -> None:
    with pytest.raises(InvalidArgument, match="list of CPUs"):
        wire.order_from(spec(cpu_cores=cores), DEFAULT_PROCESSES)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a\0b", "x" * 5000])
def test_uploads_that_would_leave_the_directory(path: str) -> None:
    with pytest.raises(InvalidArgument, match="below the job's directory"):
        wire.order_from(spec(uploads=[job_pb2.FileUpload(path=path)]), DEFAULT_PROCESSES)


def test_modes_of_uploads() -> None:
    order = wire.order_from(
        spec(
            uploads=[
                job_pb2.FileUpload(path="a"), job_pb2.FileUpload(path="d/", isDirectory=True),
                job_pb2.FileUpload(path="s", mode=0o104755), job_pb2.FileUpload(path="t", mode=0o600),
            ]
        ),
        DEFAULT_PROCESSES,
    )  # fmt: skip
    assert [(upload.path, upload.mode) for upload in order.uploads] == [
        ("a", 0o644), ("d", 0o755), ("s", 0o755), ("t", 0o600),
    ]  # fmt: skip


def test_events() -> None:
    started = wire.event_message(Event(1, JOB_ID, 21, STARTED))
    assert (started.sequence, started.time_ns, started.WhichOneof("event")) == (1, 21, "started")
    assert dict(started.started.attestation.facts) == dict(STARTED.facts)
    assert started.started.attestation.time.ToNanoseconds() == STARTED.attested_ns
    ended = wire.event_message(Event(2, JOB_ID, 31, outcome()))
    assert (ended.ended.status, ended.ended.reason, ended.ended.output_bytes) == ("COMPLETED", "exit", 7)
    assert ended.ended.usage.cpuUserSeconds == 0.5


def test_jobs() -> None:
    running = wire.node_job(record(state=JobState.RUNNING, started_ns=20, not_isolated=("network",)))
    assert (running.status, running.started_ns, list(running.not_isolated)) == ("RUNNING", 20, ["network"])
    assert not running.HasField("outcome")
    assert wire.node_job(record(outcome=outcome())).outcome.ended_ns == 30
