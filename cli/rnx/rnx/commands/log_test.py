import base64
import json
import os

import grpc
import pytest

from joblet.api import job_pb2 as api
from rnx.conftest import JOB_ID, Gateway, Rnx

LOGS = f"Logs for job {JOB_ID} (Press Ctrl+C to exit if streaming):\n"


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


def test_log_options_go_to_the_server_and_where_it_begins_comes_back(rnx: Rnx, gateway: Gateway) -> None:
    gateway.output = b"one\ntwo\nthree\n"
    gateway.begin = 8
    gateway.times = True
    gateway.cut_output_at = [11]
    result = rnx(*gateway.flags, "log", "-n", "1", "--since=2024-01-15T10:30:00Z", "--until", "2d", "-t", JOB_ID)
    assert (result.code, result.out) == (0, b"1970-01-01T00:00:07.000Z three\n")
    first, second = (r for r in gateway.requests if isinstance(r, api.GetJobLogsReq))
    assert (first.tailLines, first.since.seconds, first.offset) == (1, 1705314600, 0)
    assert (second.HasField("tailLines"), second.HasField("since"), second.offset) == (False, False, 11)
    assert (first.until, first.timestamps) == (second.until, second.timestamps)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("--tail=-1", "'--tail' / '-n': expected a number of lines, 0 or more, got \"-1\""),
        ("--since=soon", '\'--since\': expected a time such as "10m" (ago), "14:30", '),
        ("--until=10", "'--until': expected a time such as "),
    ],
)
def test_log_options_that_are_no_values(rnx: Rnx, wrong: str, text: str) -> None:
    result = rnx("log", wrong, JOB_ID)
    assert result.code == 2
    assert text in result.err


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
