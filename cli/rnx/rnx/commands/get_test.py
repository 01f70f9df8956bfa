"""What `get` prints; what it writes is in treewrite_test.py, and the whole of it in tests/e2e/outputs_test.py."""

import json
from pathlib import Path

import grpc
import pytest

from joblet.api import job_pb2 as api
from rnx.conftest import JOB_ID, Gateway, Rnx

KEPT = [
    api.OutputChunk(path="d", isDirectory=True, mode=0o755, mtimeNs=10**18),
    api.OutputChunk(path="d/f", payload=b"12", size=2, mode=0o644, mtimeNs=10**18),
    api.OutputChunk(path="d/l", linkTarget=b"f", mode=0o777),
    api.OutputChunk(path="out", linkTarget=b"/etc/passwd", mode=0o777),
]


def test_what_was_fetched_as_json(rnx: Rnx, gateway: Gateway) -> None:
    gateway.kept = KEPT
    result = rnx(*gateway.flags, "--json", "job", "get", JOB_ID, "-o", "here")
    assert result.code == 1, "one was refused"
    answer = json.loads(result.out)
    assert (answer["directory"], answer["refused"]) == ("here", 1)
    shown = [
        (file["path"], file["size"], file["mode"], file["isDirectory"], file["linkTarget"]) for file in answer["files"]
    ]
    assert shown == [("d", 0, 0o755, True, ""), ("d/f", 2, 0o644, False, ""), ("d/l", 0, 0o777, False, "f")]
    assert answer["files"][1]["mtimeNs"] == 10**18
    assert Path("here/d/f").read_bytes() == b"12"
    assert result.err.endswith("3 files and directories written to here\n")


def test_one_file_to_stdout_is_nothing_else(rnx: Rnx, gateway: Gateway) -> None:
    gateway.kept = KEPT[1:2]
    for as_json in ((), ("--json",)):
        result = rnx(*gateway.flags, *as_json, "job", "get", JOB_ID, "d/f", "-o", "-")
        assert (result.code, result.out, result.err) == (0, b"12", "")


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_is_an_error(rnx: Rnx, gateway: Gateway, as_json: bool) -> None:
    gateway.failures = [(grpc.StatusCode.NOT_FOUND, "no outputs are kept of job x")]
    result = rnx(*gateway.flags, *(["--json"] if as_json else []), "job", "get", JOB_ID)
    assert (result.code, result.out) == (4, b"")
    assert "no outputs are kept of job x" in result.err


@pytest.mark.parametrize("path", ["absent", "d/", "d/f/"])
def test_listing_a_path_that_is_not_there(rnx: Rnx, gateway: Gateway, path: str) -> None:
    gateway.kept = KEPT
    result = rnx(*gateway.flags, "job", "get", "--list", JOB_ID, path)
    if path == "absent":
        assert (result.code, result.out) == (4, b"")
        assert result.err.startswith(f'Error: no such output of job {JOB_ID}: "absent"\nHint: ')
    else:
        assert (result.code, len(result.lines)) == (0, 3 if path == "d/" else 1)
