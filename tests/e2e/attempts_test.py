"""What each attempt of a retried job left is there until the job is deleted: its outputs and its log."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from local_system import CLEAN_ENVIRONMENT, RNX, LocalSystem, give_a_lease, local_system, wait_for
from service_settings import set_service

pytestmark = pytest.mark.root

# Leaves its number, and succeeds in its third attempt.
FLAKY = 'echo "$JOB_ATTEMPT" > number; head -c "${1:-0}" /dev/zero > rest; test "$JOB_ATTEMPT" -gt 2'


def attempts_of(system: LocalSystem, job_id: str) -> list[dict[str, Any]]:
    attempts = system.json("job", "status", job_id)["attempts"]
    assert isinstance(attempts, list)
    return attempts


def number_of(system: LocalSystem, job_id: str, *flags: str) -> str:
    """What the attempt wrote into its output `number`."""
    return system.output("job", "get", job_id, "number", "-o", "-", *flags).strip()


def traces(system: LocalSystem) -> list[str]:
    """Where nodes keep something of single jobs."""
    state = system.directory / "state"
    kept = [state / "executor/outputs", state / "executor/jobs", state / "logstore"]
    return sorted(str(path) for directory in kept if directory.exists() for path in directory.iterdir())


def test_outputs_of_every_attempt_survive_an_executor_and_go_with_the_job(
    own_joblet: LocalSystem, tmp_path: Path
) -> None:
    before = traces(own_joblet)
    job_id = own_joblet.run("--retries=3", "--retry-backoff=1s", "--output=number", "sh", "-c", FLAKY)
    wait_for("the first attempt's end", lambda: len(attempts_of(own_joblet, job_id)) > 1)
    own_joblet.kill("executor")
    own_joblet.output("job", "get", "--list", "--attempt=1", job_id)
    assert number_of(own_joblet, job_id, "--attempt=1") == "1", "before the end of the job"
    own_joblet.output("job", "wait", job_id)
    own_joblet.kill("executor")
    own_joblet.output("job", "get", "--list", job_id)
    assert [number_of(own_joblet, job_id, f"--attempt={number}") for number in (1, 2, 3)] == ["1", "2", "3"]
    assert number_of(own_joblet, job_id) == "3"

    own_joblet.output("job", "get", job_id, "--attempt=2", "-o", tmp_path / "second")
    assert (tmp_path / "second/number").read_text() == "2\n"
    listed = own_joblet.rnx("job", "get", "--list", job_id)
    assert listed.stderr.decode() == "Outputs of attempt 3; attempts that have outputs, too: 1, 2 (--attempt)\n"
    assert listed.stdout.decode().split()[-1] == "number"
    answer = own_joblet.json("job", "get", "--list", "--attempt=1", job_id)
    assert (answer["attempt"], [some["number"] for some in _list(answer["attempts"])]) == (1, [1, 2, 3])
    beyond = own_joblet.rnx("job", "get", "--attempt=4", job_id)
    assert f"job not found: {job_id}, attempt 4" in beyond.stderr.decode()

    own_joblet.output("job", "delete", job_id)
    wait_for("everything gone", lambda: traces(own_joblet) == before)


def _list(value: object) -> list[dict[str, Any]]:
    assert isinstance(value, list)
    return value


def test_all_attempts_together_keep_what_one_job_may(own_joblet: LocalSystem) -> None:
    set_service(own_joblet, "executor", outputMaxMb=2)
    job_id = own_joblet.run("--retries=3", "--retry-backoff=1s", "--output=*", "sh", "-c", FLAKY, "sh", str(900 * 1024))
    own_joblet.output("job", "wait", job_id)
    answer = own_joblet.json("job", "get", "--list", job_id)
    assert [some["number"] for some in _list(answer["attempts"])] == [2, 3]
    message = "outputs removed of attempt 1: with those of later ones they are more than one job may keep"
    assert [attempt["message"] for attempt in attempts_of(own_joblet, job_id)] == ["", "", message]
    gone = own_joblet.rnx("job", "get", "--attempt=1", job_id)
    assert f"no outputs are kept of job {job_id}, attempt 1" in gone.stderr.decode()
    assert "outputs are kept of attempt 2, 3: rnx job get --attempt" in gone.stderr.decode()


# Three attempts; the last line of each has no newline.
TALKING = 'echo "$JOB_ATTEMPT one"; echo "$JOB_ATTEMPT two"; printf "$JOB_ATTEMPT end"; test "$JOB_ATTEMPT" -gt 2'
LINES = [b"%d %s" % (attempt, text) for attempt in (1, 2, 3) for text in (b"one\n", b"two\n", b"end")]
STAMP = re.compile(rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ")


def test_options_of_the_log_go_through_all_attempts(joblet: LocalSystem) -> None:
    job_id = joblet.run("--retries=2", "--retry-backoff=1s", "sh", "-c", TALKING)
    followed = joblet.rnx("job", "log", job_id)
    assert followed.stdout == b"".join(LINES)
    said = followed.stderr.decode().splitlines()[1:]
    assert said == ["Attempt 2, from byte 17:", "Attempt 3, from byte 34:"]

    def log(*flags: str) -> bytes:
        done = joblet.rnx("job", "log", *flags, job_id)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    for count in (0, 1, 3, 4, 8, 9, 100):
        assert log(f"--tail={count}") == log("-n", str(count), "--no-follow") == b"".join(LINES[-count or 9 :])
    assert log("--attempt=2", "-n2") == b"2 two\n2 end"
    second = joblet.json("job", "status", job_id)["attempts"]
    assert isinstance(second, list)
    between = second[1]["startTime"]
    assert log(f"--since={between}") == b"".join(LINES[3:])
    assert log(f"--until={between}") == b"".join(LINES[:3])
    assert log(f"--since={between}", "-n", "4") == b"".join(LINES[-4:])
    assert log(f"--until={between}", "-n", "2") == b"".join(LINES[1:3])
    assert log("--since=1h", "--until=0", "--no-follow") == b"".join(LINES)
    assert log("--attempt=1", f"--since={between}") == b""

    stamped = log("-t").splitlines()
    assert [STAMP.sub(b"", line) for line in stamped] == [line.rstrip(b"\n") for line in LINES]
    times = [STAMP.match(line)[1] for line in stamped]  # type: ignore[index]
    assert times == sorted(times)
    chunks = [json.loads(line) for line in joblet.output("--json", "job", "log", "-n4", job_id).splitlines()]
    assert [chunk["attempt"] for chunk in chunks] == [2, 3]
    assert chunks[0]["offset"] == 17 + 12


# Until the other side goes away.
HELD = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(1)"


def test_the_last_lines_and_what_comes_while_services_are_killed(own_joblet: LocalSystem) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holding:
        script = f'test "$JOB_ATTEMPT" != 2 || python3 -c "$1" "$2" 2>/dev/null; {TALKING}'
        port = str(holding.getsockname()[1])
        job_id = own_joblet.run(
            "--network=host", "--retries=2", "--retry-backoff=1s", "sh", "-c", script, "sh", HELD, port
        )  # fmt: skip
        held, _ = holding.accept()
        config = str(own_joblet.directory / "rnx-config.yml")
        command = [str(RNX), "--config", config, "job", "log", "-n", "2", job_id]
        with (
            held,
            subprocess.Popen(command, env=CLEAN_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as log,
        ):
            assert log.stdout is not None
            begin = log.stdout.read(len(LINES[1] + LINES[2]))
            own_joblet.kill("gateway")
            own_joblet.kill("logstore")
            held.close()
            rest, said = log.communicate(timeout=120)
    assert log.returncode == 0, said.decode()
    assert begin + rest == b"".join(LINES[1:])


def test_a_reader_finds_its_place_behind_an_attempt_that_was_lost(clean_machine: None, tmp_path: Path) -> None:
    """Also when the gateway, which has seen how much it had read, is not there any more."""
    give_a_lease(tmp_path / "jbtest", 3)
    with local_system(tmp_path / "jbtest") as system, socket.create_server(("127.0.0.1", 0)) as holding:
        script = 'echo "$JOB_ATTEMPT one"; python3 -c "$1" "$2" 2>/dev/null; echo "$JOB_ATTEMPT two"'
        port = str(holding.getsockname()[1])
        job_id = system.run(
            "--network=host", "--retries=1", "--retry-backoff=1s", "sh", "-c", script, "sh", HELD, port
        )  # fmt: skip
        first, _ = holding.accept()
        config = str(system.directory / "rnx-config.yml")
        command = [str(RNX), "--config", config, "job", "log", job_id]
        with (
            first,
            subprocess.Popen(command, env=CLEAN_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as log,
        ):
            assert log.stdout is not None
            assert log.stdout.read(len(b"1 one\n")) == b"1 one\n"
            executor = system.pids()["executor"]
            os.kill(executor, signal.SIGSTOP)
            try:
                wait_for("the lost attempt's end", lambda: attempts_of(system, job_id)[0]["reason"] == "node-lost")
            finally:
                os.kill(executor, signal.SIGCONT)
            second, _ = holding.accept()
            with second:
                assert log.stdout.read(len(b"2 one\n")) == b"2 one\n"
                system.kill("gateway")
            rest, said = log.communicate(timeout=120)
    assert (log.returncode, rest) == (0, b"2 two\n"), said.decode()
    assert "How much was written from byte 6 on is not known, up to the next attempt." in said.decode()
