"""Channels to Joblet's servers: mutual TLS, keepalive, limits, the request id passed on.

A channel keeps the certificates it was made with; make a new one after they were renewed.
"""

from collections.abc import Callable
from typing import Any, Self

import grpc

from joblet.common import log, metadata
from joblet.common.config import GrpcConfig, TlsFiles
from joblet.common.rpc.options import client_options
from joblet.common.rpc.tls import client_credentials


def connect(
    address: str,
    tls: TlsFiles,
    grpc_config: GrpcConfig,
    *,
    target_name: str | None = None,
    internal: bool = True,
) -> grpc.aio.Channel:
    """A channel to `address` ("host:port"), connected when first used; call it inside a running event loop.

    `target_name` is the name that the server's certificate must carry when it is not the host's: a node's id.
    `internal` is for the services among themselves: 4 MiB in both directions and no HTTP proxy.
    Raises FailedPrecondition if a certificate file cannot be read.
    """
    options = client_options(grpc_config, internal=internal, target_name=target_name)
    return TracedChannel(grpc.aio.secure_channel(address, client_credentials(tls), options=options))


class TracedChannel(grpc.aio.Channel):
    """A channel whose calls carry the request id of the request being handled, if any.

    Not a client interceptor: those put another task and another call object around every call and stream.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _traced(self._channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _traced(self._channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _traced(self._channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _traced(self._channel.stream_stream(*args, **kwargs))

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *details: Any) -> bool | None:
        return await self._channel.__aexit__(*details)


def _traced(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        current = log.request_id.get()
        if current:
            kwargs["metadata"] = (*(kwargs.get("metadata") or ()), (metadata.REQUEST_ID, current))
        return method(*args, **kwargs)

    return call
