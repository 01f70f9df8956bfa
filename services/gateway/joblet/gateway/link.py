"""The gateway's connection to one node: channels to its executor and its logstore.

A Link belongs to one set of addresses; a node that registers others gets a new Link. `connected` is set while the
node's events are being followed (`joblet.gateway.events`): only then is the node given new jobs.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from joblet.api.internal import executor_pb2_grpc, logstore_pb2
from joblet.common import rpc
from joblet.common.config import GrpcConfig, TlsFiles
from joblet.common.errors import Code, JobletError, Unavailable
from joblet.gateway.store.model import Node

T = TypeVar("T")

READ_LOGS = "/joblet.internal.LogStoreService/ReadLogs"

# What a call ends with when nothing is known of its fate: the other side may have done what was asked, or not.
UNANSWERED = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNKNOWN})


class Link:
    def __init__(self, node: Node, tls: TlsFiles, grpc_config: GrpcConfig) -> None:
        self.node = node  # as of its last heartbeat
        self.connected = asyncio.Event()
        self.restart = asyncio.Event()  # asks for a new comparison of the node's jobs with the store's
        self.unanswered: set[str] = set()  # jobs whose StartJob has got no answer on this link
        self.retry = asyncio.Event()  # set when there are new ones
        self._executor_channel = rpc.connect(node.executor_address, tls, grpc_config, target_name=node.id)
        self._logstore_channel = rpc.connect(node.logstore_address, tls, grpc_config, target_name=node.id)
        self.executor: executor_pb2_grpc.ExecutorServiceAsyncStub = executor_pb2_grpc.ExecutorServiceStub(
            self._executor_channel
        )
        self._read_logs: Any = self._logstore_channel.unary_stream(
            READ_LOGS, request_serializer=logstore_pb2.ReadLogsRequest.SerializeToString, response_deserializer=None
        )

    def addresses_of(self, node: Node) -> bool:
        """Whether this link still leads to the node."""
        return (self.node.executor_address, self.node.logstore_address) == (
            node.executor_address,
            node.logstore_address,
        )

    async def call(self, method: Callable[..., Any], request: object, timeout_seconds: float) -> Any:
        """One unary call. Raises the JobletError that the node answered; Unavailable names the node."""
        try:
            return await method(request, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise self.named(rpc.error_from_rpc(error)) from error
        except grpc.aio.UsageError as error:
            raise self.unavailable("its address has changed") from error
        except asyncio.CancelledError:
            if _cancelled_from_outside():
                raise
            raise self.unavailable("its address has changed") from None

    def read_logs(self, request: logstore_pb2.ReadLogsRequest) -> Any:
        """A stream of DataChunk messages as the bytes that came over the wire."""
        return self._read_logs(request)

    def named(self, error: JobletError) -> JobletError:
        """An Unavailable that says which node it is about; any other error as it is."""
        return self.unavailable(error.message) if error.code is Code.UNAVAILABLE else error

    def unavailable(self, why: str) -> Unavailable:
        return Unavailable(f"node {self.node.id} is not available: {why}")

    async def close(self) -> None:
        await self._executor_channel.close()
        await self._logstore_channel.close()


def _cancelled_from_outside() -> bool:
    """A channel that is closed cancels its calls, and whoever awaits one sees the same exception as when its own task
    is cancelled; the task knows the difference."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
