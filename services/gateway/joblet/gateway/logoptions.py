"""What a GetJobLogs asks for: checked, and as the request that its node's logstore gets. Values in, values out."""

import time

from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api import job_pb2
from joblet.api.internal import logstore_pb2
from joblet.common.errors import InvalidArgument
from joblet.common.units import NS_PER_SECOND

LAST_NS = 2**63 - 1  # in the year 2262: what a signed 64-bit number of nanoseconds can say


def check(request: job_pb2.GetJobLogsReq) -> None:
    """Raises InvalidArgument naming the field."""
    for field in ("offset", "tailLines", "attempt"):
        value = getattr(request, field)
        if value < 0:
            raise InvalidArgument(f"{field} must not be negative: {value}", field=field)
    for field, is_given in (("since", request.HasField("since")), ("until", request.HasField("until"))):
        if is_given:
            _check_time(field, getattr(request, field))
    if request.offset and is_searched(request):
        other = "tailLines" if request.HasField("tailLines") else "since"
        raise InvalidArgument(f"offset and {other} exclude each other: both say where to begin", field="offset")
    both = request.HasField("since") and request.HasField("until")
    if both and nanoseconds(request.since) >= nanoseconds(request.until):
        raise InvalidArgument("since must be before until", field="since")


def read_request(job_id: str, request: job_pb2.GetJobLogsReq, reached: int | None) -> logstore_pb2.ReadLogsRequest:
    """For the logstore; `reached` is the offset to go on from once it is known."""
    wanted = logstore_pb2.ReadLogsRequest(
        job_id=job_id,
        offset=request.offset if reached is None else reached,
        no_follow=request.noFollow,
        timestamps=request.timestamps,
    )
    if request.HasField("until"):
        wanted.until_ns = nanoseconds(request.until)
    if reached is None and request.HasField("tailLines"):
        wanted.tail_lines = request.tailLines
    if reached is None and request.HasField("since"):
        wanted.since_ns = nanoseconds(request.since)
    return wanted


def lasts_to_the_end(request: job_pb2.GetJobLogsReq) -> bool:
    """Whether a stream that is complete now is so because the job has ended."""
    return not request.noFollow and not (request.HasField("until") and nanoseconds(request.until) <= time.time_ns())


def is_searched(request: job_pb2.GetJobLogsReq) -> bool:
    """Whether where it begins has to be looked for."""
    return request.HasField("tailLines") or request.HasField("since")


def seconds_left(request: job_pb2.GetJobLogsReq) -> float | None:
    """Until the stream ends by itself, whatever the job does; None: only with the job."""
    if not request.HasField("until"):
        return None
    return max(0.0, (nanoseconds(request.until) - time.time_ns()) / NS_PER_SECOND)


def _check_time(field: str, value: Timestamp) -> None:
    if not 0 <= value.nanos < NS_PER_SECOND or not 0 <= nanoseconds(value) <= LAST_NS:
        raise InvalidArgument(f"{field} must be a time from 1970 to 2262", field=field)


def nanoseconds(value: Timestamp) -> int:
    return value.seconds * NS_PER_SECOND + value.nanos
