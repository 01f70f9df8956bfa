"""Whether the services of a local Joblet are ready: their own /readyz, and in the end a real call to the gateway."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from joblet.common.errors import Internal, JobletError
from rnx import settings
from rnx.cli import Flags
from rnx.local import ports, processes
from rnx.local.layout import SERVICES, Layout, Ports

READY_SECONDS = 180.0  # on a machine that is busy with other things; what fails to start is told at once
FAILED_STARTS = 3  # a service that ended so often will not become ready
_PROBE_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
_TAIL_LINES = 8

SERVING, NOT_SERVING, DOWN = "SERVING", "NOT_SERVING", "DOWN"


@dataclass(frozen=True, slots=True)
class Health:
    """`state` as in grpc.health.v1, or DOWN if nobody answers; `reason` in words if it is not SERVING."""

    state: str
    reason: str


def health(port: int) -> Health:
    """What /readyz of the service with this metrics port says."""
    try:
        with socket.create_connection((ports.LOOPBACK, port), timeout=_PROBE_SECONDS) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            answer = b""
            while part := connection.recv(4096):
                answer += part
    except OSError as error:
        return Health(DOWN, (error.strerror or str(error)).lower())
    head, _, body = answer.partition(b"\r\n\r\n")
    ok = b" 200 " in head.split(b"\r\n")[0] + b" "
    return Health(SERVING, "") if ok else Health(NOT_SERVING, body.decode(errors="replace").strip())


def wait(layout: Layout, chosen: Ports, alive: Callable[[], bool]) -> None:
    """Returns when all services are ready and the gateway answers a call made with the admin's certificate.

    `alive` tells whether the supervisor is running still.
    Raises Internal, with the end of the log of the service at fault, if that does not happen.
    """
    deadline = time.monotonic() + READY_SECONDS
    waiting = list(SERVICES)
    reason = ""
    while waiting:
        state = health(chosen.metrics[waiting[0]])
        if state.state == SERVING:
            waiting.pop(0)
            continue
        reason = state.reason
        if not alive():
            raise _failure(layout, "supervisor", "the supervisor has ended")
        for name in SERVICES:
            if _restarts(layout, name) >= FAILED_STARTS:
                raise _failure(layout, name, f"{name} does not start")
        if time.monotonic() > deadline:
            raise _failure(layout, waiting[0], f"{waiting[0]} is not ready after {READY_SECONDS:g} s: {reason}")
        time.sleep(_PAUSE_SECONDS)
    _call(layout)


def _call(layout: Layout) -> None:
    from joblet.api.job_pb2 import EmptyRequest
    from rnx.client import Client

    with Client(client_settings(layout)) as client:
        client.call_repeatable(lambda stub: stub.ListJobs, EmptyRequest(pageSize=1))


def client_settings(layout: Layout) -> settings.Settings:
    """How rnx reaches this Joblet as admin, whatever flags and variables say."""
    return settings.resolve(Flags(config=str(layout.client_config)), {}, layout.directory, None)


def _restarts(layout: Layout, name: str) -> int:
    found = processes.read(layout.pid_file(name))
    return int(found[1][0]) if found and found[1] and found[1][0].isdigit() else 0


def _failure(layout: Layout, name: str, message: str) -> JobletError:
    """With the reason, which mostly stands at the end of that service's log."""
    log = layout.log(name)
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:] if log.exists() else []
    errors = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    tail = "".join(f"\n  {line}" for line in lines[errors[-1] if errors else 0 :])
    return Internal(f"{message}:{tail}" if tail else message, hint=f"the logs are in {layout.logs}")
