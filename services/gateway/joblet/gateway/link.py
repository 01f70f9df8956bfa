"""The gateway's connection to one node: channels to its executor and its logstore.

A Link belongs to one set of addresses; a node that registers others gets a new Link. `connected` is set while the
node's events are being followed (`joblet.gateway.events`): only then is the node given new jobs.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from joblet.api.internal import executor_pb2, executor_pb2_grpc, logstore_pb2, logstore_pb2_grpc
from joblet.common import rpc
from joblet.common.config import GrpcConfig, TlsFiles
from joblet.common.errors import Code, JobletError, Unavailable
from joblet.gateway.conversation import LARGEST_ORDER_BYTES, Conversation
from joblet.gateway.store.model import Node

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
        self.deletions = asyncio.Event()  # set when the node has deleted jobs to forget
        self.elsewhere_until = 0.0  # monotonic; its logstore did not know a ticket of this machine's (localstream)
        self.orders_elsewhere_until = 0.0  # monotonic; its executor is not this machine's (locallines)
        self.full = False  # the node has refused a job for want of room; until one of its jobs ends
        self.gap = False  # the node has forgotten events that the store never saw
        self._conversation: Conversation | None = None
        self._executor_channel = rpc.connect(node.executor_address, tls, grpc_config, target_name=node.id)
        self._logstore_channel = rpc.connect(node.logstore_address, tls, grpc_config, target_name=node.id)
        self.executor: executor_pb2_grpc.ExecutorServiceAsyncStub = executor_pb2_grpc.ExecutorServiceStub(
            self._executor_channel
        )
        self.logstore: logstore_pb2_grpc.LogStoreServiceAsyncStub = logstore_pb2_grpc.LogStoreServiceStub(
            self._logstore_channel
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

    async def start(self, request: executor_pb2.StartJobRequest, timeout_seconds: float) -> None:
        """Orders a job. Raises the node's refusal; Unavailable names the node."""
        conversation = self._conversation
        if conversation is None or request.spec.ByteSize() > LARGEST_ORDER_BYTES:
            await self.call(self.executor.StartJob, request, timeout_seconds)
            return
        try:
            await conversation.start(request.spec, timeout_seconds)
        except JobletError as error:
            raise self._named(error) from error

    @contextmanager
    def conversation(self, call: Any) -> Iterator[Conversation]:
        """By a long call that has begun; until it is closed here, small orders go by it."""
        conversation = Conversation(call)
        self._conversation = conversation
        try:
            yield conversation
        finally:
            self._conversation = None
            conversation.close()

    async def call(self, method: Callable[..., Any], request: object, timeout_seconds: float) -> Any:
        """One unary call. Raises the JobletError that the node answered; Unavailable names the node."""
        with self.errors():
            return await method(request, timeout=timeout_seconds)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Around a call or a stream: its failure as a JobletError.

        grpc raises CancelledError also for a call that the other side cancelled, as a server does that stops, or that
        ended because its channel was closed; only the task itself knows whether it was cancelled.
        """
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._named(rpc.error_from_rpc(error)) from error
        except grpc.aio.UsageError as error:
            raise self.unavailable("its address has changed") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise self.unavailable("it ended the call") from None

    def read_logs(self, request: logstore_pb2.ReadLogsRequest) -> Any:
        """A stream of DataChunk messages as the bytes that came over the wire."""
        return self._read_logs(request)

    def _named(self, error: JobletError) -> JobletError:
        """An Unavailable that says which node it is about; any other error as it is."""
        return self.unavailable(error.message) if error.code is Code.UNAVAILABLE else error

    def unavailable(self, why: str) -> Unavailable:
        return Unavailable(f"node {self.node.id} is not available: {why}")

    async def close(self) -> None:
        await self._executor_channel.close()
        await self._logstore_channel.close()
