import json

import grpc
import pytest

from joblet.api import job_pb2 as api
from rnx.conftest import ENDED, JOB_ID, STARTED, Gateway, Rnx, a_job


def test_stop_is_never_sent_twice(rnx: Rnx, gateway: Gateway) -> None:
    gateway.failures = [(grpc.StatusCode.UNAVAILABLE, "going away")]
    assert rnx(*gateway.flags, "stop", JOB_ID).code == 1
    assert len(gateway.requests) == 1


@pytest.mark.parametrize(
    ("code", "text", "exit_code"),
    [
        (grpc.StatusCode.NOT_FOUND, f"job not found: {JOB_ID}", 4),
        (grpc.StatusCode.PERMISSION_DENIED, "role viewer is not allowed to perform operation stop_job", 1),
        (grpc.StatusCode.UNAUTHENTICATED, "failed to extract client role: no TLS information found", 3),
        (grpc.StatusCode.INVALID_ARGUMENT, "invalid command: command contains dangerous characters", 1),
        (grpc.StatusCode.FAILED_PRECONDITION, f"job is not running: {JOB_ID} (current status: COMPLETED)", 1),
        (grpc.StatusCode.INTERNAL, "cgroup setup failed: permission denied", 1),
        (grpc.StatusCode.UNIMPLEMENTED, "volumes is not implemented yet", 1),
    ],
)
def test_errors_of_the_server(rnx: Rnx, gateway: Gateway, code: grpc.StatusCode, text: str, exit_code: int) -> None:
    gateway.failures = [(code, text)] * 2
    result = rnx(*gateway.flags, "stop", JOB_ID)
    assert (result.code, result.out, result.err) == (exit_code, b"", f"Error: {text}\n")
    as_json = rnx(*gateway.flags, "--json", "stop", JOB_ID)
    assert (as_json.code, as_json.out) == (exit_code, b"")
    assert json.loads(as_json.err) == {"code": code.name, "message": text, "details": []}


def test_the_hint_of_the_server(rnx: Rnx, gateway: Gateway) -> None:
    gateway.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "too much")] * 2
    gateway.trailing = (("joblet-hint", "say less, na%C3%AFve one"),)
    assert rnx(*gateway.flags, "stop", JOB_ID).err == "Error: too much\nHint: say less, naïve one\n"
    assert json.loads(rnx(*gateway.flags, "--json", "stop", JOB_ID).err)["details"] == [{"hint": "say less, naïve one"}]


def test_a_server_that_does_not_answer(rnx: Rnx, gateway: Gateway) -> None:
    gateway.failures = [(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")]
    result = rnx(*gateway.flags, "stop", JOB_ID)
    assert (result.code, result.err) == (3, f"Error: no answer from {gateway.address} within 30 s\n")


def test_status_prints_the_transcript(rnx: Rnx, gateway: Gateway) -> None:
    result = rnx(*gateway.flags, "job", "status", JOB_ID)
    assert (result.code, result.err) == (0, "")
    assert result.out.decode() == (
        f"Id: {JOB_ID}\n"
        "Command: python3 script.py\n"
        "Status: RUNNING\n"
        f"Started At: {STARTED}\n"
        "Ended At: \n"
        "MaxCPU: 50\n"
        "MaxMemory: 512\n"
        "MaxIOBPS: 0\n"
        "ExitCode: 0\n"
        "Network: host (shared with system)\n"
    )
    assert gateway.requests == [api.GetJobStatusReq(uuid=JOB_ID)]


def test_status_in_detail(rnx: Rnx, gateway: Gateway) -> None:
    gateway.job = a_job(
        status="FAILED", exitCode=137, signal=9, reason="oom", message="out of memory", usage=api.Usage(oomKills=1)
    )
    lines = rnx(*gateway.flags, "status", "--detail", JOB_ID).lines
    assert "Reason: oom (out of memory)" in lines
    assert "Signal: 9" in lines
    assert "OOMKills: 1" in lines


def test_status_as_json(rnx: Rnx, gateway: Gateway) -> None:
    found = json.loads(rnx(*gateway.flags, "--json", "status", JOB_ID).out)
    assert found["uuid"] == JOB_ID
    assert found["args"] == ["script.py"]
    assert found["maxIOBPS"] == 0
    assert found["usage"] is None
    assert found.keys() == {field.name for field in api.GetJobStatusRes.DESCRIPTOR.fields}


def test_stop_prints_the_transcript(rnx: Rnx, gateway: Gateway) -> None:
    gateway.job = a_job(status="STOPPED", exitCode=-1, endTime=ENDED)
    assert rnx(*gateway.flags, "job", "stop", JOB_ID).out.decode() == (
        f"Job stopped successfully:\nID: {JOB_ID}\nStatus: STOPPED\nExitCode: -1\nEndTime: {ENDED}\n"
    )
    assert json.loads(rnx(*gateway.flags, "--json", "job", "stop", JOB_ID).out)["exitCode"] == -1


def test_cancel(rnx: Rnx, gateway: Gateway) -> None:
    gateway.job = a_job(status="CANCELED", exitCode=-1, endTime=ENDED)
    for verb in (("cancel",), ("job", "cancel")):
        assert rnx(*gateway.flags, *verb, JOB_ID).out.decode() == (
            f"Job canceled:\nID: {JOB_ID}\nStatus: CANCELED\nEndTime: {ENDED}\n"
        )
    assert json.loads(rnx(*gateway.flags, "--json", "job", "cancel", JOB_ID).out)["status"] == "CANCELED"


def test_what_a_job_waits_for(rnx: Rnx, gateway: Gateway) -> None:
    gateway.job = a_job(
        status="PENDING", reason="memory", message="waiting for memory", queuePosition=2, queueLength=9, priority=5
    )
    assert rnx(*gateway.flags, "run", "x").lines[-1] == "Reason: memory (waiting for memory)"
    lines = rnx(*gateway.flags, "job", "status", "--detail", JOB_ID).lines
    assert {"Reason: memory (waiting for memory)", "Priority: 5", "QueuePosition: 2 of 9"} <= set(lines)
