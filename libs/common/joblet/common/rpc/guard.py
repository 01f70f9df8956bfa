"""What stands in front of every handler: identity, access, errors, metrics, request id.

In this order, for unary and streaming calls alike:
1. the request id from metadata (or a new one) goes into the log context;
2. the certificate gives the identity, its end is checked; the access table allows or refuses;
3. the handler runs until it returns or the certificate ends;
4. a JobletError becomes its status; AbortError and cancellation pass untouched; anything else is logged with its
   traceback and answered with INTERNAL and a text that gives nothing away;
5. the call is counted.
"""

import asyncio
import inspect
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from functools import lru_cache
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from prometheus_client import Counter, Histogram

from joblet.common import log, metadata
from joblet.common.errors import Internal, InvalidArgument, JobletError, Unimplemented
from joblet.common.rpc import access, status

DRAIN_SECONDS = 0.5
WATCHED_SECONDS = 7 * 86400.0
MAX_CONNECTIONS = 8192  # remembered as seen; a connection forgotten and used again is counted again

_log = log.get_logger(__name__)

_OK = grpc.StatusCode.OK.name

_CALLS = Counter("joblet_rpc", "Calls answered, by status code.", ["service", "method", "code"])
_CONNECTIONS = Counter("joblet_rpc_connections", "Connections that made at least one call; see joblet_tls_handshakes.")
_SECONDS = Histogram(
    "joblet_rpc_seconds",
    "Time from a call's arrival to its answer; of a stream, to its end.",
    ["service", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0),
)

# Quoted: generic in the type stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Guard:
    """One per server. Not an interceptor of grpc: those are asked anew for the handler at every call."""

    def __init__(self, table: access.AccessTable) -> None:
        self._table = table
        self._count_connection = lru_cache(maxsize=MAX_CONNECTIONS)(_new_connection)

    def guarded(self, method: str, handler: Handler) -> Handler:
        """The handler of a method ("/joblet.JobService/RunJob") with all of the above around it."""
        if handler.response_streaming:
            return self._guard_stream(method, handler)
        behaviour: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def unary(request: Any, context: Context) -> Any:
            return await self._call(method, handler, context, _answer(behaviour, request, context))

        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(unary, _decoder(handler), handler.response_serializer)

    def _guard_stream(self, method: str, handler: Handler) -> Handler:
        behaviour: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def stream(request: Any, context: Context) -> None:
            await self._call(method, handler, context, _answers(behaviour, request, context))

        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(stream, _decoder(handler), handler.response_serializer)

    async def _call(self, method: str, handler: Handler, context: Context, body: Coroutine[Any, Any, Any]) -> Any:
        """One call. The contextvars need no reset: grpc runs every call in a task of its own.

        No context managers made of generators here: they would be a noticeable part of what a short call costs.
        """
        started = time.perf_counter()
        code = _OK
        try:
            log.request_id.set(_request_id(context))
            self._count_connection(context.peer())
            identity = access.authenticate(context.auth_context())
            access.set_identity(identity)
            access.authorize(method, identity, self._table)
            answer = await _until(identity.not_after.timestamp(), body, watched=_streams(handler))
            code = _code_of(context)
            return answer
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        except grpc.aio.AbortError:
            code = _code_of(context)
            raise
        except Exception as error:  # noqa: BLE001 - the one place that turns every failure into a status
            named = _named(method, error)
            code = named.code.name
            if handler.request_streaming:
                await _drain(context)
            await context.abort(status.status_of(named), status.details_of(named), status.metadata_of(named))
        finally:
            body.close()  # where it was never begun
            _count(method, code, time.perf_counter() - started)


def _streams(handler: Handler) -> bool:
    return bool(handler.request_streaming or handler.response_streaming)


async def _until(end: float, body: Coroutine[Any, Any, Any], *, watched: bool) -> Any:
    """What the call answers. Raises Unauthenticated where its certificate ends first, at `end`: no connection outlives
    its own.

    A call that has one answer is watched only in the certificate's last days, since a timer costs as much as all other
    checks of a short call. One that is open for longer than that ends when it would have answered.
    """
    seconds = end - time.time()
    if seconds > WATCHED_SECONDS and not watched:
        answer = await body
        if time.time() >= end:
            raise access.expired()
        return answer
    try:
        async with asyncio.timeout(seconds) as limit:
            return await body
    except TimeoutError:
        if limit.expired():
            raise access.expired() from None
        raise


async def _answer(behaviour: Any, request: Any, context: Context) -> Any:
    _check_decoded(request)
    answer = behaviour(request, context)
    return await answer if inspect.isawaitable(answer) else answer


async def _answers(behaviour: Any, request: Any, context: Context) -> None:
    _check_decoded(request)
    answers = behaviour(request, context)
    if inspect.isawaitable(answers):  # a handler that calls context.write itself
        await answers
        return
    async with aclosing(answers):
        async for answer in answers:
            await context.write(answer)


async def _drain(context: Context) -> None:
    """Takes what a client is still sending, for a while, before its stream is answered with an error.

    A grpc.aio client that is writing when the answer comes reports INTERNAL "Internal error from Core" instead of it
    (grpc/grpc issue 36066); one that has finished writing gets the answer.
    """
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while await context.read() is not grpc.aio.EOF:
                pass
    except (TimeoutError, grpc.aio.UsageError, grpc.aio.InternalError):
        return  # it writes on, or the stream cannot be read any more: the answer goes out all the same


def _decoder(handler: Handler) -> Callable[[bytes], Any] | None:
    """The handler's own, which gives the DecodeError in place of the one request of a call that is no message: raised
    there, grpc would answer UNKNOWN in Python's words, before any role was checked. In streams the reader raises it."""
    decode: Callable[[bytes], Any] | None = handler.request_deserializer
    if decode is None or handler.request_streaming:
        return decode

    def guarded(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            return error

    return guarded


def _check_decoded(request: object) -> None:
    if isinstance(request, DecodeError):
        raise request


def _named(method: str, error: Exception) -> JobletError:
    if isinstance(error, JobletError):
        return error
    if isinstance(error, DecodeError):
        return InvalidArgument(f"the bytes sent are no request of {method.rpartition('/')[2]}")
    if isinstance(error, NotImplementedError):  # what the generated base class of a servicer raises
        return Unimplemented(f"method {method.rpartition('/')[2]}")
    _log.exception("rpc failed", method=method)
    return Internal(f"internal error (request id {log.request_id.get()})")


def _request_id(context: Context) -> str:
    """The caller's, so that one request is one id through all services; a new one if it sent none of a sane form."""
    for key, value in context.invocation_metadata() or ():
        if key == metadata.REQUEST_ID and metadata.is_request_id(value):
            return str(value)
    return os.urandom(8).hex()


def _code_of(context: Context) -> str:
    """What the handler set by abort or set_code; grpc gives the enum, its number, or 0 for nothing set."""
    value: Any = context.code()
    if not value:
        return _OK
    number = value.value[0] if isinstance(value, grpc.StatusCode) else value
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), "UNKNOWN")


def _new_connection(_peer: str) -> None:
    _CONNECTIONS.inc()


def _count(method: str, code: str, seconds: float) -> None:
    calls, times = _counters(method, code)
    calls.inc()
    times.observe(seconds)


@lru_cache(maxsize=1024)
def _counters(method: str, code: str) -> tuple[Counter, Histogram]:
    service, _, name = method.lstrip("/").rpartition("/")
    return _CALLS.labels(service, name, code), _SECONDS.labels(service, name)
