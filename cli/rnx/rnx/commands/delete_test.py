import json

import grpc

from joblet.api import job_pb2 as api
from rnx.conftest import JOB_ID, Gateway, Rnx

BLOCK = f"Job deleted successfully:\nID: {JOB_ID}\n"


def test_delete(rnx: Rnx, gateway: Gateway) -> None:
    result = rnx(*gateway.flags, "job", "delete", JOB_ID)
    assert (result.code, result.out.decode(), result.err) == (0, BLOCK, "")
    assert gateway.requests == [api.DeleteJobReq(uuid=JOB_ID)]
    assert json.loads(rnx(*gateway.flags, "--json", "delete", JOB_ID, JOB_ID).out) == {"deleted": [JOB_ID, JOB_ID]}


def test_what_is_refused_does_not_keep_the_others(rnx: Rnx, gateway: Gateway) -> None:
    text = f"job has not ended: {JOB_ID} (current status: RUNNING)"
    gateway.failures = [(grpc.StatusCode.FAILED_PRECONDITION, text)]
    result = rnx(*gateway.flags, "delete", JOB_ID, JOB_ID)
    assert (result.code, result.out.decode(), result.err) == (1, BLOCK, f"Error: {text}\n")
    gateway.failures = [(grpc.StatusCode.NOT_FOUND, "job not found: 0000")]
    assert rnx(*gateway.flags, "--json", "delete", "0000").code == 4


def test_delete_all(rnx: Rnx, gateway: Gateway) -> None:
    assert rnx(*gateway.flags, "delete-all").out == b"Deleted: 2\nSkipped: 1 (not ended)\n"
    assert json.loads(rnx(*gateway.flags, "--json", "delete-all").out) == {"deleted": 2, "skipped": 1}
