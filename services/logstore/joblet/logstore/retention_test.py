"""What goes and what stays, decided from values."""

from dataclasses import replace

from joblet.common.config import LogRetentionConfig
from joblet.logstore.layout import LogState
from joblet.logstore.retention import Limits, Reason, front, removals

MIB = 1 << 20
NONE = Limits(age_ns=0, job_bytes=0, total_bytes=0, free_bytes=0)


def ended(name: str, at: int, size: int = 10, archive: str = "") -> LogState:
    return LogState(name, size, 0, size, at, True, archive, False)


def running(name: str, size: int = 10) -> LogState:
    return LogState(name, size, 0, size, None, False, "", False)


def removed(
    *logs: LogState, limits: Limits, now: int = 0, free: int = 0, archive: str = ""
) -> list[tuple[str, Reason]]:
    return [(log.job_id, reason) for log, reason in removals(logs, limits, now, free, archive)]


def test_the_configurations_units() -> None:
    config = LogRetentionConfig(max_age_seconds=2.5, max_job_size_mb=1, max_total_mb=2, min_free_mb=3)
    assert Limits.of(config) == Limits(2_500_000_000, MIB, 2 * MIB, 3 * MIB)


def test_without_limits_everything_stays() -> None:
    assert removed(ended("a", 1), running("b"), limits=NONE, now=2**62) == []


def test_age_counts_from_the_end_and_only_then() -> None:
    logs = (ended("old", 100), ended("new", 101), running("runs"))
    assert removed(*logs, limits=replace(NONE, age_ns=50), now=150) == [("old", Reason.AGE)]


def test_too_much_in_total_goes_oldest_first_and_only_as_much_as_needed() -> None:
    logs = (running("runs", 100), ended("c", 3), ended("a", 1), ended("b", 2))
    assert removed(*logs, limits=replace(NONE, total_bytes=112)) == [("a", Reason.TOTAL), ("b", Reason.TOTAL)]
    assert removed(*logs, limits=replace(NONE, total_bytes=1)) == [(name, Reason.TOTAL) for name in "abc"]


def test_room_is_made_oldest_first() -> None:
    logs = (ended("b", 2), ended("a", 1), running("runs"))
    assert removed(*logs, limits=replace(NONE, free_bytes=20), free=12) == [("a", Reason.ROOM)]


def test_with_an_archive_only_what_is_in_it_goes() -> None:
    logs = (ended("a", 1), ended("b", 2, archive="s3://other"), ended("c", 3, archive="s3://x"))
    assert removed(*logs, limits=replace(NONE, total_bytes=1), archive="s3://x") == [("c", Reason.TOTAL)]


def test_the_front_goes_when_a_log_is_an_eighth_over_its_size() -> None:
    limits = replace(NONE, job_bytes=800)
    assert front(running("a", 900), limits) is None
    assert front(running("a", 901), limits) == 101
    assert front(replace(running("a", 1001), first=101), limits) is None
    assert front(replace(running("a", 1002), first=101), limits) == 202
    assert front(running("a", 10**9), NONE) is None


def test_what_is_sealed_keeps_its_front() -> None:
    assert front(replace(running("a", 901), sealed=True), replace(NONE, job_bytes=800)) is None
