"""Following a job's output: exactly its bytes on stdout, from the first to the last, also when the gateway restarts.

The position reached is all the state there is. When the connection is lost, reading goes on there over a new one; what
the server sends twice is dropped, what it does not have any more is named on stderr.
"""

import base64
import json
import os
import select
import sys
import time
from collections.abc import Callable

import grpc

from joblet.api.job_pb2 import DataChunk, GetJobLogsReq, GetJobStatusReq
from joblet.common.errors import JobletError
from rnx.client import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Client, is_unavailable

RESUME_SECONDS = 30.0  # without a byte or a connection for so long, following ends with the error

Write = Callable[[int, bytes], None]
Say = Callable[[str], None]


def follow(client: Client, job_id: str, write: Write, say: Say, *, heading: str | None, no_follow: bool) -> None:
    """Passes every chunk to `write(offset, bytes)` until the job has ended (or, with `no_follow`, until now).

    The heading is said once it is sure that there is such a job: the stream of a silent job tells nothing for a while.
    """
    position = 0
    if heading is not None and _exists(client, job_id):
        say(heading)
    deadline = 0.0  # of finding a way back; 0 while there is nothing to find
    pause = FIRST_PAUSE_SECONDS
    while True:
        request = GetJobLogsReq(uuid=job_id, offset=position, noFollow=no_follow)
        call = client.stream(lambda stub: stub.GetJobLogs, request)
        try:
            for chunk in call:
                deadline = 0.0
                position = pass_on(chunk, position, write, say)
            return
        except grpc.RpcError as error:
            failure = error
        finally:
            call.cancel()
        if not deadline:
            deadline, pause = time.monotonic() + RESUME_SECONDS, FIRST_PAUSE_SECONDS
            if is_unavailable(failure):
                say(f"Connection lost; going on at byte {position} ...")
        if not is_unavailable(failure) or time.monotonic() + pause > deadline:
            raise client.explained(failure) from failure
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        client.reconnect(deadline)


def _exists(client: Client, job_id: str) -> bool:
    try:
        client.call_repeatable(lambda stub: stub.GetJobStatus, GetJobStatusReq(uuid=job_id))
    except JobletError:
        return False  # GetJobLogs is refused for the same reason, in its own words
    return True


def pass_on(chunk: DataChunk, position: int, write: Write, say: Say) -> int:
    """Writes what of `chunk` lies at or behind `position`; the new position. A server without offsets sends 0."""
    payload, offset = chunk.payload, chunk.offset or position
    if offset > position:
        say(f"Bytes {position} to {offset - 1} are no longer kept.")
    elif offset < position:
        payload, offset = payload[position - offset :], position
    if payload:
        write(offset, payload)
    return offset + len(payload)


def write_raw(_offset: int, payload: bytes) -> None:
    """All of `payload` to stdout, past Python's buffers. Raises BrokenPipeError when the reader is gone."""
    descriptor = sys.stdout.fileno()
    view = memoryview(payload)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody we share the terminal or pipe with made it non-blocking
            select.select((), (descriptor,), ())


def write_json(offset: int, payload: bytes) -> None:
    """One JSON object a line: output need not be text, so the bytes are base64, as in JSON forms of DataChunk."""
    text = json.dumps({"offset": offset, "payload": base64.b64encode(payload).decode()})
    write_raw(0, text.encode() + b"\n")
