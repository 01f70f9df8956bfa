import errno
import json
import os
import pty
import subprocess
import sys

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api import job_pb2 as api
from rnx.conftest import JOB_ID, STARTED, Gateway, Rnx


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


def test_every_flag_of_list_reaches_the_request(rnx: Rnx, gateway: Gateway) -> None:
    rnx(
        *gateway.flags, "list", "--status=running", "--status=FAILED", "-l", "team=a", "--label=b=", "--name=n-*",
        "--node-id=n1", "--since=1970-01-01T00:00:05Z", "--until=1970-01-01T00:00:07.5Z",
    )  # fmt: skip
    assert gateway.requests == [
        api.EmptyRequest(
            statuses=["RUNNING", "FAILED"],
            labels={"team": "a", "b": ""},
            name="n-*",
            nodeId="n1",
            since=Timestamp(seconds=5),
            until=Timestamp(seconds=7, nanos=500_000_000),
        )
    ]
    for wrong in (["--status=LOST"], ["-l", "x"], ["--limit=-1"], ["--limit=0"]):
        assert rnx(*gateway.flags, "list", *wrong).code == 2


def test_a_limit_is_of_the_newest_and_leaves_the_order(rnx: Rnx, gateway: Gateway) -> None:
    new, middle, old = (api.Job(id=f"{number}abc", status="RUNNING", command="true") for number in (3, 2, 1))
    gateway.pages = [api.Jobs(jobs=[new, middle], nextPageToken="1"), api.Jobs(jobs=[old])]
    assert [line[0] for line in rnx(*gateway.flags, "list", "--limit=3").lines] == ["1", "2", "3"]
    assert [(request.newestFirst, request.pageSize) for request in gateway.requests] == [(True, 3), (True, 1)]
    assert [line[0] for line in rnx(*gateway.flags, "list", "--limit=2", "-o", "table").lines[2:]] == ["3", "2"]


def test_colour_is_for_terminals(rnx: Rnx, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    three_jobs(gateway)
    assert b"\x1b" not in rnx(*gateway.flags, "list", "-o", "table").out
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        out = on_a_terminal(*gateway.flags, "list", "-o", "table", **variables)
        assert (b"\x1b[32mCOMPLETED" in out, b"\x1b" in out) == (coloured, coloured)


def on_a_terminal(*arguments: str, **variables: str) -> bytes:
    """What rnx prints on a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", **variables}
    with subprocess.Popen([sys.executable, "-m", "rnx", *arguments], env=environment, stdout=theirs) as process:
        os.close(theirs)
        printed = b""
        try:
            while part := os.read(ours, 4096):
                printed += part
        except OSError as error:  # what Linux answers when the other side is closed (pty(7))
            assert error.errno == errno.EIO
        finally:
            os.close(ours)
        assert process.wait(120) == 0
    return printed


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
