"""One connection to a gateway: connecting, calls with deadlines, repeating what may be repeated.

Connecting is a step of its own, because grpc reports every failed handshake as UNAVAILABLE: when it does not succeed,
`diagnose` finds out why. Once connected, a call that ends UNAVAILABLE means that the gateway went away or has no node;
calls that may be sent twice (reads, and RunJob with its request id) are then repeated over a new connection.
Importing this module imports grpc (about 100 ms).
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, cast

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own handshake errors; before the import, which reads it

import grpc  # noqa: E402

from joblet.api import job_pb2_grpc  # noqa: E402
from joblet.api.job_pb2 import EmptyRequest, Job, UploadChunk  # noqa: E402
from joblet.common import metadata  # noqa: E402
from joblet.common.errors import Code, JobletError, from_code  # noqa: E402
from joblet.common.ids import new_job_id  # noqa: E402
from rnx import credentials  # noqa: E402
from rnx.errors import CannotConnect, NoAnswer  # noqa: E402
from rnx.settings import Settings  # noqa: E402

HEALTH_CHECK = "/grpc.health.v1.Health/Check"  # an empty request asks for the server as a whole
CONNECT_SECONDS = 10.0
CALL_SECONDS = 30.0  # deadline of a unary call
RETRY_SECONDS = 10.0  # how long a call that may be repeated is repeated
UPLOAD_ATTEMPTS = 5
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0

_OPTIONS = (
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),  # the server's limit decides, and `runrequest` checks it before
    ("grpc.http2.max_frame_size", 1024 * 1024),  # 16 KiB by default, which costs 10 % more CPU for output (measured)
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_SECONDS * 1000)),  # also how long one attempt may take
    ("grpc.enable_http_proxy", 0),  # a proxy would see a CONNECT to a private port, and `diagnose` could not explain it
    ("grpc.enable_retries", 0),
)

EVERY_JOB = EmptyRequest()

Request = TypeVar("Request")
Response = TypeVar("Response")
Received = TypeVar("Received", covariant=True)

if TYPE_CHECKING:  # grpc's classes are generic in its type stubs only
    Unary = Callable[[job_pb2_grpc.JobServiceStub], grpc.UnaryUnaryMultiCallable[Request, Response]]
    Stream = Callable[[job_pb2_grpc.JobServiceStub], grpc.UnaryStreamMultiCallable[Request, Response]]


class ResponseStream(Protocol[Received]):
    """What grpc answers a streaming call with."""

    def __iter__(self) -> Iterator[Received]: ...

    def cancel(self) -> bool: ...


class Answer(Protocol[Received]):
    """What grpc answers a call with that is not waited for."""

    def result(self) -> Received: ...


class Client:
    """A connected client; leave it with `with`. Every failure is a JobletError that says what a user can do."""

    def __init__(self, settings: Settings, *, request_id: str | None = None, connect_seconds: float = 0.0) -> None:
        """`connect_seconds`: how long to try again while nobody answers; 0 for one attempt."""
        self.settings = settings
        self._connect_seconds = connect_seconds
        # In the server's log; what it would not take there gets another name.
        self._request_id = request_id if request_id and metadata.is_request_id(request_id) else new_job_id()
        self._credentials = credentials.read(settings)
        self._channel = self._open()
        self._stub = job_pb2_grpc.JobServiceStub(self._channel)

    def __enter__(self) -> Self:
        self._connect_until(time.monotonic() + self._connect_seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def connect(self) -> None:
        """Returns once the connection is up. Raises what `diagnose` found, or CannotConnect when time is up.

        By a call that costs nothing, since grpc looks at a subscribed channel's state only every 200 ms.
        """
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(HEALTH_CHECK)
        try:
            check(b"", timeout=CONNECT_SECONDS)
        except grpc.RpcError as error:
            if _call_of(error).code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return  # a server that has no health service, or does not tell us of it, is connected all the same
            from rnx import diagnose

            raise diagnose.why_no_connection(self.settings, self._credentials) from error

    def reconnect(self, deadline: float) -> None:
        """A new connection, tried until `deadline` (of time.monotonic); raises what stood in the way last."""
        self._replace_channel()
        self._connect_until(deadline)

    def _connect_until(self, deadline: float) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return self.connect()
            except CannotConnect:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._replace_channel()

    def _replace_channel(self) -> None:
        """A channel that failed would wait before it tries again."""
        self._channel.close()
        self._channel = self._open()
        self._stub = job_pb2_grpc.JobServiceStub(self._channel)

    def hang_up(self) -> None:
        """From any thread: whatever call is being waited for ends with an error."""
        self._channel.close()

    def call(
        self, method: "Unary[Request, Response]", request: Request, timeout_seconds: float = CALL_SECONDS
    ) -> Response:
        """One call, never repeated."""
        try:
            return method(self._stub)(request, timeout=timeout_seconds, metadata=self._metadata())
        except grpc.RpcError as error:
            raise self.explained(error) from error

    def call_all(self, method: "Unary[Request, Response]", requests: Sequence[Request]) -> list[Response | JobletError]:
        """All requests at once; each answered or refused by itself."""
        function = method(self._stub)
        calls = [function.future(request, timeout=CALL_SECONDS, metadata=self._metadata()) for request in requests]
        return [self._outcome(call) for call in calls]

    def _outcome(self, call: Answer[Received]) -> Received | JobletError:
        try:
            return call.result()
        except grpc.RpcError as error:
            return self.explained(error)

    def call_repeatable(
        self,
        method: "Unary[Request, Response]",
        request: Request,
        patience_seconds: float | None = None,
        timeout_seconds: float = CALL_SECONDS,
    ) -> Response:
        """One call that the server may get twice without harm; repeated for a while (RETRY_SECONDS) if the gateway
        went away."""
        deadline = time.monotonic() + (RETRY_SECONDS if patience_seconds is None else patience_seconds)
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return method(self._stub)(request, timeout=timeout_seconds, metadata=self._metadata())
            except grpc.RpcError as error:
                failure = error
            if not is_unavailable(failure) or time.monotonic() + pause > deadline:
                raise self.explained(failure, timeout_seconds) from failure
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            self.reconnect(deadline)

    def upload(self, digest: str, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Sends a content unless the gateway has it; anew, a few times, if the gateway went away meanwhile."""
        for _ in range(UPLOAD_ATTEMPTS - 1):
            try:
                return self._upload_once(digest, chunks)
            except grpc.RpcError as error:
                if not is_unavailable(error):
                    raise self.explained(error) from error
            self.reconnect(time.monotonic() + RETRY_SECONDS)
        try:
            return self._upload_once(digest, chunks)
        except grpc.RpcError as error:
            raise self.explained(error) from error

    def _upload_once(self, digest: str, chunks: Callable[[], Iterator[bytes]]) -> None:
        try:
            self._stub.Upload(iter([UploadChunk(digest=digest)]), timeout=CALL_SECONDS, metadata=self._metadata())
        except grpc.RpcError as error:
            if _call_of(error).code() is not grpc.StatusCode.NOT_FOUND:
                raise
        else:
            return
        reading = _Reading(digest, chunks())
        try:
            self._stub.Upload(reading, metadata=self._metadata())
        except grpc.RpcError:
            if reading.failure is not None:
                raise reading.failure from None
            raise

    def stream(self, method: "Stream[Request, Response]", request: Request) -> ResponseStream[Response]:
        """A call answered by a stream, without a deadline: keepalive notices a gateway that is gone."""
        return method(self._stub)(request, metadata=self._metadata())

    def explained(self, error: grpc.RpcError, timeout_seconds: float = CALL_SECONDS) -> JobletError:
        """The error a user sees; the server's text is taken over unchanged."""
        call = _call_of(error)
        code = Code[call.code().name]
        if code is Code.DEADLINE_EXCEEDED:
            return NoAnswer(f"no answer from {self.settings.address} within {timeout_seconds:g} s")
        trailing = dict(call.trailing_metadata() or ())
        hint, field = (metadata.decode(trailing.get(name)) for name in (metadata.HINT, metadata.FIELD))
        text = call.details() or code.lower().replace("_", " ")
        return from_code(code, text, hint=hint, field=field)

    def _open(self) -> grpc.Channel:
        secure = grpc.ssl_channel_credentials(self._credentials.ca, self._credentials.key, self._credentials.cert)
        return grpc.secure_channel(self.settings.address, secure, options=_OPTIONS)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return ((metadata.REQUEST_ID, self._request_id),)


class _Reading:
    """The messages of an upload. grpc hides what goes wrong in an iterator of requests, so it is kept here."""

    def __init__(self, digest: str, chunks: Iterator[bytes]) -> None:
        self.failure: JobletError | None = None
        self._messages = chain([UploadChunk(digest=digest)], (UploadChunk(payload=chunk) for chunk in chunks))

    def __iter__(self) -> Iterator[UploadChunk]:
        return self

    def __next__(self) -> UploadChunk:
        try:
            return next(self._messages)
        except JobletError as error:
            self.failure = error
            raise


def is_unavailable(error: grpc.RpcError) -> bool:
    """Whether the server went away. A call that reaches it at the moment at which it stops taking calls ends CANCELLED;
    rnx itself cancels none that it waits for."""
    return _call_of(error).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def _call_of(error: grpc.RpcError) -> grpc.Call:
    """grpc raises errors that are calls as well (grpc docs, "Client-Side Context"), which its types do not say."""
    return cast(grpc.Call, error)


def list_jobs(client: Client, wanted: EmptyRequest = EVERY_JOB, limit: int | None = None) -> Iterator[Job]:
    """The jobs that `wanted` describes, at most `limit` of them, fetched a page at a time."""
    token, left = "", limit
    while left is None or left > 0:
        request = EmptyRequest()
        request.CopyFrom(wanted)
        request.pageToken, request.pageSize = token, left or 0
        page = client.call_repeatable(lambda stub: stub.ListJobs, request)
        yield from page.jobs
        token = page.nextPageToken
        if not token:
            return
        left = None if left is None else left - len(page.jobs)
