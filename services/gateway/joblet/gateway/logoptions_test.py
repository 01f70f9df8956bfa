"""The options of GetJobLogs: which are refused, and what the logstore is asked for."""

import time
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api.internal.logstore_pb2 import ReadLogsRequest
from joblet.api.job_pb2 import GetJobLogsReq
from joblet.common.errors import InvalidArgument
from joblet.gateway import logoptions

EARLY, LATE = Timestamp(seconds=1_700_000_000), Timestamp(seconds=1_700_000_000, nanos=5)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"offset": -1}, "offset must not be negative: -1"),
        ({"tailLines": -5}, "tailLines must not be negative: -5"),
        ({"since": Timestamp(seconds=-1)}, "since must be a time from 1970 to 2262"),
        ({"until": Timestamp(nanos=1_000_000_000)}, "until must be a time from 1970 to 2262"),
        ({"until": Timestamp(seconds=10**10)}, "until must be a time from 1970 to 2262"),
        ({"offset": 1, "tailLines": 0}, "offset and tailLines exclude each other: both say where to begin"),
        ({"offset": 1, "since": EARLY}, "offset and since exclude each other: both say where to begin"),
        ({"since": EARLY, "until": EARLY}, "since must be before until"),
        ({"since": LATE, "until": EARLY}, "since must be before until"),
    ],
)
def test_refused_by_name(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        logoptions.check(GetJobLogsReq(uuid="a", **wrong))
    assert str(caught.value) == text


def test_what_goes_together() -> None:
    logoptions.check(GetJobLogsReq(tailLines=3, since=EARLY, until=LATE, noFollow=True, timestamps=True))
    logoptions.check(GetJobLogsReq(offset=3, until=EARLY, timestamps=True))


def test_where_to_begin_is_asked_for_until_it_is_known() -> None:
    request = GetJobLogsReq(tailLines=0, since=LATE, until=LATE, noFollow=True, timestamps=True)
    always: dict[str, Any] = {
        "job_id": "a",
        "until_ns": 1_700_000_000 * 10**9 + 5,
        "no_follow": True,
        "timestamps": True,
    }
    assert logoptions.read_request("a", request, None) == ReadLogsRequest(
        tail_lines=0, since_ns=1_700_000_000 * 10**9 + 5, **always
    )
    assert logoptions.read_request("a", request, 7) == ReadLogsRequest(offset=7, **always)


def test_which_streams_last_to_the_end_of_the_job() -> None:
    tomorrow = Timestamp(seconds=int(time.time()) + 86400)
    assert logoptions.lasts_to_the_end(GetJobLogsReq())
    assert logoptions.lasts_to_the_end(GetJobLogsReq(until=tomorrow))
    assert not logoptions.lasts_to_the_end(GetJobLogsReq(until=EARLY))
    assert not logoptions.lasts_to_the_end(GetJobLogsReq(until=tomorrow, noFollow=True))
