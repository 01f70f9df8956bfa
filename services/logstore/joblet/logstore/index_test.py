import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from joblet.logstore.index import (
    ENTRIES_AT_ONCE,
    ENTRY_SIZE,
    Entry,
    IndexDamaged,
    IndexReader,
    Kind,
    append,
    count,
    encode,
    entry_at,
    first,
    mend,
)
from joblet.logstore.indexheader import HEADER, HEADER_SIZE

GOLDEN = Path(__file__).parent / "testdata" / "index-v1.golden"
GOLDEN_ENTRIES = [
    Entry(1, 1_705_314_600_000_000_000, Kind.DATA),
    Entry(5_000_000_000, 1_705_314_600_010_000_000, Kind.DATA),
    Entry(5_000_000_000, 1_705_314_599_000_000_000, Kind.DATA),  # the clock was set back
    Entry(5_000_000_001, 1_705_314_601_000_000_000, Kind.END),
]


@contextmanager
def index_file(path: Path, content: bytes) -> Iterator[int]:
    path.write_bytes(content)
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        yield fd
    finally:
        os.close(fd)


def whole(content: bytes) -> bytes:
    return HEADER + content


def data_entries(count: int) -> bytes:
    return b"".join(encode(Entry(number, 1000 + number, Kind.DATA)) for number in range(1, count + 1))


def test_the_golden_file_is_read_and_written_byte_for_byte(tmp_path: Path) -> None:
    golden = GOLDEN.read_bytes()
    assert HEADER + b"".join(map(encode, GOLDEN_ENTRIES)) == golden
    with index_file(tmp_path / "index", golden) as fd:
        reader = IndexReader(fd)
        assert reader.poll() == GOLDEN_ENTRIES
        assert reader.ended
        assert reader.poll() == []


def test_the_golden_file_is_what_the_prose_says() -> None:
    golden = GOLDEN.read_bytes()
    assert golden[:16] == b"JBLIDX\x01\x00" + bytes(8)
    total, time_ns, kind, checksum = struct.unpack("<QQII", golden[-24:])
    assert (total, time_ns, kind) == (5_000_000_001, 1_705_314_601_000_000_000, 2)
    assert checksum == zlib.crc32(golden[-24:-4])


def test_cut_at_every_byte_it_holds_the_whole_entries_and_nothing_else(tmp_path: Path) -> None:
    golden = GOLDEN.read_bytes()
    for length in range(len(golden) + 1):
        entries = max(0, length - HEADER_SIZE) // ENTRY_SIZE
        with index_file(tmp_path / "index", golden[:length]) as fd:
            assert IndexReader(fd).poll() == GOLDEN_ENTRIES[:entries], length
            tail = IndexReader.at_tail(fd)
            assert tail.poll() == GOLDEN_ENTRIES[:entries][-1:], length
            assert tail.ended == (length == len(golden))


def test_any_entry_is_found_by_halving(tmp_path: Path) -> None:
    entries = [Entry(2 * number, 1000 + number // 3, Kind.DATA) for number in range(40)]
    content = whole(b"".join(map(encode, [*entries, Entry(78, 2000, Kind.END)]))) + b"torn"
    with index_file(tmp_path / "index", content) as fd:
        assert count(fd) == 41
        assert [entry_at(fd, number) for number in range(40)] == entries
        for time_ns in range(999, 1016):
            wanted = [number for number, entry in enumerate(entries) if entry.time_ns >= time_ns]
            assert first(fd, lambda entry, time_ns=time_ns: entry.time_ns >= time_ns) == [*wanted, 40][0]  # type: ignore[misc]
        for offset in range(90):
            expected = [entry for entry in entries if entry.total_bytes > offset]
            reader = IndexReader.at_byte(fd, offset)
            assert reader.poll() == [*expected, Entry(78, 2000, Kind.END)]
        assert first(fd, lambda _: False) == 41


def test_halving_finds_damage_where_it_looks(tmp_path: Path) -> None:
    content = bytearray(whole(data_entries(3)))
    content[HEADER_SIZE + ENTRY_SIZE] ^= 1
    with index_file(tmp_path / "index", bytes(content)) as fd, pytest.raises(IndexDamaged, match="at byte 40"):
        IndexReader.at_byte(fd, 0)


def test_more_entries_than_are_read_at_once(tmp_path: Path) -> None:
    with index_file(tmp_path / "index", whole(data_entries(2 * ENTRIES_AT_ONCE))) as fd:
        reader = IndexReader(fd)
        assert len(reader.some()) == ENTRIES_AT_ONCE
        assert len(reader.poll()) == ENTRIES_AT_ONCE
        assert reader.poll() == []


def test_cut_at_every_byte_it_is_mended_and_can_be_ended(tmp_path: Path) -> None:
    golden = GOLDEN.read_bytes()
    for length in range(len(golden)):
        entries = GOLDEN_ENTRIES[: max(0, length - HEADER_SIZE) // ENTRY_SIZE]
        end = Entry(5_000_000_000, 1, Kind.END)
        with index_file(tmp_path / "index", golden[:length]) as fd:
            mend(fd)
            append(fd, encode(end))
            assert IndexReader(fd).poll() == [*entries, end], length


@pytest.mark.parametrize("garbage", range(ENTRY_SIZE))
def test_any_wrong_byte_in_the_last_entry_is_a_torn_tail(tmp_path: Path, garbage: int) -> None:
    content = bytearray(whole(data_entries(3)))
    content[HEADER_SIZE + 2 * ENTRY_SIZE + garbage] ^= 0x40
    with index_file(tmp_path / "index", bytes(content)) as fd:
        assert [entry.total_bytes for entry in IndexReader(fd).poll()] == [1, 2]
        assert [entry.total_bytes for entry in IndexReader.at_tail(fd).poll()] == [2]
        assert mend(fd).position == HEADER_SIZE + 2 * ENTRY_SIZE == os.fstat(fd).st_size


@pytest.mark.parametrize("garbage", range(ENTRY_SIZE))
def test_any_wrong_byte_in_the_middle_is_damage(tmp_path: Path, garbage: int) -> None:
    content = bytearray(whole(data_entries(3)))
    content[HEADER_SIZE + ENTRY_SIZE + garbage] ^= 0x40
    with index_file(tmp_path / "index", bytes(content)) as fd, pytest.raises(IndexDamaged) as caught:
        IndexReader(fd).poll()
    assert caught.value.position == HEADER_SIZE + ENTRY_SIZE
    assert "wrong checksum" in str(caught.value)


@pytest.mark.parametrize("zeros", [1, ENTRY_SIZE, 5 * ENTRY_SIZE + 3, 100_000])
def test_a_file_that_grew_before_its_contents_reached_the_disk_is_a_torn_tail(tmp_path: Path, zeros: int) -> None:
    with index_file(tmp_path / "index", whole(data_entries(3))[:-5] + bytes(zeros)) as fd:
        assert [entry.total_bytes for entry in IndexReader(fd).poll()] == [1, 2]
        assert [entry.total_bytes for entry in IndexReader.at_tail(fd).poll()] == [2]
        mend(fd)
        assert os.fstat(fd).st_size == HEADER_SIZE + 2 * ENTRY_SIZE


def test_mending_leaves_a_whole_index_alone(tmp_path: Path) -> None:
    golden = GOLDEN.read_bytes()
    with index_file(tmp_path / "index", golden) as fd:
        assert mend(fd).ended
        assert os.pread(fd, 1000, 0) == golden


def test_mending_does_not_cut_damage_off(tmp_path: Path) -> None:
    content = bytearray(whole(data_entries(4)))
    content[HEADER_SIZE + 2 * ENTRY_SIZE] ^= 1
    content[HEADER_SIZE + 3 * ENTRY_SIZE] ^= 1
    with index_file(tmp_path / "index", bytes(content)) as fd, pytest.raises(IndexDamaged):
        mend(fd)
    assert (tmp_path / "index").read_bytes() == bytes(content)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (HEADER.replace(b"\x01", b"\x03"), "version 3 is not known"),
        (HEADER.replace(b"\x01", b"\x02"), "not that of a log index"),
        (b"#!/bin/sh\necho hello\n", "not that of a log index"),
        (b"JBX", "not that of a log index"),
        (bytes(64), "not that of a log index"),
        (whole(encode(Entry(5, 1, Kind.DATA)) + encode(Entry(4, 2, Kind.DATA))), "shrinks from 5 to 4"),
        (whole(encode(Entry(5, 1, Kind.END)) + encode(Entry(6, 2, Kind.DATA))), "an entry follows the end"),
        (whole(encode(Entry(5, 1, 3))), "an entry of kind 3"),  # type: ignore[arg-type]
    ],
)
def test_what_no_writer_of_ours_leaves_behind_is_damage(tmp_path: Path, content: bytes, what: str) -> None:
    with index_file(tmp_path / "index", content) as fd, pytest.raises(IndexDamaged, match=what):
        IndexReader(fd).poll()


def test_an_index_is_read_as_it_grows(tmp_path: Path) -> None:
    with index_file(tmp_path / "index", b"") as fd:
        reader = IndexReader(fd)
        assert reader.poll() == []
        append(fd, HEADER)
        assert reader.poll() == []
        for number in (1, 2):
            entry = encode(Entry(number, 7, Kind.DATA))
            os.write(fd, entry[:10])
            assert reader.poll() == []
            os.write(fd, entry[10:])
            assert reader.poll() == [Entry(number, 7, Kind.DATA)]
        append(fd, encode(Entry(2, 8, Kind.END)))
        assert reader.poll() == [Entry(2, 8, Kind.END)]
        assert reader.ended


def test_a_long_index_is_read_in_pieces_and_its_tail_at_once(tmp_path: Path) -> None:
    with index_file(tmp_path / "index", whole(data_entries(5000))) as fd:
        assert [entry.total_bytes for entry in IndexReader(fd).poll()] == list(range(1, 5001))
        assert [entry.total_bytes for entry in IndexReader.at_tail(fd).poll()] == [5000]
