"""Where a chunk ends, without decoding it."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joblet.api import job_pb2
from joblet.common.errors import Internal
from joblet.gateway.streams import chunk_end

OFFSETS = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=400), OFFSETS)
def test_agrees_with_protobuf(payload: bytes, offset: int) -> None:
    assert chunk_end(job_pb2.DataChunk(payload=payload, offset=offset).SerializeToString()) == offset + len(payload)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=400), OFFSETS, st.lists(st.integers(0, 400), max_size=5))
def test_times_are_no_part_of_the_payload(payload: bytes, offset: int, positions: list[int]) -> None:
    times = [job_pb2.OutputTime(position=position, time=Timestamp(seconds=position)) for position in positions]
    message = job_pb2.DataChunk(payload=payload, offset=offset, times=times).SerializeToString()
    assert chunk_end(message) == offset + len(payload)


def test_large_chunk() -> None:
    assert chunk_end(job_pb2.DataChunk(payload=b"x" * 262_144, offset=7).SerializeToString()) == 262_151


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=1, max_size=40), OFFSETS, st.integers(1, 10))
def test_a_chunk_cut_short_is_an_error_or_a_shorter_chunk(payload: bytes, offset: int, cut: int) -> None:
    message = job_pb2.DataChunk(payload=payload, offset=offset).SerializeToString()[:-cut]
    try:
        decoded = job_pb2.DataChunk.FromString(message)
    except Exception:  # noqa: BLE001 - protobuf's DecodeError
        with pytest.raises(Internal):
            chunk_end(message)
        return
    assert chunk_end(message) == decoded.offset + len(decoded.payload)


def test_anything_else_is_an_error() -> None:
    with pytest.raises(Internal, match="unknown tag 34"):
        chunk_end(b"\x22\x00")
    with pytest.raises(Internal, match="cut short"):
        chunk_end(b"\x10" + b"\xff" * 12)
