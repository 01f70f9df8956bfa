"""Making the node known to its gateways: one heartbeat loop for each, until the executor ends."""

import asyncio
from typing import Final

import grpc

from joblet.api.internal.registry_pb2 import HeartbeatRequest
from joblet.api.internal.registry_pb2_grpc import RegistryServiceStub
from joblet.common import log
from joblet.common.config import Config
from joblet.common.errors import JobletError
from joblet.common.rpc import connect, error_from_rpc

_FIRST_RETRY_SECONDS: Final = 0.1
_LONGEST_RETRY_SECONDS: Final = 5.0
_CALL_SECONDS: Final = 5.0

_log = log.get_logger(__name__)


async def beat(gateway: str, config: Config, request: HeartbeatRequest) -> None:
    """Registers with `gateway` ("host:port") and renews three times within each lease; tells when that changes."""
    known = ""
    retry_seconds = _FIRST_RETRY_SECONDS
    while True:
        try:
            # A channel keeps its certificates; a new one after every failure takes renewed ones.
            async with connect(gateway, config.executor.tls, config.grpc) as channel:
                stub = RegistryServiceStub(channel)
                while True:
                    answer = await stub.Heartbeat(request, timeout=_CALL_SECONDS)
                    if known != "registered":
                        known = "registered"
                        _log.info("registered", gateway=gateway, leaseSeconds=answer.lease_seconds)
                    retry_seconds = _FIRST_RETRY_SECONDS
                    await asyncio.sleep(max(1, answer.lease_seconds) / 3)
        except grpc.aio.AioRpcError as error:
            known = _told(gateway, known, error_from_rpc(error))
        except JobletError as error:
            known = _told(gateway, known, error)
        await asyncio.sleep(retry_seconds)
        retry_seconds = min(retry_seconds * 2, _LONGEST_RETRY_SECONDS)


def _told(gateway: str, known: str, error: JobletError) -> str:
    """Logs a failure unless it is the one logged last."""
    if known != error.message:
        _log.warn("not registered", gateway=gateway, error=error.message)
    return error.message
