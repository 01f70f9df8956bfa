"""A secret is nowhere: searched for in every file of the system, in its logs, processes and replies.

Not promised, and not searched: the memory of the services, which have to hold it for a moment, and of the job itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from local_system import CALL_SECONDS, SERVICES, LocalSystem, files_below, run_rnx, wait_for

from joblet.api import job_pb2, job_pb2_grpc

pytestmark = pytest.mark.root

CANARY = "canary-5b0c7d1e-do-not-sing"
MASK = "***"
NO_OUTPUTS = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)  # it declared none, or has not ended


def holding(directory: Path) -> list[str]:
    """The files with the canary in them."""
    return [str(path) for path, content in files_below(directory) if CANARY.encode() in content]


def told_by_proc(joblet: LocalSystem) -> list[str]:
    """Command lines and environments with the canary, of every process but those of jobs: the job has to have it."""
    found = []
    services = set(joblet.pids().values())
    for process in Path("/proc").glob("[0-9]*"):
        files = ["cmdline"] if int(process.name) not in services else ["cmdline", "environ"]
        for name in files:
            try:
                content = (process / name).read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            if CANARY.encode() in content:
                found.append(f"{process.name}/{name}")
    return found


def replies(joblet: LocalSystem, certificate: str, job_ids: Iterable[str]) -> Iterator[bytes]:
    """What every call that reads answers, as bytes, so that no field can be forgotten; a log's bytes among them."""
    files = [
        joblet.certificates / name for name in ("ca-cert.pem", f"{certificate}-key.pem", f"{certificate}-cert.pem")
    ]
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    with grpc.secure_channel(joblet.address, credentials) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        yield stub.ListJobs(job_pb2.EmptyRequest(), timeout=CALL_SECONDS).SerializeToString()
        for job_id in job_ids:
            yield stub.GetJobStatus(job_pb2.GetJobStatusReq(uuid=job_id), timeout=CALL_SECONDS).SerializeToString()
            waited = stub.WaitJob(job_pb2.WaitJobReq(uuid=job_id, timeoutSeconds=1), timeout=CALL_SECONDS)
            yield waited.SerializeToString()
            for chunk in stub.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job_id, noFollow=True), timeout=CALL_SECONDS):
                yield chunk.SerializeToString()
            yield from outputs(stub, job_id)


def outputs(stub: job_pb2_grpc.JobServiceStub, job_id: str) -> Iterator[bytes]:
    """What there is of a job's outputs, or what is said of there being none, once the node answers."""
    wait_for("an answer of the job's node", lambda: answers(stub, job_id))
    try:
        yield stub.ListJobOutputs(job_pb2.ListJobOutputsReq(uuid=job_id), timeout=CALL_SECONDS).SerializeToString()
        for chunk in stub.GetJobOutput(job_pb2.GetJobOutputReq(uuid=job_id), timeout=CALL_SECONDS):
            yield chunk.SerializeToString()
    except grpc.RpcError as error:
        assert error.code() in NO_OUTPUTS, error
        yield repr((error.details(), error.trailing_metadata())).encode()


def answers(stub: job_pb2_grpc.JobServiceStub, job_id: str) -> bool:
    try:
        stub.ListJobOutputs(job_pb2.ListJobOutputsReq(uuid=job_id), timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


def metrics(joblet: LocalSystem) -> Iterator[bytes]:
    """The page of each service."""
    shown = run_rnx("--json", "local", "status", "--dir", joblet.directory)
    pages = [row["metrics"] for row in json.loads(shown.stdout)["services"]]
    assert len(pages) == len(SERVICES)
    for page in pages:
        with urlopen(page, timeout=CALL_SECONDS) as answer:
            yield answer.read()


def check(joblet: LocalSystem, job_ids: Iterable[str]) -> None:
    job_ids = list(job_ids)
    assert holding(joblet.directory) == []
    assert told_by_proc(joblet) == []
    for certificate in ("admin-client", "viewer-client"):
        for reply in replies(joblet, certificate, job_ids):
            assert CANARY.encode() not in reply
    for page in metrics(joblet):
        assert b"joblet_" in page
        assert CANARY.encode() not in page
    for arguments in (("list", "-o", "table"), ("--json", "list"), ("status", "--detail", job_ids[0])):
        assert CANARY not in joblet.output(*arguments)


def submit(joblet: LocalSystem, *arguments: str) -> str:
    """By name only: the canary is in rnx's environment, never in its arguments."""
    configured = ("--config", str(joblet.directory / "rnx-config.yml"), "--json")
    done = run_rnx(*configured, "run", "-s", "TOKEN", *arguments, environment={"TOKEN": CANARY})
    assert CANARY.encode() not in done.stdout + done.stderr
    return done.stdout.decode()


def kept(joblet: LocalSystem, job_id: str) -> list[object]:
    """What was kept of a job's /work, nothing when there is nothing."""
    listed = joblet.rnx("--json", "job", "get", "--list", job_id)
    return list(json.loads(listed.stdout)["files"]) if listed.returncode == 0 else []


def test_jobs_in_every_state(own_joblet: LocalSystem) -> None:
    script = "test ${#TOKEN} = " + str(len(CANARY))  # it has it, and its command line does not tell
    submit(own_joblet, "sh", "-c", script + " && sleep 600")
    submit(own_joblet, "--output=*", "sh", "-c", script + " && date > result && mkfifo left-out")
    submit(own_joblet, "--output=*", "sh", "-c", script + "; exit 3")
    submit(own_joblet, "no-such-command")
    submit(own_joblet, "--max-memory=2147483647", "true")
    submit(own_joblet, "--timeout=1s", "sleep", "600")

    def states() -> list[str]:
        return sorted(line.split()[1] for line in own_joblet.output("list").splitlines())

    wanted = ["COMPLETED", "FAILED", "FAILED", "RUNNING", "STOPPED"]
    wait_for("every end", lambda: states() == wanted)
    ids = [line.split()[0] for line in own_joblet.output("list").splitlines()]
    check(own_joblet, ids)
    statuses = [own_joblet.json("status", job_id) for job_id in ids]
    assert sorted(len(kept(own_joblet, job_id)) for job_id in ids) == [0, 0, 0, 0, 1]
    assert all(status["secret_environment"] == {"TOKEN": MASK} for status in statuses)
    for service in ("gateway", "executor"):  # those that have had it
        own_joblet.kill(service)
    check(own_joblet, ids)
    own_joblet.stop(ids[0])


def test_jobs_that_wait(own_joblet: LocalSystem) -> None:
    """They outlive a restart of the gateway, so their secrets are in its store: encrypted, until the node has them."""
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    blocker = own_joblet.run(f"--max-memory={int(total.split()[1]) // 1024}", "sleep", "600")
    submit(own_joblet, "sh", "-c", "test ${#TOKEN} = " + str(len(CANARY)))
    waiting = own_joblet.output("list").splitlines()[1].split()[0]
    assert own_joblet.status(waiting)["Status"] == "PENDING"
    check(own_joblet, [waiting])
    own_joblet.kill("gateway")
    check(own_joblet, [waiting])
    own_joblet.stop(blocker)
    assert own_joblet.rnx("job", "wait", waiting).returncode == 0
    check(own_joblet, [waiting])


def test_services_leave_no_core(joblet: LocalSystem) -> None:
    for pid in joblet.pids().values():
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (core,) = (line for line in limits if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]
