import json

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
