"""The bytes of every message that the API reference prints.

The expected bytes are put together here from the protobuf encoding (field number and wire type in a tag, base-128
varints, length-delimited strings) and the printed numbers, never from the stubs they check.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api import job_pb2, workflow_pb2

JOB_COMMON = {
    "name": "n",
    "command": "c",
    "args": ["a", "b"],
    "maxCPU": 50,
    "cpuCores": "0-1",
    "maxMemory": 512,
    "maxIOBPS": 1048576,
    "status": "RUNNING",
    "startTime": "s",
    "endTime": "e",
    "exitCode": -1,
    "scheduledTime": "t",
    "runtime": "r",
    "environment": {"K": "V"},
    "secret_environment": {"P": "Q"},
}
# Fields 2 to 16 of Job and of GetJobStatusRes. A tag is number << 3 | wire type (0 varint, 2 length-delimited); from
# number 16 on it takes two bytes. A negative int32 is the ten bytes of its 64-bit two's complement.
JOB_COMMON_BYTES = (
    b"\x12\x01n"
    b"\x1a\x01c"
    b"\x22\x01a\x22\x01b"
    b"\x28\x32"
    b"\x32\x030-1"
    b"\x38\x80\x04"
    b"\x40\x80\x80\x40"
    b"\x4a\x07RUNNING"
    b"\x52\x01s"
    b"\x5a\x01e"
    b"\x60\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    b"\x6a\x01t"
    b"\x72\x01r"
    b"\x7a\x06\x0a\x01K\x12\x01V"
    b"\x82\x01\x06\x0a\x01P\x12\x01Q"
)

GOLDEN: list[tuple[Message, bytes]] = [
    (
        job_pb2.Job(id="i", nodeId="x", **JOB_COMMON),  # type: ignore[arg-type]
        b"\x0a\x01i" + JOB_COMMON_BYTES + b"\xa2\x01\x01x",
    ),
    (
        job_pb2.RunJobReq(command="python3", args=["script.py"], maxCPU=50, maxMemory=512, maxIOBPS=1),
        b"\x0a\x07python3\x12\x09script.py\x18\x32\x20\x80\x04\x28\x01",
    ),
    (
        job_pb2.GetJobStatusRes(
            uuid="i",
            network="host",
            volumes=["v", "w"],
            workDir="/w",
            uploads=[job_pb2.FileUpload(path="f")],
            dependencies=["d"],
            workflowUuid="u",
            gpuCount=2,
            gpuIndices=[0, 3],
            gpuMemoryMB=4096,
            nodeId="x",
            **JOB_COMMON,  # type: ignore[arg-type]
        ),
        b"\x0a\x01i"
        + JOB_COMMON_BYTES
        + b"\x8a\x01\x04host"
        + b"\x92\x01\x01v\x92\x01\x01w"
        + b"\x9a\x01\x02/w"
        + b"\xa2\x01\x03\x0a\x01f"
        + b"\xaa\x01\x01d"
        + b"\xb2\x01\x01u"
        + b"\xb8\x01\x02"
        + b"\xc2\x01\x02\x00\x03"
        + b"\xc8\x01\x80\x20"
        + b"\xd2\x01\x01x",
    ),
    # An int64, unlike Job's int32: more than 2^31 bytes per second fit.
    (job_pb2.GetJobStatusRes(maxIOBPS=1 << 33), b"\x40\x80\x80\x80\x80\x20"),
    (job_pb2.DataChunk(payload=b"\x00\xff\n"), b"\x0a\x03\x00\xff\n"),
    (
        workflow_pb2.WorkflowJob(
            jobId="0",
            jobName="setup-data",
            status="RUNNING",
            dependencies=["a", "b"],
            startTime=Timestamp(seconds=1705314600),
            endTime=Timestamp(seconds=1, nanos=500),
            exitCode=7,
        ),
        b"\x0a\x010"
        b"\x12\x0asetup-data"
        b"\x1a\x07RUNNING"
        b"\x22\x01a\x22\x01b"
        b"\x2a\x06\x08\xa8\x92\x94\xad\x06"
        b"\x32\x05\x08\x01\x10\xf4\x03"
        b"\x38\x07",
    ),
    (
        workflow_pb2.GetWorkflowStatusResponse(
            workflow=workflow_pb2.WorkflowInfo(uuid="w"), jobs=[workflow_pb2.WorkflowJob(jobId="1")]
        ),
        b"\x0a\x03\x0a\x01w\x12\x03\x0a\x011",
    ),
]


@pytest.mark.parametrize(("message", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_bytes(message: Message, golden: bytes) -> None:
    assert message.SerializeToString(deterministic=True) == golden
    assert type(message).FromString(golden) == message


def test_every_printed_field_has_a_byte_here() -> None:
    """The highest printed number of each message, so that a field cannot be forgotten above."""
    printed = {
        "Job": {*range(1, 17), 20},
        "RunJobReq": set(range(1, 6)),
        "GetJobStatusRes": set(range(1, 27)),
        "DataChunk": {1},
        "WorkflowJob": set(range(1, 8)),
        "GetWorkflowStatusResponse": {1, 2},
    }
    seen: dict[str, set[int]] = {}
    for message, _ in GOLDEN:
        seen.setdefault(message.DESCRIPTOR.name, set()).update(field.number for field, _ in message.ListFields())
    assert seen == printed
