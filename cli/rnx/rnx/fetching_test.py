"""Going on after a lost connection; the whole of it, on a real system, is in tests/e2e/resume_test.py."""

from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest

from joblet.api.job_pb2 import GetJobOutputReq, OutputChunk
from joblet.common.errors import Unavailable
from rnx import fetching
from rnx.client import Client

CHUNKS = [OutputChunk(path="a", payload=b"12", size=3, next=5), OutputChunk(payload=b"3", next=6)]


class Lost(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE


class Stream:
    def __init__(self, chunks: list[OutputChunk], *, breaks: bool) -> None:
        self._chunks, self._breaks = chunks, breaks

    def __iter__(self) -> Iterator[OutputChunk]:
        yield from self._chunks
        if self._breaks:
            raise Lost

    def cancel(self) -> None:
        """Nothing goes on."""


class Server:
    """In the place of a Client: breaks off after `count` chunks, and goes on from the offset that is asked for."""

    def __init__(self, count: int, *, says_where: bool = True) -> None:
        self._count, self._says_where = count, says_where
        self.asked: list[int] = []

    def stream(self, _: Any, request: GetJobOutputReq) -> Stream:
        self.asked.append(request.offset)
        rest = [chunk for chunk in CHUNKS if chunk.next > request.offset]
        if not self._says_where:
            rest = [OutputChunk(path=chunk.path, payload=chunk.payload, size=chunk.size) for chunk in rest]
        return Stream(rest[: self._count], breaks=self._count < len(rest))

    def reconnect(self, _: float) -> None:
        """At once."""

    def explained(self, _: grpc.RpcError) -> Unavailable:
        return Unavailable("gone")


def fetch(server: Server) -> Iterator[OutputChunk]:
    return fetching.chunks(cast(Client, server), GetJobOutputReq(uuid="a"), lambda _: None)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE_SECONDS", 0.0)


def test_it_goes_on_behind_the_last_chunk() -> None:
    server = Server(1)
    assert list(fetch(server)) == CHUNKS
    assert server.asked == [0, 5]


def test_a_server_that_does_not_say_where_to_go_on_is_not_asked_again() -> None:
    server = Server(1, says_where=False)
    with pytest.raises(Unavailable):
        list(fetch(server))
    assert server.asked == [0]


def test_it_ends_when_nothing_comes_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "RESUME_SECONDS", -1.0)
    with pytest.raises(Unavailable):
        list(fetch(Server(0)))
