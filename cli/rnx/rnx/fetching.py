"""A job's kept outputs as one stream, also when the gateway or its node restarts in the middle.

Each chunk says where to go on behind it; when the connection is lost, the same is asked for from there over a new one.
So whoever reads the stream notices nothing, not even in the middle of a file.
"""

import time
from collections.abc import Callable, Generator
from contextlib import closing

import grpc

from joblet.api.job_pb2 import GetJobOutputReq, OutputChunk
from rnx.client import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, RETRY_SECONDS, Client, is_unavailable

RESUME_SECONDS = 120.0  # without a chunk or a connection for so long, fetching ends with the error

Say = Callable[[str], None]


def chunks(client: Client, wanted: GetJobOutputReq, say: Say) -> Generator[OutputChunk, None, None]:
    """All that is `wanted`. Raises what the server says, and what stood in the way when it cannot be reached again.

    Of a server that does not say where to go on, a lost connection is the end.
    """
    request = GetJobOutputReq()
    request.CopyFrom(wanted)
    deadline, pause = 0.0, FIRST_PAUSE_SECONDS  # of finding a way back; 0 while there is nothing to find
    begun, can_go_on = False, True
    while True:
        try:
            with closing(_received(client, request)) as received:
                for chunk in received:
                    deadline, pause, begun, can_go_on = 0.0, FIRST_PAUSE_SECONDS, True, chunk.next > 0
                    yield chunk
            return
        except grpc.RpcError as error:
            failure = error
        if not is_unavailable(failure) or not can_go_on:
            raise client.explained(failure) from failure
        if not deadline:
            deadline = time.monotonic() + (RESUME_SECONDS if begun else RETRY_SECONDS)
            if begun:
                say("Connection lost; going on where it broke off ...")
        if time.monotonic() + pause > deadline:
            raise client.explained(failure) from failure
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        client.reconnect(deadline)


def _received(client: Client, request: GetJobOutputReq) -> Generator[OutputChunk, None, None]:
    """Over one connection; `request` is then the one for what has not come."""
    call = client.stream(lambda stub: stub.GetJobOutput, request)
    try:
        for chunk in call:
            request.offset = chunk.next
            yield chunk
    finally:
        call.cancel()
