"""Waiting for jobs, with `wait` and with `run --wait` and `--follow`: what is printed and the exit code."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from joblet.api import job_pb2 as api
from rnx import client
from rnx.conftest import ENDED, JOB_ID, Gateway, Rnx, a_job

# A shell that starts tests in the background has them ignore SIGINT, and what they start inherits that.
RNX = ["env", "--default-signal=INT", sys.executable, "-m", "rnx"]

ENDS = [
    ({"status": "COMPLETED", "reason": "exit"}, 0),
    ({"status": "FAILED", "exitCode": 7, "reason": "exit"}, 7),
    ({"status": "FAILED", "exitCode": 255, "reason": "exit"}, 255),
    ({"status": "FAILED", "exitCode": 137, "signal": 9, "reason": "oom"}, 137),
    ({"status": "FAILED", "exitCode": -1, "reason": "node-lost"}, 125),
    ({"status": "STOPPED", "exitCode": -1, "reason": "stopped"}, 143),
    ({"status": "STOPPED", "exitCode": -1, "reason": "timeout"}, 124),
    ({"status": "CANCELED", "exitCode": -1}, 143),
]


@pytest.mark.parametrize(("end", "code"), ENDS)
@pytest.mark.parametrize("arguments", [("wait", JOB_ID), ("run", "--wait", "true"), ("run", "-f", "true")])
def test_the_exit_code_is_the_jobs(
    rnx: Rnx, gateway: Gateway, end: dict[str, object], code: int, arguments: tuple[str, ...]
) -> None:
    gateway.job = a_job(**end)
    assert rnx(*gateway.flags, *arguments).code == code


def test_wait_prints_how_each_job_ended(rnx: Rnx, gateway: Gateway) -> None:
    gateway.job = a_job(status="FAILED", exitCode=7, endTime=ENDED, reason="exit")
    block = f"Job ended:\nID: {JOB_ID}\nStatus: FAILED\nExitCode: 7\nEndTime: {ENDED}\nReason: exit\n"
    result = rnx(*gateway.flags, "job", "wait", "f47a", "f47b")
    assert (result.code, result.out.decode(), result.err) == (7, 2 * block, "")
    assert [(type(request), request.uuid) for request in gateway.requests] == [
        (api.GetJobStatusReq, "f47a"), (api.GetJobStatusReq, "f47b"),
        (api.WaitJobReq, "f47a"), (api.WaitJobReq, "f47b"),
    ]  # fmt: skip
    answer = json.loads(rnx(*gateway.flags, "--json", "wait", "f47a").out)
    assert [job["exitCode"] for job in answer["jobs"]] == [7]


def test_run_and_wait(rnx: Rnx, gateway: Gateway) -> None:
    gateway.job = a_job(status="COMPLETED", endTime=ENDED)
    result = rnx(*gateway.flags, "run", "--wait", "true")
    assert [line for line in result.lines if line.endswith(":")] == ["Job started:", "Job ended:"]
    assert [type(request) for request in gateway.requests] == [api.RunJobReq, api.WaitJobReq]
    assert json.loads(rnx(*gateway.flags, "--json", "run", "--wait", "true").out)["endTime"] == ENDED


def test_run_and_follow_prints_the_output_and_nothing_else(rnx: Rnx, gateway: Gateway) -> None:
    gateway.job = a_job(status="FAILED", exitCode=7, reason="exit")
    gateway.output = os.urandom(2500)
    result = rnx(*gateway.flags, "run", "--follow", "sh", "-c", "exit 7")
    assert (result.code, result.out) == (7, gateway.output)
    assert result.err == (
        f"Job {JOB_ID} started (Ctrl+C leaves; the job goes on)\nJob {JOB_ID} FAILED, exit code 7. Reason: exit\n"
    )
    as_json = rnx(*gateway.flags, "--json", "run", "--follow", "true")
    chunks = [base64.b64decode(json.loads(line)["payload"]) for line in as_json.lines]
    assert b"".join(chunks) == gateway.output


def test_the_time_to_wait_is_over(rnx: Rnx, gateway: Gateway) -> None:
    gateway.ended = threading.Event()
    result = rnx(*gateway.flags, "wait", "--timeout=1s", "f47a")
    assert (result.code, result.out) == (124, b"")
    assert result.err == f"Error: job {JOB_ID} has not ended yet (current status: RUNNING)\n"
    as_json = rnx(*gateway.flags, "--json", "wait", "--timeout=1s", "f47a")
    assert (as_json.code, json.loads(as_json.err)["code"]) == (124, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize(
    "arguments",
    [
        ("wait",),
        ("wait", "--timeout=soon", "f47a"),
        ("run", "--wait"),
        ("run", "--bogus", "--follow", "true"),
        ("run", "--max-cpu=x", "--wait", "true"),
        ("run", "--wait", "--upload=absent", "true"),
    ],
)
def test_wrong_usage_is_not_taken_for_an_exit_code_of_the_job(
    rnx: Rnx, gateway: Gateway, arguments: tuple[str, ...]
) -> None:
    result = rnx(*gateway.flags, *arguments)
    assert (result.code, result.out) == (125, b"")
    assert result.err.startswith("Error: ")
    assert gateway.requests == []


def test_an_id_that_names_no_job_is_told_before_another_is_waited_for(rnx: Rnx, gateway: Gateway) -> None:
    gateway.failures = [None, (grpc.StatusCode.NOT_FOUND, "job not found: f47b")]
    result = rnx(*gateway.flags, "wait", "f47a", "f47b")
    assert (result.code, result.out, result.err) == (125, b"", "Error: job not found: f47b\n")
    assert [type(request) for request in gateway.requests] == [api.GetJobStatusReq] * 2


def test_json_has_the_jobs_that_have_ended_when_another_cannot_be_waited_for(rnx: Rnx, gateway: Gateway) -> None:
    gateway.job = a_job(status="COMPLETED", reason="exit")
    gateway.failures = [None, None, None, (grpc.StatusCode.NOT_FOUND, "job not found: f47b")]
    result = rnx(*gateway.flags, "--json", "wait", "f47a", "f47b")
    assert (result.code, [job["status"] for job in json.loads(result.out)["jobs"]]) == (125, ["COMPLETED"])
    assert json.loads(result.err)["message"] == "job not found: f47b"


def test_failures_of_rnx_are_not_taken_for_the_jobs(rnx: Rnx, gateway: Gateway) -> None:
    gateway.failures = [(grpc.StatusCode.NOT_FOUND, "job not found: f47a")]
    assert rnx(*gateway.flags, "wait", "f47a").code == 125
    assert rnx(*gateway.flags, "wait", "--server=127.0.0.1:1", "f47a").code == 125
    assert rnx(*gateway.flags, "run", "--server=127.0.0.1:1", "--wait", "true").code == 125
    assert rnx(*gateway.flags, "run", "--server=127.0.0.1:1", "true", "--wait").code == 3


@pytest.mark.parametrize("arguments", [("true",), ("--wait", "true"), ("--follow", "--stop-on-interrupt", "true")])
def test_ctrl_c_before_there_is_an_answer(gateway: Gateway, arguments: tuple[str, ...]) -> None:
    asked, answer = threading.Event(), threading.Event()

    def asking(_: object) -> None:
        asked.set()
        answer.wait(120)

    gateway.on_request = asking
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [*RNX, *gateway.flags, "run", "--request-id=it's mine", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert asked.wait(120)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        answer.set()
        process.kill()
        process.wait()
    assert (process.returncode, out) == (130, b"")
    assert b"the job may have been accepted, or not." in err
    assert b"rnx job list" in err
    assert b"""rnx job run --request-id='it'"'"'s mine' ...""" in err
    assert [type(request) for request in gateway.requests] == [api.RunJobReq]


def test_no_answer_in_time(rnx: Rnx, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    gateway.on_request = lambda _: answer.wait(120)
    monkeypatch.setattr(client, "CALL_SECONDS", 0.5)
    try:
        result = rnx(*gateway.flags, "run", "--request-id=mine", "true")
    finally:
        answer.set()
    assert result.code == 3
    assert result.err == (
        f"Error: no answer from {gateway.address} within 0.5 s\n"
        "Hint: the job may have been accepted, or not; `rnx job run --request-id=mine ...` gives it, or starts it now\n"
    )


def test_stop_on_interrupt_goes_with_waiting(rnx: Rnx, gateway: Gateway) -> None:
    result = rnx(*gateway.flags, "run", "--stop-on-interrupt", "true")
    assert result.code == 2
    assert result.err.startswith("Error: --stop-on-interrupt goes with --wait or --follow\n")
    assert gateway.requests == []


def test_waiting_goes_on_after_a_restart_of_the_gateway(rnx: Rnx, gateway: Gateway) -> None:
    gateway.job = a_job(status="COMPLETED")
    gateway.failures = [(grpc.StatusCode.UNAVAILABLE, "going away"), (grpc.StatusCode.CANCELLED, "Cancelled")]
    assert rnx(*gateway.flags, "wait", "f47a").code == 0
    assert len(gateway.requests) == 3


@contextmanager
def waiting_process(gateway: Gateway, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """rnx in a process of its own, once it waits for the end of the job."""
    gateway.ended = threading.Event()
    seen = threading.Event()
    gateway.on_request = lambda request: seen.set() if isinstance(request, api.WaitJobReq) else None
    with subprocess.Popen(
        [*RNX, *gateway.flags, *arguments],
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert seen.wait(120)
            yield process
        finally:
            gateway.ended.set()
            process.kill()


def test_ctrl_c_leaves_and_says_how_to_come_back(gateway: Gateway) -> None:
    with waiting_process(gateway, "run", "--wait", "true") as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out.startswith("Job started:\n")
    assert f"Left: job {JOB_ID} goes on.\n" in err
    assert f"rnx job wait {JOB_ID}" in err
    assert not [request for request in gateway.requests if isinstance(request, api.StopJobReq)]


def test_ctrl_c_as_soon_as_the_job_is_shown(
    rnx: Rnx, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def shown(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rnx.attend.show", shown)
    with pytest.raises(KeyboardInterrupt):
        rnx(*gateway.flags, "run", "--wait", "true")
    assert f"rnx job wait {JOB_ID}" in capfdbinary.readouterr().err.decode()


def test_ctrl_c_stops_the_job_when_asked_to(gateway: Gateway) -> None:
    with waiting_process(gateway, "run", "--wait", "--stop-on-interrupt", "true") as process:
        gateway.job = a_job(status="STOPPED", exitCode=-1, reason="stopped")
        stopped = gateway.ended
        assert stopped is not None
        gateway.on_request = lambda request: stopped.set() if isinstance(request, api.StopJobReq) else None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (143, "\nStopping the job; Ctrl+C again leaves at once.\n")
    assert "Status: STOPPED\n" in out


def test_a_second_ctrl_c_leaves_at_once(gateway: Gateway) -> None:
    with waiting_process(gateway, "run", "--wait", "--stop-on-interrupt", "true") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        assert process.stderr.readline().startswith("Stopping the job")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"Left: job {JOB_ID} goes on." in err
