"""A request to the logstore's control socket, and what its answer must be. The protocol is told in its handout.py."""

import json
import os
from collections.abc import Mapping
from typing import Any

from joblet.common.errors import Internal
from joblet.common.unixsock import Received

Request = Mapping[str, object]


def encoded(request: Request) -> bytes:
    return json.dumps(request).encode()


def checked(request: Request, received: Received, fd_count: int = 0) -> dict[str, Any]:
    """The fields of an answer. Raises Internal for a refusal; the descriptors are closed then."""
    answer: dict[str, Any] = json.loads(received.data)
    if not answer.get("ok") or len(received.fds) != fd_count:
        close_all(received)
        text = answer.get("error") or f"{len(received.fds)} descriptors instead of {fd_count}"
        raise Internal(f"the logstore could not {_what(request)}: {text}")
    return answer


def close_all(received: Received) -> None:
    for fd in received.fds:
        os.close(fd)


def _what(request: Request) -> str:
    operation = request["op"]
    return f"{operation} the log of job {request['job_id']}" if "job_id" in request else f"{operation} logs"
