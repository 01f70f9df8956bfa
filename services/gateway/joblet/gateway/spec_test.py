"""Defaults, capacity, request digests, and what the executor gets."""

from dataclasses import replace
from typing import Any

import pytest

from joblet.api import job_pb2
from joblet.common.config import JobletConfig
from joblet.common.errors import InvalidArgument
from joblet.gateway import placement, spec
from joblet.gateway.store.model import Job, Node, NodeState, Upload

MIB = 1 << 20
NODE = Node(
    id="n", state=NodeState.READY, executor_address="h:1", logstore_address="h:2", runtime_address="h:3", boot_id="b",
    cpu_cores=2, memory_bytes=1024 * MIB, labels={}, version="1", system="linux", registered_ns=1, last_seen_ns=1,
    lease_until_ns=1, last_sequence=0, cores="0,4", max_processes=4096, work_bytes=256 * MIB, content_bytes=8192 * MIB,
)  # fmt: skip


def submission(defaults: JobletConfig | None = None, **fields: Any) -> spec.Submission:
    return spec.prepare(job_pb2.RunJobReq(**({"command": "true"} | fields)), defaults or JobletConfig(), 0)


def test_nothing_given_is_the_configured_default() -> None:
    plain = submission()
    assert (plain.cpu_percent, plain.memory_mb, plain.io_bytes_per_second, plain.max_processes) == (100, 512, 0, 1024)
    assert (plain.network, plain.work_dir, plain.timeout_seconds, plain.request_id) == ("host", "/work", 3600, None)


def test_other_defaults() -> None:
    defaults = JobletConfig(
        default_cpu_limit=50, default_memory_limit=64, default_io_limit=7, default_network="none",
        job_timeout_seconds=0.5, max_processes=3,
    )  # fmt: skip
    plain = submission(defaults)
    assert (plain.cpu_percent, plain.memory_mb, plain.io_bytes_per_second, plain.max_processes) == (50, 64, 7, 3)
    assert (plain.network, plain.timeout_seconds) == ("none", 1)


def test_what_is_given_counts() -> None:
    given = submission(maxCPU=5, maxMemory=6, maxIOBPS=7, maxProcesses=8, network="none", workDir="/tmp")
    assert (given.cpu_percent, given.memory_mb, given.io_bytes_per_second, given.max_processes) == (5, 6, 7, 8)
    assert (given.network, given.work_dir) == ("none", "/tmp")


def test_a_timeout_cannot_exceed_the_configured_one() -> None:
    assert spec.timeout_seconds(5, 10.0) == 5
    assert spec.timeout_seconds(0, 0.0) == 0
    assert spec.timeout_seconds(99, 0.0) == 99
    with pytest.raises(InvalidArgument, match="^job creation failed: timeoutSeconds exceeds system limits$"):
        spec.timeout_seconds(11, 10.0)


def test_no_node_is_large_enough() -> None:
    offered = placement.capacity(NODE, JobletConfig())
    spec.check_fit(submission(maxMemory=1024, maxCPU=200), NODE, offered)
    with pytest.raises(InvalidArgument, match="^job creation failed: maxMemory exceeds system limits$"):
        spec.check_fit(submission(maxMemory=1025), NODE, offered)
    with pytest.raises(InvalidArgument, match="^job creation failed: maxCPU exceeds system limits$"):
        spec.check_fit(submission(maxCPU=201), NODE, offered)


def test_no_node_has_such_cores_or_so_many_processes() -> None:
    offered = placement.capacity(NODE, JobletConfig())
    spec.check_fit(submission(cpuCores="4", maxProcesses=4096), NODE, offered)
    with pytest.raises(InvalidArgument, match="^job creation failed: cpuCores exceeds system limits$") as refused:
        spec.check_fit(submission(cpuCores="0-1"), NODE, offered)
    assert (refused.value.field, refused.value.hint) == ("cpuCores", "this node has the cores 0,4")
    with pytest.raises(InvalidArgument, match="^job creation failed: maxProcesses exceeds system limits$"):
        spec.check_fit(submission(maxProcesses=4097), NODE, offered)


def test_uploads_that_no_node_can_take() -> None:
    offered = placement.capacity(NODE, JobletConfig())

    def uploading(*sizes_mb: int, **fields: Any) -> spec.Submission:
        digest = f"sha256:{0:064}"
        uploads = [
            job_pb2.FileUpload(path=f"f{number}", size=size * MIB, digest=digest)
            for number, size in enumerate(sizes_mb)
        ]  # fmt: skip
        return submission(uploads=uploads, **fields)

    spec.check_fit(uploading(200, 56), NODE, offered)
    with pytest.raises(InvalidArgument) as refused:
        spec.check_fit(uploading(200, 57), NODE, offered)
    assert str(refused.value) == (
        "job creation failed: uploads of 257.0 MB do not fit into the job's /work: \"f0\" has 200.0 MB"
    )  # fmt: skip
    assert (refused.value.field, refused.value.hint) == (
        "uploads", "workSizeMb leaves 256 MB; /work lies in the job's memory",
    )  # fmt: skip
    with pytest.raises(InvalidArgument) as refused:
        spec.check_fit(uploading(65, maxMemory=64), NODE, offered)
    assert refused.value.hint == "maxMemory leaves 64 MB; /work lies in the job's memory"
    spec.check_fit(uploading(512), replace(NODE, work_bytes=0, content_bytes=0), offered)


def test_what_a_heartbeat_does_not_say_is_for_the_node_to_refuse() -> None:
    asking = submission(cpuCores="900", maxProcesses=1 << 20)
    spec.check_fit(asking, replace(NODE, cores="", max_processes=0), placement.capacity(NODE, JobletConfig()))


def test_a_node_that_gives_away_less_than_it_has() -> None:
    offered = placement.capacity(NODE, JobletConfig(memory_overcommit=0.5, cpu_overcommit=0.5))
    spec.check_fit(submission(maxMemory=512, maxCPU=100), NODE, offered)
    with pytest.raises(InvalidArgument, match="maxMemory") as caught:
        spec.check_fit(submission(maxMemory=513), NODE, offered)
    assert caught.value.hint == "this node has 512 MB"
    with pytest.raises(InvalidArgument, match="maxCPU"):
        spec.check_fit(submission(maxCPU=101), NODE, offered)


def test_uploads_get_modes_and_sizes_and_keep_their_content_apart() -> None:
    with_files = submission(
        uploads=[
            job_pb2.FileUpload(path="a", content=b"abc"),
            job_pb2.FileUpload(path="d/", isDirectory=True),
            job_pb2.FileUpload(path="x", content=b"#!", mode=0o700),
        ]
    )
    assert with_files.uploads == (
        Upload("a", 0o644, 3, False), Upload("d", 0o755, 0, True), Upload("x", 0o700, 2, False),
    )  # fmt: skip
    assert with_files.contents == (b"abc", b"", b"#!")


def test_digests_tell_requests_apart_but_not_by_secrets() -> None:
    def digest(**fields: Any) -> str:
        return submission(requestId="r", **fields).request_digest

    assert digest(args=["a"]) == digest(args=["a"])
    assert digest(args=["a"]) != digest(args=["b"])
    assert digest(environment={"A": "1", "B": "2"}) == digest(environment={"B": "2", "A": "1"})
    assert digest(environment={"A": "1"}) != digest(environment={"A": "2"})
    assert digest(secretEnvironment={"A": "1"}) == digest(secretEnvironment={"A": "2"})
    assert digest(secretEnvironment={"A": "1"}) != digest(secretEnvironment={"B": "1"})
    assert submission().request_digest == ""


def test_rows_have_names_of_secrets_only() -> None:
    row = spec.new_job(submission(secretEnvironment={"TOKEN": "hunter2"}), "id", 5)
    assert row["secret_names"] == ("TOKEN",)
    assert "hunter2" not in repr(row)


def test_the_executor_gets_bytes_secrets_and_contents() -> None:
    given = submission(
        args=["a"], secretEnvironment={"TOKEN": "s"}, uploads=[job_pb2.FileUpload(path="a", content=b"abc")],
        requestId="r",
    )  # fmt: skip
    job = Job(sequence=1, **spec.new_job(given, "the-id", 5))
    message = spec.executor_spec(job, given.secrets, given.contents)
    assert (message.job_id, message.command, list(message.args)) == ("the-id", "true", ["a"])
    assert (message.cpu_percent, message.memory_bytes, message.max_processes) == (100, 512 * MIB, 1024)
    assert dict(message.secret_environment) == {"TOKEN": "s"}
    assert [(u.path, u.content, u.mode, u.size) for u in message.uploads] == [("a", b"abc", 0o644, 3)]
    assert (message.timeout_seconds, message.profile, message.request_id) == (3600, "default", "r")
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        spec.executor_spec(job, given.secrets, ())
