"""What a handler's end becomes: a status, a metric, a log line."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from joblet.common import log
from joblet.common.errors import InvalidArgument, JobNotFound, ResourceExhausted, Unauthenticated
from joblet.common.metrics import REGISTRY
from joblet.common.roles import Identity, Role
from joblet.common.rpc import current_identity, error_from_rpc
from joblet.common.rpc.echo_fixture import METHODS, Echo, Serving, ask, method, serving

EXPIRED = "certificate verify failed: certificate has expired"


class Failing(Echo):
    """Every method raises what the test gave it, after one answer where there can be one."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def One(self, request: BytesValue, context: Any) -> BytesValue:
        raise self.error

    async def Many(self, request: BytesValue, context: Any) -> AsyncIterator[BytesValue]:
        yield request
        raise self.error

    async def Collect(self, requests: AsyncIterator[BytesValue], context: Any) -> BytesValue:
        raise self.error

    async def Chat(self, requests: AsyncIterator[BytesValue], context: Any) -> AsyncIterator[BytesValue]:
        async for request in requests:
            yield request
            raise self.error


def failure(directory: Path, echo: Echo, name: str) -> grpc.aio.AioRpcError:
    async def main() -> grpc.aio.AioRpcError:
        async with serving(directory, echo) as serve, serve.channel() as channel:
            before = counted(name)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(channel, name)
            async with asyncio.timeout(120):
                while counted(name) == before:  # its handler may end behind the answer; a server that ends cancels it
                    await asyncio.sleep(0.001)
            return caught.value

    return asyncio.run(main())


def counted(name: str) -> float:
    """Calls of a method that are over, whatever their code."""
    labels = {"service": "jbtest.Echo", "method": name}
    return REGISTRY.get_sample_value("joblet_rpc_seconds_count", labels) or 0.0


def calls(name: str, code: str) -> float:
    labels = {"service": "jbtest.Echo", "method": name, "code": code}
    return REGISTRY.get_sample_value("joblet_rpc_total", labels) or 0.0


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_bytes_that_are_no_message_are_the_callers_fault(tmp_path: Path, kind: str) -> None:
    name = dict(zip(("unary_unary", "unary_stream", "stream_unary", "stream_stream"), METHODS, strict=True))[kind]
    garbage = b"\xff" * 16

    async def main() -> grpc.aio.AioRpcError:
        async with serving(tmp_path) as serve, serve.channel() as channel:
            call: Any = getattr(channel, kind)(f"/jbtest.Echo/{name}")
            answer = call(iter([garbage]) if kind.startswith("stream") else garbage, timeout=120)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (answer.read() if kind.endswith("stream") else answer)
            return caught.value

    error = asyncio.run(main())
    assert (error.code(), error.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT, f"the bytes sent are no request of {name}"
    )  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_named_error_becomes_its_status(tmp_path: Path, name: str) -> None:
    before = calls(name, "NOT_FOUND")
    error = failure(tmp_path, Failing(JobNotFound("f47ac10b", hint="see rnx job list")), name)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "job not found: f47ac10b")
    assert error_from_rpc(error).hint == "see rnx job list"
    assert calls(name, "NOT_FOUND") == before + 1


@pytest.mark.parametrize("name", METHODS)
def test_anything_else_is_internal_and_gives_nothing_away(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = failure(tmp_path, Failing(KeyError("s3cret")), name)
    assert error.code() is grpc.StatusCode.INTERNAL
    details = error.details() or ""
    assert details.startswith("internal error (request id ")
    assert "s3cret" not in details
    causes = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [type(cause) for cause in causes] == [KeyError]


def test_the_field_at_fault_travels_with_the_error(tmp_path: Path) -> None:
    error = error_from_rpc(failure(tmp_path, Failing(InvalidArgument("negative", field="maxCPU")), "One"))
    assert isinstance(error, InvalidArgument)
    assert error.field == "maxCPU"


def test_texts_are_capped(tmp_path: Path) -> None:
    error = failure(tmp_path, Failing(ResourceExhausted("ü" * 100_000, hint="ü" * 100_000)), "One")
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len((error.details() or "").encode()) <= 2048


def test_a_method_left_out_by_a_servicer_is_unimplemented(tmp_path: Path) -> None:
    error = failure(tmp_path, Failing(NotImplementedError("Method not implemented!")), "Many")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "method Many is not implemented yet"


def test_abort_and_set_code_of_a_handler_are_kept(tmp_path: Path) -> None:
    class Aborting(Echo):
        async def One(self, request: BytesValue, context: Any) -> BytesValue:
            await context.abort(grpc.StatusCode.DATA_LOSS, "torn")
            return request

        async def Collect(self, requests: AsyncIterator[BytesValue], context: Any) -> BytesValue:
            context.set_code(grpc.StatusCode.ABORTED)
            context.set_details("again")
            return BytesValue()

    before = calls("One", "DATA_LOSS"), calls("Collect", "ABORTED")
    error = failure(tmp_path / "a", Aborting(), "One")
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "torn")
    error = failure(tmp_path / "b", Aborting(), "Collect")
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "again")
    assert (calls("One", "DATA_LOSS"), calls("Collect", "ABORTED")) == (before[0] + 1, before[1] + 1)


def test_a_client_that_leaves_cancels_the_handler(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> BaseException | None:
        waiting, ended = asyncio.Event(), asyncio.get_running_loop().create_future()

        class Endless(Echo):
            async def Many(self, request: BytesValue, context: Any) -> AsyncIterator[BytesValue]:
                yield request
                waiting.set()
                try:
                    await asyncio.Event().wait()
                except BaseException as error:
                    ended.set_result(error)
                    raise

        async with serving(tmp_path, Endless()) as serve, serve.channel() as channel:
            call = method(channel, "Many")(BytesValue())
            await call.read()
            await waiting.wait()
            call.cancel()
            async with asyncio.timeout(120):
                return await ended  # type: ignore[no-any-return]

    before = calls("Many", "CANCELLED")
    assert isinstance(asyncio.run(main()), asyncio.CancelledError)
    assert calls("Many", "CANCELLED") == before + 1
    assert not caplog.records


def test_handlers_that_write_themselves_are_guarded_too(tmp_path: Path) -> None:
    class Writing(Echo):
        async def Many(self, request: BytesValue, context: Any) -> None:  # type: ignore[override]
            await context.write(request)
            raise JobNotFound("x")

    error = failure(tmp_path, Writing(), "Many")
    assert error.details() == "job not found: x"


def test_handlers_know_who_calls(tmp_path: Path) -> None:
    seen: list[Identity] = []

    class Asking(Echo):
        async def Many(self, request: BytesValue, context: Any) -> AsyncIterator[BytesValue]:
            seen.append(current_identity())
            yield request

    async def main() -> None:
        async with serving(tmp_path, Asking()) as serve:
            for role, name in ((Role.ADMIN, "anna"), (Role.VIEWER, "victor")):
                async with serve.channel(serve.authority.files(role, name=name)) as channel:
                    await ask(channel, "Many")

    asyncio.run(main())
    assert [(identity.common_name, identity.role) for identity in seen] == [
        ("anna", Role.ADMIN),
        ("victor", Role.VIEWER),
    ]


def test_open_calls_end_with_their_certificate(tmp_path: Path) -> None:
    """The connection was made while the certificate was good, and is refused on its next call as well."""

    @asynccontextmanager
    async def connected(serve: Serving) -> AsyncIterator[grpc.aio.Channel]:
        """With a certificate that ends soon, but not before a busy machine has shaken hands with it."""
        for seconds in (2, 10, 50):
            files = serve.authority.files(Role.ADMIN, lifetime=timedelta(seconds=seconds))
            async with serve.channel(files) as channel:
                try:
                    await asyncio.wait_for(channel.channel_ready(), seconds)
                except TimeoutError:
                    continue
                yield channel
                return
        raise AssertionError("no connection")

    class Endless(Echo):
        async def One(self, request: BytesValue, context: Any) -> BytesValue:
            await asyncio.Event().wait()
            return request

        async def Many(self, request: BytesValue, context: Any) -> AsyncIterator[BytesValue]:
            while True:
                yield request
                await asyncio.sleep(0.05)

        async def Collect(self, requests: AsyncIterator[BytesValue], context: Any) -> BytesValue:
            return await self.One(BytesValue(), context)

        async def Chat(self, requests: AsyncIterator[BytesValue], context: Any) -> AsyncIterator[BytesValue]:
            async for answer in self.Many(BytesValue(), context):
                yield answer

    async def main() -> None:
        async with serving(tmp_path, Endless()) as serve, connected(serve) as channel:
            for _ in range(2):
                ends = await asyncio.gather(*(ask(channel, name) for name in METHODS), return_exceptions=True)
                for end in ends:
                    assert isinstance(end, grpc.aio.AioRpcError)
                    assert (end.code(), end.details()) == (grpc.StatusCode.UNAUTHENTICATED, EXPIRED)

    asyncio.run(main())


def test_no_answer_is_given_after_the_end_of_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a call that was not watched, since the end was far away when it began."""

    class Slow(Echo):
        async def One(self, request: BytesValue, context: Any) -> BytesValue:
            later = time.time() + timedelta(days=400).total_seconds()
            monkeypatch.setattr("time.time", lambda: later)
            return request

    async def main() -> None:
        async with serving(tmp_path, Slow()) as serve:
            files = serve.authority.files(Role.ADMIN, lifetime=timedelta(days=365))
            async with serve.channel(files) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ask(channel, "One")
                assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, EXPIRED)

    asyncio.run(main())


@pytest.mark.parametrize("ou", [Role.ADMIN, Role.VIEWER])
def test_a_client_that_is_still_sending_gets_the_reason(tmp_path: Path, ou: Role) -> None:
    """Refused by role, or by a handler in the middle of an upload."""

    class Full(Echo):
        async def Collect(self, requests: AsyncIterator[BytesValue], context: Any) -> BytesValue:
            async for _ in requests:
                raise ResourceExhausted("full")
            return BytesValue()

    async def main() -> str | None:
        async with serving(tmp_path, Full()) as serve, serve.channel(serve.authority.files(ou)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(channel, "Collect", *[bytes(65536)] * 64)
            return caught.value.details()

    expected = {Role.ADMIN: "full", Role.VIEWER: "role viewer is not allowed to perform operation collect"}
    assert asyncio.run(main()) == expected[ou]


def test_a_client_that_neither_sends_nor_ends_gets_the_reason_too(tmp_path: Path) -> None:
    async def main() -> str | None:
        async with serving(tmp_path, Failing(JobNotFound("x"))) as serve, serve.channel() as channel:
            call = method(channel, "Chat")(None)
            await call.write(BytesValue())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await call.read() is not grpc.aio.EOF:
                    pass
            return caught.value.details()

    assert asyncio.run(main()) == "job not found: x"


def test_a_handlers_own_timeout_is_not_taken_for_the_certificates(tmp_path: Path) -> None:
    error = failure(tmp_path, Failing(TimeoutError()), "One")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert not isinstance(error_from_rpc(error), Unauthenticated)


class RequestIds(Echo):
    async def One(self, request: BytesValue, context: Any) -> BytesValue:
        return BytesValue(value=log.request_id.get().encode())


def test_the_request_id_is_the_callers_or_a_new_one(tmp_path: Path) -> None:
    async def main() -> tuple[bytes, bytes, bytes, bytes]:
        async with serving(tmp_path, RequestIds()) as serve, serve.channel() as channel:
            (first,), (second,) = await ask(channel, "One"), await ask(channel, "One")
            (odd,) = await ask(channel, "One", metadata=(("joblet-request-id", "a b" * 100),))
            token = log.request_id.set("jbtest-1")
            (passed_on,) = await ask(channel, "One", metadata=(("other", "kept"),))
            log.request_id.reset(token)
            return first, second, odd, passed_on

    first, second, odd, passed_on = asyncio.run(main())
    assert len({first, second, odd}) == 3
    assert {len(first), len(second), len(odd)} == {16}
    assert passed_on == b"jbtest-1"
