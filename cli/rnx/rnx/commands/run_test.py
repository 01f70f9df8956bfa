import os
from pathlib import Path

import grpc
import pytest

from joblet.api import job_pb2 as api
from rnx.conftest import JOB_ID, STARTED, Gateway, Rnx, a_job


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
    monkeypatch.setenv("FROM_HERE_TOO", "too")
    Path(".env").write_text("C=3\nA=overridden\n")
    Path(".secret").write_text("T='two'\n")
    rnx(
        *gateway.flags, "run", "--max-cpu=150", "--max-memory", "64", "--max-iobps=1000", "--max-processes=7",
        "--cpu-cores=1,0,3", "--network=none", "--env", "A=1", "-e", "B=x=y", "-e", "FROM_HERE", "--env-file=.env",
        "-s", "FROM_HERE_TOO", "--secret-env=S=1", "--secret-env-file=.secret", "--name=first", "-l", "team=a",
        "--label=b=",
        "--workdir=/tmp", "--timeout=1h30m", "--request-id=mine", "--priority=-7",
        "--schedule=2030-01-31T22:00+01:00", "--retries=3", "--retry-backoff=10s", "--no-retry-on=2,64-65", "echo",
    )  # fmt: skip
    assert gateway.requests == [
        api.RunJobReq(
            command="echo", maxCPU=150, maxMemory=64, maxIOBPS=1000, maxProcesses=7, cpuCores="0-1,3", network="none",
            environment={"A": "1", "B": "x=y", "C": "3", "FROM_HERE": "taken over"},
            secretEnvironment={"FROM_HERE_TOO": "too", "S": "1", "T": "two"}, name="first",
            labels={"team": "a", "b": ""}, workDir="/tmp",
            timeoutSeconds=5400, requestId="mine", priority=-7, schedule="2030-01-31T21:00:00Z",
            retry=api.RetryPolicy(maxRetries=3, backoffSeconds=10, nonRetriableExitCodes=[2, 64, 65]),
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
    (tmp_path / "half").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/half").touch()
    os.mkfifo(tmp_path / "pipe")
    refusals = {
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
    for arguments in (
        ["-e", "=x", "true"],
        ["-e", "NOT_SET_HERE", "true"],
        ["true", "\udcff"],
        ["-l", "x", "true"],
        ["-s", "A=canary", "-e", "A=1", "true"],
        ["-s", "A=canary\udcff", "true"],
        ["-s", "=canary", "true"],
    ):
        result = rnx(*gateway.flags, "run", *arguments)
        assert result.code == 2
        assert "canary" not in result.err
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
