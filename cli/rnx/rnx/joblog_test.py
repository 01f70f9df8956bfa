import pytest

from joblet.api.job_pb2 import DataChunk
from rnx import joblog


@pytest.mark.parametrize(
    ("chunk", "position", "written", "said"),
    [
        (DataChunk(payload=b"abc", offset=5), 5, [(5, b"abc")], []),
        (DataChunk(payload=b"abc"), 5, [(5, b"abc")], []),  # a server without offsets
        (DataChunk(payload=b"abc", offset=4), 5, [(5, b"bc")], []),
        (DataChunk(payload=b"abc", offset=1), 5, [], []),
        (DataChunk(payload=b"abc", offset=9), 5, [(9, b"abc")], ["Bytes 5 to 8 are no longer kept."]),
        (DataChunk(), 5, [], []),
    ],
)
def test_what_is_sent_twice_is_dropped_and_gaps_are_named(
    chunk: DataChunk, position: int, written: list[tuple[int, bytes]], said: list[str]
) -> None:
    got: list[tuple[int, bytes]] = []
    texts: list[str] = []
    reached = joblog.pass_on(chunk, position, lambda offset, payload: got.append((offset, payload)), texts.append)
    assert (got, texts) == (written, said)
    assert reached == (written[0][0] + len(written[0][1]) if written else position)
