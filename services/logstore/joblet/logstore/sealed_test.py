"""The sealed form: byte for byte, read from every offset, cut at every byte, and with every byte changed."""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from joblet.common.errors import Internal
from joblet.logstore.index import Entry, Kind, encode
from joblet.logstore.indexheader import BLOCK_SIZE, header
from joblet.logstore.layout import Sealing
from joblet.logstore.sealed import FRAME_SIZE, FileBytes, SealDamaged, SealedLog, seal

GOLDEN = Path(__file__).parent / "testdata" / "sealed-v1.golden"
OUTPUT = b"".join(b"line %d of the output\n" % number for number in range(40))


def index_of(output: bytes, first: int = 0) -> bytes:
    return header(first) + encode(Entry(len(output), 1_700_000_000_000_000_000, Kind.END))


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def sealing(directory: Path, output: bytes, index: bytes, first: int = 0, end: int | None = None) -> Path:
    (directory / "output").write_bytes(output)
    (directory / "index").write_bytes(index)
    path = directory / "sealed"
    with (
        opened(directory / "output") as output_fd,
        opened(directory / "index") as index_fd,
        opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as into,
    ):
        end = len(output) if end is None else end
        seal(Sealing(output_fd, index_fd, into, first, end), threading.Event())
    return path


def read(log: SealedLog, offset: int) -> bytes:
    received = bytearray()
    while offset + len(received) < log.end:
        received += log.read(offset + len(received), 1 << 30)
    return bytes(received)


def test_golden(tmp_path: Path) -> None:
    """Frames are what any zstd may have made of the content, so what is written today is compared by what it says."""
    with opened(GOLDEN) as fd:
        log = SealedLog(FileBytes(fd))
        assert (log.first, log.end) == (0, len(OUTPUT))
        assert read(log, 0) == OUTPUT
        assert b"".join(log.index()) == index_of(OUTPUT)
    path = sealing(tmp_path, OUTPUT, index_of(OUTPUT))
    assert path.read_bytes()[:8] == GOLDEN.read_bytes()[:8]
    with opened(path) as fd:
        assert read(SealedLog(FileBytes(fd)), 0) == OUTPUT


@pytest.mark.parametrize("size", [0, 1, FRAME_SIZE - 1, FRAME_SIZE, FRAME_SIZE + 1, 3 * FRAME_SIZE + 5])
def test_every_size_and_any_offset(tmp_path: Path, size: int) -> None:
    output = random.Random(size).randbytes(size)
    index = index_of(output) + bytes(FRAME_SIZE)  # more than one frame of it
    with opened(sealing(tmp_path, output, index)) as fd:
        log = SealedLog(FileBytes(fd))
        for offset in {0, 1, size // 2, FRAME_SIZE, size - 1} & set(range(size)):
            assert read(log, offset) == output[offset:]
        assert b"".join(log.index()) == index


def test_a_removed_front_stays_removed(tmp_path: Path) -> None:
    output, first = random.Random(1).randbytes(2 * FRAME_SIZE), 5 * BLOCK_SIZE
    with opened(sealing(tmp_path, output, index_of(output, first), first)) as fd:
        log = SealedLog(FileBytes(fd))
        assert (log.first, log.end) == (first, len(output))
        assert read(log, first) == output[first:]
        assert read(log, FRAME_SIZE + 7) == output[FRAME_SIZE + 7 :]


def test_a_tail_costs_one_frame(tmp_path: Path) -> None:
    class Counting(FileBytes):
        taken = 0

        def read(self, position: int, count: int) -> bytes:
            self.taken += count
            return super().read(position, count)

    output = random.Random(2).randbytes(64 * FRAME_SIZE)
    with opened(sealing(tmp_path, output, index_of(output))) as fd:
        source = Counting(fd)
        log = SealedLog(source)
        assert log.read(len(output) - 10, 10) == output[-10:]
        assert source.taken < 2 * FRAME_SIZE


def test_cut_at_every_byte(tmp_path: Path) -> None:
    whole = GOLDEN.read_bytes()
    for size in range(len(whole)):
        (tmp_path / "sealed").write_bytes(whole[:size])
        with opened(tmp_path / "sealed") as fd, pytest.raises(SealDamaged):
            SealedLog(FileBytes(fd))


def test_no_changed_byte_goes_unnoticed(tmp_path: Path) -> None:
    whole = GOLDEN.read_bytes()
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 0x01
        (tmp_path / "sealed").write_bytes(content)
        with opened(tmp_path / "sealed") as fd, pytest.raises(SealDamaged) as caught:
            log = SealedLog(FileBytes(fd))
            read(log, 0)
            list(log.index())
        assert 0 <= caught.value.position <= len(whole)


def test_damage_of_one_frame_leaves_the_others_readable_and_is_told_by_place(tmp_path: Path) -> None:
    output = random.Random(3).randbytes(3 * FRAME_SIZE)
    path = sealing(tmp_path, output, index_of(output))
    content = bytearray(path.read_bytes())
    content[FRAME_SIZE + FRAME_SIZE // 2] ^= 1  # random bytes do not shrink: this is in the second frame
    path.write_bytes(content)
    with opened(path) as fd:
        log = SealedLog(FileBytes(fd))
        assert log.read(0, FRAME_SIZE) == output[:FRAME_SIZE]
        assert log.read(2 * FRAME_SIZE, FRAME_SIZE) == output[2 * FRAME_SIZE :]
        with pytest.raises(SealDamaged, match=rf"bytes {FRAME_SIZE} to {2 * FRAME_SIZE} of the output"):
            log.read(FRAME_SIZE + 3, 5)


def test_what_is_missing_is_not_sealed(tmp_path: Path) -> None:
    with pytest.raises(Internal, match="only 10 of 11 bytes"):
        sealing(tmp_path, b"x" * 10, index_of(b"x" * 11), end=11)
