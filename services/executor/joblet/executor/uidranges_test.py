import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from joblet.common.errors import ResourceExhausted
from joblet.executor.uidranges import CHUNK_IDS, UidRanges, claim, range_bases

FIRST = 0x7000_0000
CHUNK = FIRST // CHUNK_IDS


def claimed(directory: Path, state: str, *, first: int = FIRST, count: int = 100, size: int = 65536) -> UidRanges:
    """Ranges for an executor with this state directory, on a machine whose processes are in `directory`/proc."""
    state_dir, proc = directory / state, directory / "proc"
    state_dir.mkdir(exist_ok=True)
    proc.mkdir(exist_ok=True)
    return claim(first, size, count, state_dir, directory / "locks", proc)


def locks(directory: Path) -> list[int]:
    return sorted(int(path.stem.rpartition("-")[2]) for path in (directory / "locks").iterdir())


def process(directory: Path, uid: int) -> None:
    entry = directory / "proc" / str(uid % 10000)
    entry.mkdir(parents=True)
    (entry / "status").write_text(f"Name:\tjob\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t0\t0\t0\t0\n")


def crash(ranges: UidRanges) -> None:
    """What kill -9 does: the kernel drops the locks, the files stay."""
    for lock in ranges._locks.values():
        os.close(lock)
    ranges._locks.clear()


def test_ranges_of_a_chunk_do_not_overlap_and_stay_inside() -> None:
    bases = range_bases(CHUNK, 65536)
    assert (bases[0], bases[-1] + 65536, len(bases)) == (FIRST, FIRST + CHUNK_IDS, 256)
    assert len(range_bases(CHUNK, CHUNK_IDS)) == 1
    assert range_bases(255, 65536)[-1] + 65536 <= 2**32 - 1


def test_executors_of_one_machine_never_share_an_id(tmp_path: Path) -> None:
    with ExitStack() as stack:
        executors = [claimed(tmp_path, f"state{number}") for number in range(5)]
        for ranges in executors:
            stack.callback(ranges.release, ())
        bases = [base for ranges in executors for base in ranges.bases]
        assert len(bases) == len(set(bases)) == 5 * 256
        assert all(base % 65536 == 0 for base in bases)


def test_different_starts_and_sizes_do_not_overlap_either(tmp_path: Path) -> None:
    small = claimed(tmp_path, "a")
    large = claimed(tmp_path, "b", first=FIRST + 5, count=2, size=1 << 23)
    assert small.chunks == (CHUNK,)
    assert large.chunks == (CHUNK + 1,)
    assert large.bases == (FIRST + CHUNK_IDS, FIRST + CHUNK_IDS + (1 << 23))


def test_as_many_chunks_as_are_needed(tmp_path: Path) -> None:
    ranges = claimed(tmp_path, "a", count=600)
    assert (len(ranges.chunks), len(ranges.bases)) == (3, 768)


def test_a_clean_end_leaves_no_file(tmp_path: Path) -> None:
    claimed(tmp_path, "a").release(())
    assert locks(tmp_path) == []


def test_running_jobs_keep_their_chunk_marked(tmp_path: Path) -> None:
    ranges = claimed(tmp_path, "a", count=300)
    ranges.release([FIRST + 65536])
    assert locks(tmp_path) == [CHUNK]


def test_a_restart_gets_its_own_chunk_back_first(tmp_path: Path) -> None:
    other = claimed(tmp_path, "other")
    mine = claimed(tmp_path, "mine")
    assert mine.chunks == (CHUNK + 1,)
    process(tmp_path, mine.bases[0] + 1000)
    crash(mine)
    other.release(())
    again = claimed(tmp_path, "mine")
    assert again.chunks == (CHUNK + 1,)


def test_a_chunk_with_running_jobs_is_not_taken_over(tmp_path: Path) -> None:
    gone = claimed(tmp_path, "gone")
    process(tmp_path, gone.bases[7] + 1000)
    crash(gone)
    assert claimed(tmp_path, "new").chunks == (CHUNK + 1,)


def test_an_abandoned_chunk_without_processes_is_used_again(tmp_path: Path) -> None:
    crash(claimed(tmp_path, "gone"))
    assert claimed(tmp_path, "new").chunks == (CHUNK,)


def test_a_machine_without_room(tmp_path: Path) -> None:
    last = 255 * CHUNK_IDS
    first = claimed(tmp_path, "a", first=last, count=10)
    with pytest.raises(ResourceExhausted, match="no user id ranges left for 10 jobs"):
        claimed(tmp_path, "b", first=last, count=10)
    assert locks(tmp_path) == [255]
    first.release(())


def test_a_failed_claim_leaves_other_locks_alone(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    held = os.open(tmp_path / "locks" / "uid-ranges-255.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ResourceExhausted):
            claimed(tmp_path, "a", first=254 * CHUNK_IDS, count=300)
        assert locks(tmp_path) == [255]
    finally:
        os.close(held)
