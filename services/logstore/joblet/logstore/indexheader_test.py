import os
from pathlib import Path

import pytest

from joblet.logstore import indexheader
from joblet.logstore.index import Entry, IndexDamaged, IndexReader, Kind, encode
from joblet.logstore.indexheader import BLOCK_SIZE, HEADER_SIZE

GOLDEN = Path(__file__).parent / "testdata" / "index-v2.golden"
FIRST = 3 * BLOCK_SIZE


def test_golden() -> None:
    """An index whose output was removed up to byte 12288, and has ended."""
    entries = [Entry(20_000, 1_700_000_000_000_000_000, Kind.DATA), Entry(20_480, 1_700_000_001_000_000_000, Kind.END)]
    assert GOLDEN.read_bytes() == indexheader.header(FIRST) + b"".join(map(encode, entries))


@pytest.mark.parametrize("first", [0, BLOCK_SIZE, FIRST, BLOCK_SIZE * (2**48 - 1)])
def test_what_is_written_is_read(first: int) -> None:
    assert len(indexheader.header(first)) == HEADER_SIZE
    assert indexheader.first_of(indexheader.header(first)) == first


def test_an_index_with_a_removed_front_is_read_as_any_other(tmp_path: Path) -> None:
    fd = os.open(GOLDEN, os.O_RDONLY)
    try:
        assert indexheader.first(fd) == FIRST
        reader = IndexReader.at_tail(fd)
        reader.poll()
        assert reader.ended
    finally:
        os.close(fd)


@pytest.mark.parametrize("position", range(HEADER_SIZE))
def test_a_changed_byte_is_damage(tmp_path: Path, position: int) -> None:
    content = bytearray(GOLDEN.read_bytes())
    content[position] ^= 0x10
    (tmp_path / "index").write_bytes(content)
    fd = os.open(tmp_path / "index", os.O_RDONLY)
    try:
        with pytest.raises(IndexDamaged):
            IndexReader(fd).poll()
    finally:
        os.close(fd)
