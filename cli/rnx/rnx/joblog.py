"""Following a job's output: exactly its bytes on stdout, from the first to the last, also when the gateway restarts.

The position reached is all the state there is. When the connection is lost, reading goes on there over a new one; what
the server sends twice is dropped, what it does not have any more is named on stderr.
"""

import base64
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from joblet.api.job_pb2 import DataChunk, GetJobLogsReq, GetJobStatusReq
from joblet.common.errors import JobletError
from joblet.common.states import LOST_ATTEMPT_BYTES
from joblet.common.units import NS_PER_SECOND
from rnx import departure, stamps
from rnx.client import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Client, is_unavailable

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

RESUME_SECONDS = 120.0  # without a byte or a connection for so long, following ends with the error


@dataclass(frozen=True, slots=True)
class Piece:
    """Some output; `times` are positions in the payload and since when, in nanoseconds, the bytes behind them exist.
    `attempt` is that of a job that may be retried, 0 of others."""

    offset: int
    payload: bytes
    times: Sequence[tuple[int, int]] = ()
    attempt: int = 0


Write = Callable[[Piece], None]
Say = Callable[[str], None]


def request(
    job_id: str,
    *,
    no_follow: bool = False,
    tail: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    timestamps: bool = False,
) -> GetJobLogsReq:
    """What is None is not asked for."""
    wanted = GetJobLogsReq(uuid=job_id, noFollow=no_follow, tailLines=tail, timestamps=timestamps)
    for field, time_ns in ((wanted.since, since_ns), (wanted.until, until_ns)):
        if time_ns is not None:
            field.SetInParent()
            field.seconds, field.nanos = divmod(time_ns, NS_PER_SECOND)
    return wanted


def follow(client: Client, wanted: GetJobLogsReq, write: Write, say: Say, *, heading: str | None) -> None:
    """Passes every piece of what is `wanted` to `write`, until the server says that this is all; says where the output
    of another attempt begins, unless one was asked for.

    The heading is said once it is sure that there is such a job: the stream of a silent job tells nothing for a while.
    Raises BrokenPipeError when stdout is a pipe that nobody reads any more, also while there is nothing to write.
    """
    if heading is not None and _exists(client, wanted.uuid):
        say(heading)
    with departure.noticed(client.hang_up) as reader_left:
        _follow(client, wanted, write if wanted.attempt else _naming_attempts(write, say), say, reader_left)


def _naming_attempts(write: Write, say: Say) -> Write:
    attempt, is_line_open = 1, False

    def naming(piece: Piece) -> None:
        nonlocal attempt, is_line_open
        if piece.attempt > attempt:
            attempt = piece.attempt
            if is_line_open and sys.stdout.isatty() and sys.stderr.isatty():
                say("")
            say(f"Attempt {attempt}, from byte {piece.offset}:")
        write(piece)
        is_line_open = not piece.payload.endswith(b"\n")

    return naming


def _follow(client: Client, wanted: GetJobLogsReq, write: Write, say: Say, reader_left: threading.Event) -> None:
    position = None if _is_searched(wanted) else wanted.offset  # None until the server has said where it begins
    deadline = 0.0  # of finding a way back; 0 while there is nothing to find
    pause = FIRST_PAUSE_SECONDS
    while True:
        call = client.stream(lambda stub: stub.GetJobLogs, from_position(wanted, position))
        try:
            for chunk in call:
                deadline = 0.0
                position = pass_on(chunk, position, write, say)
            return
        except grpc.RpcError as error:
            failure = error
        finally:
            call.cancel()
        if reader_left.is_set():
            raise BrokenPipeError from failure
        if not deadline:
            deadline, pause = time.monotonic() + RESUME_SECONDS, FIRST_PAUSE_SECONDS
            if is_unavailable(failure):
                say(f"Connection lost; going on at byte {position or 0} ...")
        if not is_unavailable(failure) or time.monotonic() + pause > deadline:
            raise client.explained(failure) from failure
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        client.reconnect(deadline)


def _exists(client: Client, job_id: str) -> bool:
    try:
        client.call_repeatable(lambda stub: stub.GetJobStatus, GetJobStatusReq(uuid=job_id))
    except JobletError:
        return False  # GetJobLogs is refused for the same reason, in its own words
    return True


def _is_searched(wanted: GetJobLogsReq) -> bool:
    return wanted.HasField("tailLines") or wanted.HasField("since")


def from_position(wanted: GetJobLogsReq, position: int | None) -> GetJobLogsReq:
    """The request that goes on at `position`: where to begin is not searched for again, when to end stays."""
    if position is None:
        return wanted
    request = GetJobLogsReq()
    request.CopyFrom(wanted)
    request.ClearField("tailLines")
    request.ClearField("since")
    request.offset = position
    return request


def pass_on(chunk: DataChunk, position: int | None, write: Write, say: Say) -> int:
    """Writes what of `chunk` lies at or behind `position`; the new position. A server without offsets sends 0."""
    offset = chunk.offset or position or 0
    position = offset if position is None else position
    if offset > position:
        say(_gap(position, offset))
    piece = _behind(Piece(offset, chunk.payload, _times(chunk), chunk.attempt), position - offset)
    if piece.payload:
        write(piece)
    return piece.offset + len(piece.payload)


def _gap(begin: int, end: int) -> str:
    if begin // LOST_ATTEMPT_BYTES < end // LOST_ATTEMPT_BYTES:
        return f"How much was written from byte {begin} on is not known, up to the next attempt."
    return f"Bytes {begin} to {end - 1} are no longer kept."


def _times(chunk: DataChunk) -> list[tuple[int, int]]:
    return [(entry.position, _nanoseconds(entry.time)) for entry in chunk.times]


def _nanoseconds(value: "Timestamp") -> int:
    return value.seconds * NS_PER_SECOND + value.nanos


def _behind(piece: Piece, skipped: int) -> Piece:
    """The piece without its first bytes, which were there already."""
    if skipped <= 0:
        return piece
    times = [(max(0, begin - skipped), time_ns) for begin, time_ns in piece.times]
    return Piece(piece.offset + skipped, piece.payload[skipped:], times, piece.attempt)


def writer(*, as_json: bool, timestamps: bool) -> Write:
    """How pieces are printed. JSON carries the times as fields; otherwise they stand before the lines."""
    if as_json:
        return write_json
    if not timestamps:
        return write_raw
    return _stamping(stamps.Stamper(write_all))


def _stamping(stamper: stamps.Stamper) -> Write:
    """A line ends with its attempt, with a newline or without."""
    attempt = 0

    def stamping(piece: Piece) -> None:
        nonlocal attempt
        if piece.attempt != attempt:
            attempt = piece.attempt
            stamper.end_line()
        stamper.write(piece.payload, piece.times)

    return stamping


def write_raw(piece: Piece) -> None:
    """The bytes and nothing else."""
    write_all(piece.payload)


def write_all(payload: bytes) -> None:
    """All of `payload` to stdout, past Python's buffers. Raises BrokenPipeError when the reader is gone."""
    descriptor = sys.stdout.fileno()
    view = memoryview(payload)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody we share the terminal or pipe with made it non-blocking
            select.select((), (descriptor,), ())


def write_json(piece: Piece) -> None:
    """One JSON object a line: output need not be text, so the bytes are base64, as in JSON forms of DataChunk."""
    fields: dict[str, object] = {"offset": piece.offset, "payload": base64.b64encode(piece.payload).decode()}
    if piece.attempt:
        fields["attempt"] = piece.attempt
    if piece.times:
        fields["times"] = [{"position": begin, "time": stamps.rfc3339(time_ns)} for begin, time_ns in piece.times]
    write_all(json.dumps(fields).encode() + b"\n")
