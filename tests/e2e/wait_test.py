"""`rnx job run --wait`, `--follow`, `rnx job wait`: the job's output and exit code become rnx's, whatever restarts."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from local_system import CALL_SECONDS, CLEAN_ENVIRONMENT, RNX, LocalSystem, wait_for

pytestmark = pytest.mark.root


@contextmanager
def attached(joblet: LocalSystem, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """An rnx that stays with its job. Background jobs of a shell ignore Ctrl+C: this one does not."""
    with subprocess.Popen(
        ["env", "--default-signal=INT", RNX, "--config", joblet.directory / "rnx-config.yml", *arguments],
        env=CLEAN_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def printed_id(process: subprocess.Popen[str]) -> str:
    """The id in what `run --wait` prints first."""
    assert process.stdout is not None
    assert process.stdout.readline() == "Job started:\n"
    return process.stdout.readline().removeprefix("ID: ").strip()


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
def test_exit_codes(joblet: LocalSystem, code: int) -> None:
    assert joblet.rnx("job", "run", "--wait", "sh", "-c", f"exit {code}").returncode == code
    job_id = joblet.run("sh", "-c", f"exit {code}")
    assert joblet.rnx("job", "wait", job_id[:8]).returncode == code


def test_other_ends(joblet: LocalSystem) -> None:
    assert joblet.rnx("run", "--wait", "sh", "-c", "kill -9 $$").returncode == 137
    assert joblet.rnx("run", "--wait", "no-such-command").returncode == 127
    assert joblet.rnx("run", "--wait", "--timeout=1s", "sleep", "1000").returncode == 124
    refused = joblet.rnx("run", "--wait", "--max-memory=2147483647", "true")
    assert (refused.returncode, refused.stdout) == (125, b"")
    assert joblet.rnx("wait", "00000000").returncode == 125
    running = joblet.run("sleep", "1000")
    assert joblet.rnx("wait", "--timeout=1s", running).returncode == 124
    joblet.output("stop", running)
    assert joblet.rnx("wait", running).returncode == 143


def test_follow_is_exactly_the_output(joblet: LocalSystem) -> None:
    script = "head -c 3000000 /dev/urandom >/tmp/x; sha256sum </tmp/x >&2; cat /tmp/x; exit 3"
    done = joblet.rnx("run", "--follow", "sh", "-c", script)
    digest, _, output = done.stdout.partition(b"  -\n")
    assert (done.returncode, hashlib.sha256(output).hexdigest()) == (3, digest.decode())


def test_ctrl_c_leaves_the_job_or_stops_it(joblet: LocalSystem) -> None:
    with attached(joblet, "run", "--wait", "sleep", "1000") as process:
        left = printed_id(process)
        wait_for("RUNNING", lambda: joblet.status(left)["Status"] == "RUNNING")
        process.send_signal(signal.SIGINT)
        assert process.wait(CALL_SECONDS) == 130
        assert process.stderr is not None
        assert f"rnx job wait {left}" in process.stderr.read()
    assert joblet.status(left)["Status"] == "RUNNING"
    joblet.output("stop", left)
    with attached(joblet, "run", "--follow", "--stop-on-interrupt", "sh", "-c", "echo ready; sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(CALL_SECONDS) == 143


def test_waiting_and_following_survive_the_gateway(own_joblet: LocalSystem) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gate:
        script = f"exec 3<>/dev/tcp/127.0.0.1/{gate.getsockname()[1]}; echo one; cat <&3; echo two; exit 9"
        job = ("--network=host", "bash", "-c", script)
        with (
            attached(own_joblet, "run", "--wait", *job) as waiting,
            attached(own_joblet, "run", "--follow", *job) as following,
        ):
            job_id = printed_id(waiting)
            first_end, second_end = gate.accept()[0], gate.accept()[0]
            assert following.stdout is not None
            assert following.stdout.readline() == "one\n"
            own_joblet.kill("gateway")
            first_end.close()
            second_end.close()
            assert following.stdout.read() == "two\n"
            assert [process.wait(CALL_SECONDS) for process in (waiting, following)] == [9, 9]
            assert own_joblet.rnx("wait", job_id).returncode == 9
