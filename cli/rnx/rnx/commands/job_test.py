import base64
import json
import os
from pathlib import Path

import grpc
import pytest

from joblet.api import job_pb2 as api
from rnx.conftest import ENDED, JOB_ID, STARTED, Gateway, Rnx, a_job
from rnx.params import MAX_REQUEST_BYTES

LOGS = f"Logs for job {JOB_ID} (Press Ctrl+C to exit if streaming):\n"


def test_run_prints_the_transcript(rnx: Rnx, gateway: Gateway) -> None:
    gateway.job = a_job(status="INITIALIZING")
    arguments = ("--max-cpu=50", "--max-memory=512", "python3", "script.py")
    for verb in (("run",), ("job", "run")):
        result = rnx(*gateway.flags, *verb, *arguments)
        assert (result.code, result.err) == (0, "")
        assert result.out.decode() == (
            "Job started:\n"
            f"ID: {JOB_ID}\n"
            "Command: python3 script.py\n"
            "Status: INITIALIZING\n"
            f"StartTime: {STARTED}\n"
            "MaxCPU: 50\n"
            "MaxMemory: 512\n"
            "Network: host (shared with system)\n"
        )
    assert gateway.requests[-1].command == "python3"
    assert list(gateway.requests[-1].args) == ["script.py"]


def test_every_flag_of_run_reaches_the_request(rnx: Rnx, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "taken over")
    rnx(
        *gateway.flags, "run", "--max-cpu=150", "--max-memory", "64", "--max-iobps=1000", "--max-processes=7",
        "--cpu-cores=1,0,3", "--network=none", "--env", "A=1", "-e", "B=x=y", "-e", "FROM_HERE", "--name=first",
        "--workdir=/tmp", "--timeout=1h30m", "--request-id=mine", "echo",
    )  # fmt: skip
    assert gateway.requests == [
        api.RunJobReq(
            command="echo", maxCPU=150, maxMemory=64, maxIOBPS=1000, maxProcesses=7, cpuCores="0-1,3", network="none",
            environment={"A": "1", "B": "x=y", "FROM_HERE": "taken over"}, name="first", workDir="/tmp",
            timeoutSeconds=5400, requestId="mine",
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (["sh", "-c", "ls -l"], ["sh", "-c", "ls -l"]),
        (["sh", "--max-cpu=abc", "--json", "--help"], ["sh", "--max-cpu=abc", "--json", "--help"]),
        (["--", "-odd", "-c"], ["-odd", "-c"]),
        (["sh", "-c", "--", "x"], ["sh", "-c", "--", "x"]),
        (["echo", "", "a b", "\n", "naïve"], ["echo", "", "a b", "\n", "naïve"]),
    ],
)
def test_flags_end_where_the_command_begins(rnx: Rnx, gateway: Gateway, arguments: list[str], sent: list[str]) -> None:
    assert rnx(*gateway.flags, "run", "--max-cpu=50", *arguments).code == 0
    request = gateway.requests[-1]
    assert [request.command, *request.args] == sent
    assert request.maxCPU == 50


def test_uploads_ride_along(rnx: Rnx, gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_bytes(b"print(1)\n\x00\xff")
    (tmp_path / "tool").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "script.py").chmod(0o640)
    (tmp_path / "tool").chmod(0o755)
    assert rnx(*gateway.flags, "run", "--upload=script.py", "--upload", tmp_path / "tool", "./tool").code == 0
    assert list(gateway.requests[-1].uploads) == [
        api.FileUpload(path="script.py", content=b"print(1)\n\x00\xff", mode=0o640, size=11),
        api.FileUpload(path="tool", content=b"#!/bin/sh\n", mode=0o755, size=10),
    ]


def test_uploads_that_are_refused_before_anything_is_sent(rnx: Rnx, gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(MAX_REQUEST_BYTES + 1))
    (tmp_path / "half").write_bytes(bytes(MAX_REQUEST_BYTES - 10))
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/half").touch()
    os.mkfifo(tmp_path / "pipe")
    refusals = {
        ("big",): f"--upload big: {MAX_REQUEST_BYTES + 1} bytes: too large to travel with the job",
        ("half",): "bytes: too large to travel with the job",
        ("absent",): "--upload absent: no such file or directory",
        ("dir",): "--upload dir: not a regular file",
        ("pipe",): "--upload pipe: not a regular file",
        ("dir/half", "half"): "--upload half: there is already a file of the name half",
    }
    for files, text in refusals.items():
        result = rnx(*gateway.flags, "run", *(f"--upload={file}" for file in files), "true")
        assert result.code == 2
        assert text in result.err.splitlines()[0]
    assert gateway.requests == []


def test_values_that_cannot_be_sent(rnx: Rnx, gateway: Gateway) -> None:
    for arguments in (["-e", "=x", "true"], ["-e", "NOT_SET_HERE", "true"], ["true", "\udcff"]):
        assert rnx(*gateway.flags, "run", *arguments).code == 2
    assert gateway.requests == []


def test_a_lost_answer_is_asked_for_again_with_the_same_request_id(rnx: Rnx, gateway: Gateway) -> None:
    gateway.failures = [(grpc.StatusCode.UNAVAILABLE, "going away"), (grpc.StatusCode.CANCELLED, "Cancelled")]
    assert rnx(*gateway.flags, "run", "true").code == 0
    assert len(gateway.requests) == 3
    assert len({request.requestId for request in gateway.requests}) == 1
    assert rnx(*gateway.flags, "run", "true").code == 0
    assert len({request.requestId for request in gateway.requests}) == 2


def test_a_gateway_that_stays_unavailable(rnx: Rnx, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rnx.client.RETRY_SECONDS", 0.2)
    gateway.failures = [(grpc.StatusCode.UNAVAILABLE, "no node is registered")] * 9
    result = rnx(*gateway.flags, "run", "true")
    assert (result.code, result.err) == (1, "Error: no node is registered\n")


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


def three_jobs(gateway: Gateway) -> None:
    """Three jobs on two pages."""
    completed = api.Job(id=JOB_ID, status="COMPLETED", startTime=STARTED, command="echo", args=["hello"])
    running = api.Job(id="6ba7b810", name="named", status="RUNNING", startTime=STARTED, command="python3")
    failed = api.Job(id="6ba7b811", status="FAILED", exitCode=127, command="invalid\ncommand")
    gateway.pages = [api.Jobs(jobs=[completed, running], nextPageToken="1"), api.Jobs(jobs=[failed])]


def test_list_prints_a_line_a_job(rnx: Rnx, gateway: Gateway) -> None:
    three_jobs(gateway)
    assert rnx(*gateway.flags, "job", "list").lines == [
        f"{JOB_ID} COMPLETED StartTime: {STARTED} Command: echo hello",
        f"6ba7b810 RUNNING StartTime: {STARTED} Command: python3",
        r"6ba7b811 FAILED StartTime:  Command: invalid\ncommand",
    ]
    assert [request.pageToken for request in gateway.requests] == ["", "1"]


def test_list_as_a_table_and_as_json(rnx: Rnx, gateway: Gateway) -> None:
    three_jobs(gateway)
    title, _, first, second, third = rnx(*gateway.flags, "list", "-o", "table").lines
    assert title.split() == ["JOB", "ID", "JOB", "NAME", "STATUS", "EXIT", "CODE", "START", "TIME", "COMMAND"]
    assert first.split() == [JOB_ID, "-", "COMPLETED", "0", STARTED, "echo", "hello"]
    assert second.split() == ["6ba7b810", "named", "RUNNING", "-", STARTED, "python3"]
    assert third.split() == ["6ba7b811", "-", "FAILED", "127", "-", r"invalid\ncommand"]
    for arguments in (("--json", "list"), ("list", "-o", "json")):
        answer = json.loads(rnx(*gateway.flags, *arguments).out)
        assert [job["id"] for job in answer["jobs"]] == [JOB_ID, "6ba7b810", "6ba7b811"]
    gateway.pages = [api.Jobs()]
    assert json.loads(rnx(*gateway.flags, "--json", "list").out) == {"jobs": []}
    assert rnx(*gateway.flags, "list").out == b""


def test_log_is_exactly_the_bytes(rnx: Rnx, gateway: Gateway) -> None:
    gateway.output = bytes(range(256)) * 100 + b"no newline at the end"
    result = rnx(*gateway.flags, "job", "log", JOB_ID)
    assert (result.code, result.err) == (0, LOGS)
    assert result.out == gateway.output
    assert rnx(*gateway.flags, "log", "--no-follow", JOB_ID).out == gateway.output
    assert gateway.requests[-1].noFollow


def test_log_goes_on_where_the_connection_was_lost(rnx: Rnx, gateway: Gateway) -> None:
    gateway.output = os.urandom(10_500)
    gateway.cut_output_at = [0, 3000, 10_000]
    result = rnx(*gateway.flags, "log", JOB_ID)
    assert (result.code, result.out) == (0, gateway.output)
    assert [r.offset for r in gateway.requests if isinstance(r, api.GetJobLogsReq)] == [0, 0, 3000, 10_000]
    assert result.err.startswith(LOGS)
    assert "Connection lost; going on at byte 3000 ..." in result.err


def test_log_of_an_unknown_job_has_no_heading(rnx: Rnx, gateway: Gateway) -> None:
    gateway.failures = [(grpc.StatusCode.NOT_FOUND, "job not found: 0000")] * 2
    result = rnx(*gateway.flags, "log", "0000")
    assert (result.code, result.err) == (4, "Error: job not found: 0000\n")


def test_log_as_json(rnx: Rnx, gateway: Gateway) -> None:
    gateway.output = os.urandom(2500)
    result = rnx(*gateway.flags, "log", "--json", JOB_ID)
    assert (result.code, result.err) == (0, "")
    chunks = [json.loads(line) for line in result.lines]
    assert [chunk["offset"] for chunk in chunks] == [0, 1000, 2000]
    assert b"".join(base64.b64decode(chunk["payload"]) for chunk in chunks) == gateway.output
