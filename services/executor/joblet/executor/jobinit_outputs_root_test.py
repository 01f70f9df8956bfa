"""jobinit alone on the real kernel: what is kept of a job's /work at its end, whatever the job has left there."""

from pathlib import Path

import pytest

from joblet.common.tree import Kind
from joblet.executor.collecting_for_tests import collected, held_up, left_out, script
from joblet.executor.jobinit_for_tests import Job

pytestmark = [pytest.mark.root, pytest.mark.single_threaded]

MOST_NS = 2**63 - 1


def test_what_a_job_keeps(job: Job) -> None:
    script(job, "mkdir d; echo in > d/file; chmod 750 d; ln -s d/file link; touch -d @5.5 d/file")
    kept = collected(job)
    assert {path: (entry.kind, entry.mode, content) for path, (entry, content) in kept.items()} == {
        b"d": (Kind.DIRECTORY, 0o750, b""), b"d/file": (Kind.FILE, 0o644, b"in\n"),
        b"link": (Kind.LINK, 0o777, b"d/file"),
    }  # fmt: skip
    assert kept[b"d/file"][0].mtime_ns == 5_500_000_000
    assert left_out(job) == []


@pytest.mark.parametrize("seconds", [1 << 40, -(1 << 40), 1 << 62])
def test_times_that_nanoseconds_cannot_hold(job: Job, seconds: int) -> None:
    script(job, f"touch f; python3 -ISc 'import os; os.utime(\"f\", ({seconds}, {seconds}))'")
    ((entry, _),) = collected(job).values()
    assert abs(entry.mtime_ns) > MOST_NS - 2_000_000_000
    assert (entry.mtime_ns > 0) == (seconds > 0)


def test_names_count_as_well(job: Job) -> None:
    """The result is not larger than it may be, and whoever it is for learns what is missing."""
    most = 100_000
    deep = "/".join(["n" * 250] * 8)
    script(job, f"mkdir -p {deep}; cd {deep}; for n in $(seq 200); do : > $n; done", output_bytes=most)
    assert (job.directory / "outputs").stat().st_size < most + 8192
    assert 0 < len(collected(job)) < 100
    assert "too large" in {why for why, _ in left_out(job)}


def test_a_disk_without_room_for_all(job: Job, small_log: Path, tmp_path: Path) -> None:
    """What was cut short leaves no trace; what fits is kept."""
    log = tmp_path / "log"
    log.mkdir()
    job.directory = small_log
    script(job, "echo small > 1; head -c 1000000 /dev/zero > 2; echo small > 3", log=log)
    assert {name: content for name, (_, content) in collected(job).items()} == {b"1": b"small\n", b"3": b"small\n"}
    assert left_out(job) == [("the node's disk is full", b"2")]


def test_a_collector_that_cannot_go_on_is_ended_after_its_time(job: Job) -> None:
    with held_up(job, output_ms=300) as collector:
        assert collector is not None
        assert job.wait_end() == 0
    assert not (job.directory / "outputs").exists()
