"""What arrives is there under its digest or not at all; limits, age, and what a crash leaves."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from joblet.common.contents import CHUNK_BYTES, EMPTY_DIGEST, Contents, Limits
from joblet.common.errors import Code, InvalidArgument, JobletError, NotFound, ResourceExhausted

WHAT = ("section.oneMb", "section.totalMb")


@dataclass(frozen=True, slots=True)
class Piece:
    payload: bytes = b""
    digest: str = ""


def contents(directory: Path, one: int = 1 << 20, total: int = 1 << 21, age: float = 60.0) -> Contents:
    return Contents(directory / "contents", Limits(one, total, age, WHAT))


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


async def stream(pieces: Iterable[Piece]) -> AsyncIterator[Piece]:
    for piece in pieces:
        yield piece


def send(store: Contents, content: bytes, digest: str | None = None, chunk: int = 1000) -> tuple[str, int]:
    pieces = [Piece(content[start : start + chunk]) for start in range(0, len(content), chunk)]
    return asyncio.run(store.receive(stream([Piece(digest=digest or digest_of(content)), *pieces])))


def files(store: Contents) -> list[str]:
    return sorted(entry.name for entry in os.scandir(store._directory))


def test_what_was_sent_is_there(tmp_path: Path) -> None:
    store = contents(tmp_path)
    content = os.urandom(5_500)
    assert send(store, content) == (digest_of(content), 5_500)
    assert store.size_of(digest_of(content)) == store.stored_bytes == 5_500
    with store.open(digest_of(content)) as file:
        assert file.read() == content
    assert contents(tmp_path).stored_bytes == 5_500, "counted again at the next start"


def test_the_same_again_is_answered_without_reading_it(tmp_path: Path) -> None:
    store = contents(tmp_path)
    send(store, b"same")

    async def ask() -> tuple[str, int]:
        async def pieces() -> AsyncIterator[Piece]:
            yield Piece(digest=digest_of(b"same"))
            raise AssertionError("read on")

        return await store.receive(pieces())

    assert asyncio.run(ask()) == (digest_of(b"same"), 4)
    assert store.stored_bytes == 4


def test_a_stream_without_payload_asks(tmp_path: Path) -> None:
    store = contents(tmp_path)
    with pytest.raises(NotFound):
        send(store, b"", digest_of(b"something"))
    assert send(store, b"") == (EMPTY_DIGEST, 0)
    assert files(store) == [EMPTY_DIGEST.removeprefix("sha256:")]


@pytest.mark.parametrize(
    ("pieces", "error", "text"),
    [
        ([], InvalidArgument, "first chunk"),
        ([Piece(b"x", "sha256:" + "A" * 64)], InvalidArgument, "first chunk"),
        ([Piece(b"x", "sha256:../../etc/passwd")], InvalidArgument, "first chunk"),
        ([Piece(b"x", digest_of(b"y"))], InvalidArgument, f"what arrived is {digest_of(b'x')}"),
        ([Piece(bytes(CHUNK_BYTES + 1), digest_of(b"y"))], InvalidArgument, "262145 bytes, more than 262144"),
        ([Piece(bytes(2000), digest_of(b"y")), Piece(bytes(2000))], ResourceExhausted, "section.oneMb"),
    ],
)
def test_what_is_refused_leaves_nothing(
    tmp_path: Path, pieces: list[Piece], error: type[JobletError], text: str
) -> None:
    store = contents(tmp_path, one=3000)
    with pytest.raises(error, match=text):
        asyncio.run(store.receive(stream(pieces)))
    assert files(store) == []
    store.claim(2000, 0)  # room is given back


def test_all_together_have_a_limit(tmp_path: Path) -> None:
    store = contents(tmp_path, one=1000, total=1500)
    send(store, b"a" * 1000)
    with pytest.raises(ResourceExhausted, match="section.totalMb") as refused:
        send(store, b"b" * 1000)
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    send(store, b"c" * 500)
    store.remove(digest_of(b"a" * 1000))
    send(store, b"b" * 1000)


def test_a_sender_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    store = contents(tmp_path)

    async def broken() -> None:
        async def pieces() -> AsyncIterator[Piece]:
            yield Piece(b"half", digest_of(b"half of it"))
            raise asyncio.CancelledError

        await store.receive(pieces())

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(broken())
    assert files(store) == []
    assert store.stored_bytes == 0


def test_what_a_crash_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    send(contents(tmp_path), b"whole")
    (tmp_path / "contents" / "half.tmp").write_bytes(b"ha")
    assert files(contents(tmp_path)) == [digest_of(b"whole").removeprefix("sha256:")]


def test_old_is_what_nobody_asked_for(tmp_path: Path) -> None:
    store = contents(tmp_path)
    for content in (b"old", b"young", b"asked for"):
        send(store, content)
    for content in (b"old", b"asked for"):
        os.utime(tmp_path / "contents" / digest_of(content).removeprefix("sha256:"), (1, 1))
    store.size_of(digest_of(b"asked for"))
    assert store.old() == [digest_of(b"old")]
    with store.open(digest_of(b"old")) as file:
        store.remove(digest_of(b"old"))
        assert file.read() == b"old", "whoever has it open keeps it"
    with pytest.raises(NotFound):
        store.open(digest_of(b"old"))
