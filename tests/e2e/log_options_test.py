"""The parts of a job's output that can be asked for, through rnx, of a running and of an ended job."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from gate import gate
from local_system import CALL_SECONDS, CLEAN_ENVIRONMENT, RNX, LocalSystem, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow]

STAMP = re.compile(rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ", re.MULTILINE)
# Five lines, and five more and the end when the gate opens.
COUNT = """
import socket, sys, time
gate = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for number in range(10):
    if number == 5:
        gate.recv(1)
    print("line", number, flush=True)
    time.sleep(0.02)
print("end", end="")
"""
# A number every 10 ms until the gate opens.
TICKS = """
import select, socket, sys
tick, gate = 1, socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while not select.select([gate], [], [], 0.01)[0]:
    print(tick, flush=True)
    tick += 1
print("the last")
"""
LINES = [*(b"line %d\n" % number for number in range(10)), b"end"]


def lines_of(joblet: LocalSystem, *arguments: str) -> list[bytes]:
    """What `rnx job log` prints, which must succeed."""
    done = joblet.rnx("job", "log", *arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.splitlines(keepends=True)


def follow(joblet: LocalSystem, *arguments: str) -> subprocess.Popen[bytes]:
    """A running `rnx job log`."""
    # A shell's background jobs ignore SIGINT, and so would we.
    take_ctrl_c = ["env", "--default-signal=INT"]
    return subprocess.Popen(
        [*take_ctrl_c, RNX, "--config", joblet.directory / "rnx-config.yml", "job", "log", *arguments],
        env=CLEAN_ENVIRONMENT,
        bufsize=0,  # what a buffer would take ahead, communicate() would not give back
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_lines_times_and_offsets_of_one_job(joblet: LocalSystem) -> None:
    with gate() as half:
        job_id = joblet.run("python3", "-c", COUNT, str(half.port))
        half.wait_for()
        wait_for("the first half", lambda: lines_of(joblet, "--no-follow", job_id) == LINES[:5])
        opened = datetime.now(UTC)
        half.open()
        assert lines_of(joblet, "-n", "100", job_id) == LINES, "followed to the end"
    short = job_id[:8]
    assert lines_of(joblet, "--tail=3", "--no-follow", short) == LINES[-3:]
    assert lines_of(joblet, "--tail=0", short) == []

    stamped = lines_of(joblet, "-t", short)
    times = [datetime.fromisoformat(STAMP.match(line)[1].decode()) for line in stamped]  # type: ignore[index]
    assert [STAMP.sub(b"", line) for line in stamped] == LINES
    assert times == sorted(times)
    assert times[4] < opened < times[5] + timedelta(milliseconds=1)

    middle = times[5].isoformat()
    assert lines_of(joblet, f"--since={middle}", short) == LINES[5:]
    assert lines_of(joblet, f"--until={middle}", short) == LINES[:5]
    assert lines_of(joblet, f"--since={middle}", "-n2", short) == LINES[-2:]
    early = times[2].isoformat()  # a busy machine may take two lines together, which then have one time
    assert lines_of(joblet, f"--since={early}", f"--until={middle}", short) == LINES[times.index(times[2]) : 5]
    assert lines_of(joblet, f"--since={early}", f"--until={middle}", "-n", "2", short) == LINES[3:5]
    assert lines_of(joblet, "--since=1h", "--until=0", short) == LINES
    assert lines_of(joblet, "--until=1h", short) == []

    times_as_json = [json.loads(line) for line in lines_of(joblet, "--json", "-t", "-n1", short)]
    assert [(piece["payload"], piece["times"][0]["position"]) for piece in times_as_json] == [("ZW5k", 0)]


def test_values_that_are_refused(joblet: LocalSystem) -> None:
    job_id = joblet.run("true")
    for arguments, text in (
        (("--since=1m", "--until=2m"), "Error: since must be before until\n"),
        (("--until=1960-01-01",), "Error: until must be a time from 1970 to 2262\n"),
    ):
        done = joblet.rnx("job", "log", *arguments, job_id)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode().endswith(text)


def test_until_ends_while_the_job_runs(joblet: LocalSystem) -> None:
    job_id = joblet.run("sh", "-c", "while echo tick; do sleep 0.02; done")
    wait_for("output", lambda: lines_of(joblet, "--no-follow", job_id))
    now = datetime.now(UTC)
    printed = lines_of(joblet, "-t", f"--until={now.isoformat()}", job_id)
    assert all(datetime.fromisoformat(STAMP.match(line)[1].decode()) <= now for line in printed)  # type: ignore[index]
    assert joblet.status(job_id)["Status"] == "RUNNING"
    joblet.output("job", "stop", job_id)


def test_ctrl_c_and_a_closed_pipe_leave_the_job_running(joblet: LocalSystem) -> None:
    job_id = joblet.run("sh", "-c", "while echo tick; do sleep 0.02; done")
    follower = follow(joblet, job_id)
    assert follower.stdout is not None
    assert follower.stdout.readline() == b"tick\n"
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=CALL_SECONDS)
    assert follower.returncode == 130
    assert err.decode().splitlines()[1:] == ["Stopped following; the job is not touched by that."]

    reader_left = follow(joblet, "-t", job_id[:8])
    assert reader_left.stdout is not None
    assert reader_left.stdout.readline().endswith(b" tick\n")
    reader_left.stdout.close()
    assert reader_left.wait(timeout=CALL_SECONDS) == 0
    assert reader_left.stderr is not None
    assert len(reader_left.stderr.read().splitlines()) == 1, "the heading and nothing else"
    reader_left.stderr.close()

    assert joblet.status(job_id)["Status"] == "RUNNING"
    joblet.output("job", "stop", job_id)


def test_options_survive_restarts_of_gateway_and_logstore(own_joblet: LocalSystem) -> None:
    """The beginning is not searched for again, the end and the times stay."""
    with gate() as end:
        job_id = own_joblet.run("python3", "-c", TICKS, str(end.port))
        end.wait_for()
        wait_for("ten lines", lambda: len(lines_of(own_joblet, "--no-follow", job_id)) >= 10)
        follower = follow(own_joblet, "-t", "-n", "2", job_id)
        assert follower.stdout is not None
        first = int(STAMP.sub(b"", follower.stdout.readline()))
        for service in ("gateway", "logstore"):
            own_joblet.kill(service)
        end.open()
        rest, err = follower.communicate(timeout=CALL_SECONDS)
    assert follower.returncode == 0, err.decode()
    *ticks, last = (STAMP.sub(b"", line) for line in rest.splitlines())
    assert last == b"the last"
    assert [int(tick) for tick in ticks] == list(range(first + 1, first + 1 + len(ticks)))
    assert len(ticks) >= 1
    assert b"Connection lost" in err
