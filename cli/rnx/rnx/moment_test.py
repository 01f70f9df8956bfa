import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from joblet.common.errors import InvalidArgument
from rnx import moment

NOW = datetime(2024, 1, 15, 12, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=2)))  # 10:00 in UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", NOW),
        ("10m", NOW - timedelta(minutes=10)),
        ("1h30m", NOW - timedelta(minutes=90)),
        ("250ms", NOW - timedelta(milliseconds=250)),
        ("2d", NOW - timedelta(days=2)),
        ("2024-01-15T10:30:00Z", datetime(2024, 1, 15, 10, 30, tzinfo=UTC)),
        ("2024-01-15t10:30:00.123456789z", datetime(2024, 1, 15, 10, 30, 0, 123_456, tzinfo=UTC)),
        ("2024-01-15T10:30:00-05:00", datetime(2024, 1, 15, 15, 30, tzinfo=UTC)),
        ("2024-01-14 10:30", datetime(2024, 1, 14, 8, 30, tzinfo=UTC)),
        ("2024-01-14", datetime(2024, 1, 13, 22, 0, tzinfo=UTC)),
        ("11:30", datetime(2024, 1, 15, 9, 30, tzinfo=UTC)),
        ("11:30:15Z", datetime(2024, 1, 15, 11, 30, 15, tzinfo=UTC)),
    ],
)
def test_a_time_however_it_is_written(text: str, expected: datetime) -> None:
    assert moment.parse(text, NOW) == moment.nanoseconds(expected)


def test_nanoseconds_are_exact() -> None:
    assert moment.nanoseconds(datetime(2100, 1, 1, 0, 0, 0, 1, tzinfo=UTC)) == 4_102_444_800_000_001_000


@pytest.mark.parametrize("text", ["", "yesterday", "10", "25:00", "2024-13-01", "-5m", "10m ago"])
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r'expected a time such as "10m" \(ago\), "14:30", .*, got "'):
        moment.parse(text, NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", "2024-01-15T10:00:30.250000Z"),
        ("2min", "2024-01-15T10:02:00.250000Z"),
        ("1h30m", "2024-01-15T11:30:00.250000Z"),
        ("1d", "2024-01-16T10:00:00.250000Z"),
        ("2024-01-15T12:30:00Z", "2024-01-15T12:30:00Z"),
        ("2024-01-15t12:30+02:00", "2024-01-15T10:30:00Z"),
        ("2024-01-20", "2024-01-19T23:00:00Z"),
        ("2024-01-20 10:30", "2024-01-20T09:30:00Z"),
        ("2024-01-20T10:30:15", "2024-01-20T09:30:15Z"),
        ("2024-07-20 10:30", "2024-07-20T08:30:00Z"),  # summer there, whatever it is today
    ],
)
def test_a_time_to_come_in_the_zone_of_here(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        assert moment.scheduled(text, NOW) == expected
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "tomorrow", "10", "11:30", "2024-13-01", "-5m", "in 10m"])
def test_no_time_to_come(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r'expected a time such as "30s", "1h30m", .*, got "'):
        moment.scheduled(text, NOW)
