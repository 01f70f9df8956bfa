import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api.job_pb2 import DataChunk, GetJobLogsReq, OutputTime
from joblet.common.states import LOST_ATTEMPT_BYTES
from rnx import joblog
from rnx.stamps import Stamper


@pytest.mark.parametrize(
    ("chunk", "position", "written", "said"),
    [
        (DataChunk(payload=b"abc", offset=5), 5, [(5, b"abc")], []),
        (DataChunk(payload=b"abc"), 5, [(5, b"abc")], []),  # a server without offsets
        (DataChunk(payload=b"abc", offset=4), 5, [(5, b"bc")], []),
        (DataChunk(payload=b"abc", offset=1), 5, [], []),
        (DataChunk(payload=b"abc", offset=9), 5, [(9, b"abc")], ["Bytes 5 to 8 are no longer kept."]),
        (
            DataChunk(payload=b"abc", offset=LOST_ATTEMPT_BYTES + 7, attempt=2),
            5,
            [(LOST_ATTEMPT_BYTES + 7, b"abc")],
            ["How much was written from byte 5 on is not known, up to the next attempt."],
        ),
        (DataChunk(), 5, [], []),
    ],
)
def test_what_is_sent_twice_is_dropped_and_gaps_are_named(
    chunk: DataChunk, position: int, written: list[tuple[int, bytes]], said: list[str]
) -> None:
    got: list[tuple[int, bytes]] = []
    texts: list[str] = []
    reached = joblog.pass_on(chunk, position, lambda piece: got.append((piece.offset, piece.payload)), texts.append)
    assert (got, texts) == (written, said)
    assert reached == (written[0][0] + len(written[0][1]) if written else position)


def test_the_first_chunk_says_where_it_begins() -> None:
    pieces: list[joblog.Piece] = []
    texts: list[str] = []
    assert joblog.pass_on(DataChunk(offset=7), None, pieces.append, texts.append) == 7
    assert joblog.pass_on(DataChunk(), None, pieces.append, texts.append) == 0
    assert (pieces, texts) == ([], [])


def test_times_stay_with_their_bytes_when_the_first_are_dropped() -> None:
    times = [OutputTime(position=at, time=Timestamp(seconds=at)) for at in (0, 2, 4)]
    pieces: list[joblog.Piece] = []
    joblog.pass_on(DataChunk(payload=b"abcdef", offset=10, times=times), 13, pieces.append, lambda _: None)
    assert pieces == [joblog.Piece(13, b"def", [(0, 0), (0, 2 * 10**9), (1, 4 * 10**9)])]


def test_where_to_begin_is_asked_for_once() -> None:
    wanted = joblog.request("a", no_follow=True, tail=0, since_ns=5, until_ns=10**9, timestamps=True)
    assert wanted == GetJobLogsReq(
        uuid="a", noFollow=True, tailLines=0, since=Timestamp(nanos=5), until=Timestamp(seconds=1), timestamps=True
    )
    assert joblog.from_position(wanted, None) == wanted
    assert joblog.from_position(wanted, 7) == GetJobLogsReq(
        uuid="a", noFollow=True, offset=7, until=Timestamp(seconds=1), timestamps=True
    )


def test_attempts_are_named_where_another_one_begins() -> None:
    got: list[object] = []
    write = joblog._naming_attempts(lambda piece: got.append(piece.payload), got.append)
    for offset, attempt in ((0, 1), (1, 1), (2, 2), (3, 2), (4, 4)):
        write(joblog.Piece(offset, b"x", attempt=attempt))
    assert got == [b"x", b"x", "Attempt 2, from byte 2:", b"x", b"x", "Attempt 4, from byte 4:", b"x"]


def test_a_stamped_line_ends_with_its_attempt() -> None:
    written = bytearray()
    write = joblog._stamping(Stamper(written.extend))
    for offset, (payload, attempt) in enumerate(((b"a", 1), (b"b", 1), (b"c\n", 2), (b"d", 3))):
        write(joblog.Piece(offset, payload, [(0, attempt * 10**9)], attempt))
    stamps = [f"1970-01-01T00:00:0{second}.000Z" for second in (1, 2, 3)]
    assert written.decode() == f"{stamps[0]} ab\n{stamps[1]} c\n{stamps[2]} d"
