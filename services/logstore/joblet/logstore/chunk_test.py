import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from joblet.api.job_pb2 import DataChunk
from joblet.logstore.chunk import CHUNK_SIZE, Chunk, read_chunk, varint

CONTENT = os.urandom(CHUNK_SIZE * 2 + 17)


@contextmanager
def file(path: Path, content: bytes = CONTENT) -> Iterator[int]:
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def read(fd: int, offset: int, limit: int) -> Chunk:
    return asyncio.run(read_chunk(fd, offset, limit))


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 16384, CHUNK_SIZE, len(CONTENT) - 1])
@pytest.mark.parametrize("limit", [1, 127, 128, 16383, 16384, CHUNK_SIZE])
def test_it_is_byte_for_byte_what_protobuf_makes(tmp_path: Path, offset: int, limit: int) -> None:
    payload = CONTENT[offset : offset + limit]
    with file(tmp_path / "file") as fd:
        chunk = read(fd, offset, limit)
    assert chunk == Chunk(DataChunk(payload=payload, offset=offset).SerializeToString(), offset, len(payload))


def test_offsets_beyond_four_gigabytes(tmp_path: Path) -> None:
    offset = 2**62
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 2**40 + 3)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert read(fd, 2**40, 9).message == DataChunk(payload=bytes(3), offset=2**40).SerializeToString()
    finally:
        os.close(fd)
    assert DataChunk.FromString(b"\x10" + varint(offset)).offset == offset


def test_a_message_never_holds_more_than_a_chunk_and_nothing_at_the_end(tmp_path: Path) -> None:
    with file(tmp_path / "file") as fd:
        assert read(fd, 0, len(CONTENT)).payload_bytes == CHUNK_SIZE
        assert read(fd, len(CONTENT), 5).payload_bytes == 0


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP])
def test_what_is_not_in_memory_is_read_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.preadv
    flags_seen = []

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        flags_seen.append(flags)
        if flags & os.RWF_NOWAIT:
            raise OSError(number, os.strerror(number))
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", preadv)
    with file(tmp_path / "file") as fd:
        chunk = read(fd, 5, 100)
    assert DataChunk.FromString(chunk.message) == DataChunk(payload=CONTENT[5:105], offset=5)
    assert flags_seen == [os.RWF_NOWAIT, 0]


def test_evicted_pages_are_read_from_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with path.open("rb") as written:
        os.fsync(written.fileno())
        os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        whole = b""
        while len(whole) < len(CONTENT):
            whole += DataChunk.FromString(read(written.fileno(), len(whole), CHUNK_SIZE).message).payload
    assert whole == CONTENT


def test_errors_of_the_disk_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with file(tmp_path / "file") as fd, pytest.raises(OSError, match="Input/output error"):
        read(fd, 0, 1)
